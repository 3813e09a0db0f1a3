"""One whole run on one rank: set up, epochs, checkpoints, close."""

from __future__ import annotations

from pathlib import Path

from .batch import Memory
from .data import open_data
from .data.loader import Loader
from .data.source import Data
from .epoch import run_epoch
from .errors import DONE, DataError, JobError
from .job import Job
from .ledger import Homes, Ledger
from .passes import Stages
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
from .selection.method import OBSERVED, Method, first_ledger
from .selection.scores import About, write_scores
from .shards import ShardLoader, Shards
from .training.learner import Learner
from .world.comm import Comm
from .world.gradients import Gradients
from .world.world import World, settle


def run(job: Job, directory: Path, comm: Comm, resume: bool = False, scratch: str | None = None) -> int:
    """Train the job in its run directory, from its newest checkpoint if ``resume``; return the exit code.

    scratch: a folder on each node's own disk, for data.placement local.
    Raises UserError, on all ranks alike and before anything is trained, if the job cannot be run as it is.
    """
    world = settle(comm)
    gradients = Gradients(world)
    _train(job, directory, world, gradients, resume, scratch)
    gradients.close()
    return DONE


def set_up(job: Job, world: World, method: Method, scratch: str | None = None) -> tuple[Stages, Data]:
    """Return everything that the job's epochs pass through, with this method, and the data set.

    With data.placement local, ranks read from stores in the scratch folder, which are yet to be filled.

    Raises UserError on all ranks alike.
    """
    comm, everyone = world.comm, Everyone(world.comm)
    data = comm.agreed(lambda: open_data(job.data, job.seed))
    everyone.agree((data.fingerprint, len(data.train)), "the data set")
    global_batch = comm.agreed(lambda: fitting_batch(job, len(data.train), world.size))
    shards = comm.agreed(lambda: Shards(job.data, data, scratch, world)) if job.data.placement == "local" else None
    data = shards.lying_here(data) if shards else data
    train = Loader(data.train, job.data.workers, world.device)
    observed = [name for name in method.columns if name in OBSERVED]
    learner = comm.agreed(
        lambda: Learner(
            job.training.in_epochs(len(data.train), global_batch), job.model, world, data.n_classes, data.shape, job.seed, observed,
            data.target_shape,
        )
    )
    stages = Stages(
        world=world,
        everyone=everyone,
        method=method,
        homes=Homes(len(data.train), world.size),
        train=ShardLoader(train, shards) if shards else train,
        validation=Loader(data.validation, job.data.workers, world.device),
        learner=learner,
        progress=Progress(world.rank, job.training.epochs),
        global_batch=global_batch,
        accumulate=job.training.accumulate,
        shards=shards,
    )
    return stages, data


def _train(job: Job, directory: Path, world: World, gradients: Gradients, resume: bool, scratch: str | None) -> None:
    comm = world.comm
    stages, data = set_up(job, world, job.selection, scratch)
    ledger = first_ledger(job.selection, stages.homes, comm, data.fingerprint)
    ledger = stages.shards.placed(ledger) if stages.shards else ledger
    memory = job.selection.first_memory() if isinstance(job.selection, BatchMethod) else {}
    found = comm.on_first(lambda: open_run(directory, job, resume))
    stages.learner.join(gradients, data.shape)
    done, facts = 0, None
    if found:
        facts, ledger = checkpoint.load_facts(found), comm.agreed(lambda: checkpoint.load_ledger(found, ledger))
        memory = checkpoint.load_memory(found, world.rank) if memory else memory
        stages.learner.load_state_dict(checkpoint.load_learner(found, world.device))
        done = facts["epoch"] + 1

    metrics = Metrics(directory)
    if world.rank == 0:
        metrics.rewind(facts and facts["line"])
        write_provenance(directory, {"ranks": world.size, "global_batch": stages.global_batch, "data": data.fingerprint})
    _greet(job, stages, found, resume)
    if stages.shards:
        if facts and facts["ranks"] != world.size:
            ledger = stages.shards.placed(ledger)
        n_bytes = stages.shards.settle(ledger, stages.progress.bar, may_hide(job.selection))
        stages.progress.say(f"staged {n_bytes / 1e9:.3g} GB in {stages.shards.folder.parent}")
    for number in range(done, job.training.epochs):
        epoch = Epoch(number, job.training.epochs, job.seed)
        ledger, memory = _epoch(epoch, ledger, memory, job, directory, stages, metrics, data)


def _epoch(
    epoch: Epoch, ledger: Ledger, memory: Memory, job: Job, directory: Path, stages: Stages, metrics: Metrics, data: Data
) -> tuple[Ledger, Memory]:
    """Run one epoch and write down what it left: ledger file, weights, checkpoint, line of metrics."""
    world = stages.world
    clock = Clock(world.device)
    outcome = run_epoch(epoch, ledger, memory, stages, clock)
    parts, line = stages.learner.parts.take(), outcome.line
    if job.record.ledger:
        write_ledger(directory, epoch.number, outcome.planned_on, outcome.plan, world.comm)
    if "importance" in outcome.ledger.extra and (stages.method.weighs_after(epoch) or epoch.number in job.record.weights_at):
        _write_weights(directory, epoch, outcome.ledger, job, world, data)
    with clock("checkpoint"):
        last = epoch.number == epoch.total - 1
        if last or (epoch.number + 1) % job.record.checkpoint_every == 0:
            checkpoint.save(
                directory / "checkpoints",
                f"epoch_{epoch.number:04d}",
                stages.learner.state_dict(),
                outcome.ledger,
                outcome.memory,
                {"epoch": epoch.number, "ranks": world.size, "line": {**line, "seconds": clock.seconds(parts)}},
                world.comm,
                job.record.keep,
            )
    line["seconds"] = clock.seconds(parts)
    if world.rank == 0:
        metrics.add(line)
        stages.progress.epoch(line)
    return outcome.ledger, outcome.memory


def _write_weights(directory: Path, epoch: Epoch, ledger: Ledger, job: Job, world: World, data: Data) -> None:
    how = f"{job.name}, seed {job.seed}, after epoch {epoch.number}"
    about = About(job.selection.method, how, job.data.name, data.fingerprint, ledger.n_total, 0.0, 0, 0)
    path = directory / "weights" / f"epoch_{epoch.number:04d}.h5"
    write_scores(path, about, ledger.extra["importance"], world.comm, ledger.extra.get("label"))


def fitting_batch(job: Job, n: int, n_ranks: int) -> int:
    """Return the global batch. Raises a UserError if n samples, batch and ranks do not fit together."""
    if n_ranks > n:
        raise DataError(f"{job.data.name} has {n} samples for {n_ranks} ranks; use at most one rank a sample")
    try:
        return job.training.batch(n_ranks)
    except ValueError as problem:
        raise JobError(f"{problem}") from None


def may_hide(method: Method) -> float:
    """Return the share of the samples that a method's options let it hide; 0 where they name none."""
    return float(getattr(method, "max_fraction", getattr(method, "fraction", 0.0)))


def _greet(job: Job, stages: Stages, found: Path | None, resume: bool) -> None:
    world, say = stages.world, stages.progress.say
    ranks = f"{world.size} ranks" if world.size > 1 else "1 rank"
    say(
        f"{job.name}: {job.selection.method} on {job.data.name}, {stages.homes.n} samples, {ranks} on {world.device.type}, "
        f"global batch {stages.global_batch}"
    )
    for warning in job.selection.warnings(job.training.epochs):
        say(f"warning: {warning}")
    if found:
        say(f"resuming after {found.name}")
    elif resume:
        say("no checkpoint yet: beginning at epoch 0")
