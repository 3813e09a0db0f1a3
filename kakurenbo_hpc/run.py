"""One whole run on one rank: set up, epochs, checkpoints, close."""

from __future__ import annotations

from pathlib import Path

from .batch import Memory
from .data.loader import Loader
from .data.source import Data
from .epoch import Stages, run_epoch
from .errors import DONE, DataError, JobError
from .job import Job
from .ledger import Homes, Ledger
from .plan import Epoch
from .record import checkpoint
from .record.clock import Clock
from .record.directory import open_run
from .record.ledger_file import write_ledger
from .record.metrics import Metrics
from .record.progress import Progress
from .record.provenance import write_provenance
from .selection.batch_level import BatchMethod
from .selection.everyone import Everyone
from .selection.method import OBSERVED, Method
from .training.learner import Learner
from .world.comm import Comm
from .world.gradients import Gradients
from .world.world import World, settle


def run(job: Job, directory: Path, comm: Comm, resume: bool = False) -> int:
    """Train the job in its run directory, from its newest checkpoint if ``resume``; return the exit code.

    Raises UserError, on all ranks alike and before anything is trained, if the job cannot be run as it is.
    """
    world = settle(comm)
    gradients = Gradients(world)
    _train(job, directory, world, gradients, resume)
    gradients.close()
    return DONE


def _train(job: Job, directory: Path, world: World, gradients: Gradients, resume: bool) -> None:
    comm = world.comm
    data = comm.agreed(lambda: job.data.open(job.seed))
    global_batch = comm.agreed(lambda: _check(job, data, world))
    learner = _learner(job, data, world)
    found = comm.on_first(lambda: open_run(directory, job, resume))

    homes = Homes(len(data.train), world.size)
    everyone = Everyone(comm)
    everyone.agree((data.fingerprint, len(data.train)), "the data set")
    learner.join(gradients, data.shape)
    ledger, memory, done = _begin(job.selection, homes, data, world), _first_memory(job.selection), 0
    if found:
        facts, ledger = checkpoint.load_facts(found), comm.agreed(lambda: checkpoint.load_ledger(found, ledger))
        memory = checkpoint.load_memory(found, world.rank) if memory else memory
        learner.load_state_dict(checkpoint.load_learner(found, world.device))
        done = facts["epoch"] + 1

    stages = Stages(
        world=world,
        everyone=everyone,
        method=job.selection,
        homes=homes,
        train=Loader(data.train, job.data.workers, world.device),
        validation=Loader(data.validation, job.data.workers, world.device),
        learner=learner,
        progress=Progress(world.rank, job.training.epochs),
        global_batch=global_batch,
        accumulate=job.training.accumulate,
    )
    metrics = Metrics(directory)
    if world.rank == 0:
        metrics.rewind(facts["line"] if found else None)
        write_provenance(directory, {"ranks": world.size, "global_batch": global_batch, "data": data.fingerprint})
    _greet(stages.progress, job, stages, found, resume)

    for number in range(done, job.training.epochs):
        epoch = Epoch(number, job.training.epochs, job.seed)
        ledger, memory = _epoch(epoch, ledger, memory, job, directory, stages, metrics)


def _epoch(
    epoch: Epoch, ledger: Ledger, memory: Memory, job: Job, directory: Path, stages: Stages, metrics: Metrics
) -> tuple[Ledger, Memory]:
    """Run one epoch and write down what it left: ledger file, checkpoint, line of metrics."""
    world = stages.world
    clock = Clock(world.device)
    before = ledger
    ledger, memory, plan, line = run_epoch(epoch, ledger, memory, stages, clock)
    parts = stages.learner.parts.take()
    if job.record.ledger:
        write_ledger(directory, epoch.number, before, plan, world.comm)
    with clock("checkpoint"):
        last = epoch.number == epoch.total - 1
        if last or (epoch.number + 1) % job.record.checkpoint_every == 0:
            checkpoint.save(
                directory / "checkpoints",
                f"epoch_{epoch.number:04d}",
                stages.learner.state_dict(),
                ledger,
                memory,
                {"epoch": epoch.number, "ranks": world.size, "line": {**line, "seconds": clock.seconds(parts)}},
                world.comm,
                job.record.keep,
            )
    line["seconds"] = clock.seconds(parts)
    if world.rank == 0:
        metrics.add(line)
        stages.progress.epoch(line)
    return ledger, memory


def _begin(method: Method, homes: Homes, data: Data, world: World) -> Ledger:
    """Return the ledger before the first epoch: nothing seen, and what the method brings along."""
    ledger = Ledger.unseen(homes.n, *homes.rows(world.rank), method.columns)
    return ledger.with_columns(
        world.comm.agreed(lambda: method.initial(range(*homes.rows(world.rank)), homes.n, data.fingerprint))
    )


def _first_memory(method: Method) -> Memory:
    return method.first_memory() if isinstance(method, BatchMethod) else {}


def _check(job: Job, data: Data, world: World) -> int:
    """Return the global batch. Raises a UserError if data, batch and ranks do not fit together."""
    if world.size > len(data.train):
        raise DataError(f"{job.data.name} has {len(data.train)} samples for {world.size} ranks; use at most one rank a sample")
    try:
        return job.training.batch(world.size)
    except ValueError as problem:
        raise JobError(f"{problem}") from None


def _learner(job: Job, data: Data, world: World) -> Learner:
    observed = [name for name in job.selection.columns if name in OBSERVED]
    return world.comm.agreed(
        lambda: Learner(job.training, job.model, world, data.n_classes, data.shape, job.seed, observed)
    )


def _greet(progress: Progress, job: Job, stages: Stages, found: Path | None, resume: bool) -> None:
    world = stages.world
    ranks = f"{world.size} ranks" if world.size > 1 else "1 rank"
    progress.say(
        f"{job.name}: {job.selection.method} on {job.data.name}, {stages.homes.n} samples, {ranks} on {world.device.type}, "
        f"global batch {stages.global_batch}"
    )
    for warning in job.selection.warnings(job.training.epochs):
        progress.say(f"warning: {warning}")
    if found:
        progress.say(f"resuming after {found.name}")
    elif resume:
        progress.say("no checkpoint yet: beginning at epoch 0")
