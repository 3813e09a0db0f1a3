"""One whole run on one rank: set up, epochs, checkpoints, close."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from ..config.job import Job
from ..core.batch import MethodState
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch
from ..data import open_data
from ..data.dataset import DatasetSplits
from ..data.loader import Loader
from ..distributed.comm import Comm
from ..distributed.gradient_sync import GradientSync, open_gradient_sync
from ..distributed.preemption import Preemption
from ..distributed.world import World
from ..errors import (
    DONE,
    REQUEUE,
    TERMINATED,
    DataError,
    JobError,
    RunDirectoryError,
    TrainingError,
    UserError,
)
from ..local_data.shards import ShardLoader, Shards
from ..rundir.checkpoint.async_writer import CheckpointWriter
from ..rundir.checkpoint.manifest import load_facts, validate_checkpoint
from ..rundir.checkpoint.shards import (
    MidEpoch,
    RankState,
    load_learner,
    load_ledger,
    load_method_state,
    load_mid_epoch,
    reading,
)
from ..rundir.checkpoint.snapshot import Snapshot
from ..rundir.console import Console
from ..rundir.job_diff import check_same, differences
from ..rundir.ledger_file import write_ledger
from ..rundir.lock import Lock
from ..rundir.metrics import Metrics
from ..rundir.path_checks import check_place, in_words
from ..rundir.provenance import write_provenance
from ..rundir.run_dir import enter_run, open_run, writing_to
from ..rundir.timers import StageTimer
from ..rundir.watchdog.heartbeat import Heartbeat
from ..rundir.watchdog.watchdog import Watchdog
from ..selection.global_stats import GlobalStats
from ..selection.method import FORWARD_COLUMNS, Method, init_ledger
from ..selection.score_file import ScoreInfo, write_scores
from ..training.learner import Learner
from .context import Context
from .epoch import EpochResult, run_epoch
from .pass_progress import PassProgress, StopEarly


def run(
    job: Job,
    directory: Path,
    comm: Comm,
    resume: bool = False,
    scratch: str | None = None,
    allow_changes: bool = False,
) -> int:
    """Train the job in its run directory, from its newest checkpoint if ``resume``; return the exit code.

    scratch: a folder on each node's own disk, for data.placement local. allow_changes: go on even if it was another job.
    Raises UserError, on all ranks alike and before anything is trained, if the job cannot be run as it is.
    """
    comm.on_rank_zero(lambda: check_place(directory))
    if resume and comm.on_rank_zero(lambda: _is_finished(job, directory, allow_changes)):
        Console(comm.rank, job.training.epochs).print_line(
            f"{directory}: all {job.training.epochs} epochs are done"
        )
        return DONE
    world = World.detect(comm)
    gradients, heartbeat = open_gradient_sync(job.world, job.training.accumulate, world), Heartbeat()
    watch = Watchdog(heartbeat, directory, comm.rank, comm.size, job.record.hang_timeout, comm.abort)
    try:
        with (
            comm.run_or_raise_together(lambda: Preemption(comm, directory)) as stop,
            Lock(directory) as lock,
            watch,
        ):
            code = _Run(job, directory, world, stop, heartbeat, scratch).train(
                gradients, resume, allow_changes, lock
            )
    except UserError as problem:
        if problem.on_all_ranks:  # all ranks are here, and may go on to another run
            gradients.close()
        raise
    gradients.close()
    return code


def set_up(
    job: Job,
    world: World,
    method: Method,
    scratch: str | None = None,
    pass_progress: PassProgress | None = None,
    directory: Path | None = None,
    heartbeat: Heartbeat | None = None,
) -> tuple[Context, DatasetSplits]:
    """Return everything that the job's epochs pass through, with this method, and the data set.

    With data.placement local, ranks read from stores in the scratch folder, which are yet to be filled. directory: the run's.

    Raises UserError on all ranks alike.
    """
    comm, everyone = world.comm, GlobalStats(world.comm)
    data = open_data(job.data, job.seed, comm, directory)
    everyone.agree((data.fingerprint, len(data.train)), "the data set")
    global_batch = comm.run_or_raise_together(lambda: fitting_batch(job, len(data.train), world.size))
    shards = (
        comm.run_or_raise_together(lambda: Shards(job.data, data, scratch, world))
        if job.data.placement == "local"
        else None
    )
    data = shards.with_local_files(data) if shards else data
    train = Loader(data.train, job.data.workers, world.device)
    observed = [name for name in method.columns if name in FORWARD_COLUMNS]
    learner = comm.run_or_raise_together(
        lambda: Learner(
            job.training.in_epochs(len(data.train), global_batch),
            job.model,
            world,
            data.n_classes,
            data.shape,
            job.seed,
            observed,
            data.target_shape,
        )
    )
    context = Context(
        world=world,
        everyone=everyone,
        method=method,
        homes=Homes(len(data.train), world.size),
        train=ShardLoader(train, shards) if shards else train,
        validation=Loader(data.validation, job.data.workers, world.device),
        learner=learner,
        progress=Console(world.rank, job.training.epochs),
        global_batch=global_batch,
        accumulate=job.training.accumulate,
        shards=shards,
        pass_progress=pass_progress or PassProgress(),
        heartbeat=heartbeat or Heartbeat(),
    )
    return context, data


class _Run:
    """A job on its way: what its epochs pass through, and what they leave in the run directory."""

    def __init__(
        self,
        job: Job,
        directory: Path,
        world: World,
        stop: Preemption,
        heartbeat: Heartbeat,
        scratch: str | None,
    ):
        self._job, self._directory, self._world, self._stop = job, directory, world, stop
        self._snapshot = Snapshot(pinned=world.device.type == "cuda")
        print_line = Console(world.rank, job.training.epochs).print_line
        self._saver = CheckpointWriter(
            directory / "checkpoints",
            job.record.keep,
            world.comm,
            self._snapshot,
            print_line,
            heartbeat.touch,
        )
        self._stages, self._data = set_up(
            job, world, job.selection, scratch, PassProgress(stop, self._saver), directory, heartbeat
        )
        self._metrics = Metrics(directory)
        self._found: Path | None = None  # the checkpoint that it goes on from
        self._last: dict | None = None  # the line of the last whole epoch
        self._before: dict[str, float] = {}  # seconds of an epoch that is taken up again
        self._facts: dict = {
            "ranks": world.size,
            "global_batch": self._stages.global_batch,
            "data": self._data.fingerprint,
            "changes": [],
        }

    def train(self, gradients: GradientSync, resume: bool, allow_changes: bool, lock: Lock) -> int:
        """Run the epochs that are still to be run; return DONE, or why all ranks left before.

        Raises RunDirectoryError if the last checkpoint could not be written.
        """
        job, context = self._job, self._stages
        first, ledger, method_state = self._begin(gradients, resume, allow_changes, lock)
        for number in range(first, job.training.epochs):
            epoch = Epoch(number, job.training.epochs, job.seed)
            clock, self._before = (
                StageTimer(self._world.device, self._before, partial(context.heartbeat.enter, number)),
                {},
            )
            try:
                outcome = run_epoch(epoch, ledger, method_state, context, clock)
            except StopEarly:
                return self._stop_mid_epoch(epoch, ledger, method_state, clock)
            except TrainingError as problem:  # the checkpoint that is under way is from before it
                self._drain_exchange()
                self._finish()
                problem.on_all_ranks = True
                raise
            leaves = self._stop.should_stop_now()
            self._write_down(epoch, outcome, clock, leaves)
            ledger, method_state = outcome.ledger, outcome.method_state
            if leaves and number < epoch.total - 1:
                return self._stop_early(f"after epoch {number + 1}")
        if not self._finish():
            problem = RunDirectoryError(
                f"{self._directory}: the last checkpoint could not be written; make room and add --resume"
            )
            problem.on_all_ranks = True
            raise problem
        return DONE

    def _begin(
        self, gradients: GradientSync, resume: bool, allow_changes: bool, lock: Lock
    ) -> tuple[int, Ledger, MethodState]:
        """Make the run directory this run's; return the first epoch to run, and the ledger and memory that it begins with."""
        job, context, comm = self._job, self._stages, self._world.comm
        ledger = init_ledger(job.selection, context.homes, comm, self._data.fingerprint)
        ledger = context.shards.placed(ledger) if context.shards else ledger
        method_state = job.selection.init_state()
        found = self._found = comm.on_rank_zero(
            lambda: open_run(self._directory, job, resume, lock, allow_changes)
        )
        facts = load_facts(found) if found else {"epoch": -1, "ranks": comm.size, "line": None}
        first = facts["epoch"] + 1
        context.heartbeat.enter(first, "set-up")
        context.learner.join(
            gradients, self._data.shape, context.global_batch // (comm.size * context.accumulate)
        )
        if found:
            ledger, method_state = comm.run_or_raise_together(
                lambda: self._restore(found, facts, ledger, method_state)
            )
        if facts["ranks"] != comm.size:
            context.learner.average_statistics()
            ledger = context.shards.placed(ledger) if context.shards else ledger
        comm.on_rank_zero(lambda: self._enter(lock, found))
        if comm.rank == 0:
            self._snapshot.of(context.learner.example_state())
        _greet(job, context, found, resume)
        if context.shards:
            context.heartbeat.enter(first, "staging")
            _stage(context, context.shards, ledger, job.selection.max_hidden_fraction)
        return first, ledger, method_state

    def _enter(self, lock: Lock, found: Path | None) -> None:
        """Write what stands in a run directory before its first epoch. On rank 0 alone. Raises RunDirectoryError."""
        enter_run(self._directory, self._job, lock, found)
        with writing_to(self._directory):
            self._metrics.rewind(self._last)
            self._facts["provenance"] = write_provenance(self._directory, self._facts)

    def _restore(
        self, found: Path, facts: dict, ledger: Ledger, method_state: MethodState
    ) -> tuple[Ledger, MethodState]:
        """Restore what the checkpoint holds; return ledger and memory. Raises RunDirectoryError, perhaps on one rank only."""
        world, learner, job, on_progress = (
            self._world,
            self._stages.learner,
            self._job,
            self._stages.heartbeat.touch,
        )
        self._last = facts["line"]
        changes = differences(facts["job"], job)
        self._facts["changes"] = facts["changes"] + (
            [{"after": found.name, "changes": changes}] if changes else []
        )
        if facts["data"] != self._data.fingerprint and not changes:
            raise RunDirectoryError(
                f"{found}: of another data set than {job.data.name} is now; give another --run-dir"
            )
        with reading(found):
            ledger, method_state = (
                load_ledger(found, facts, ledger, on_progress),
                load_method_state(found, facts, world.rank, method_state, on_progress),
            )
            learner.load_state_dict(load_learner(found, world.device, on_progress))
            inside = load_mid_epoch(found, facts, world.rank, world.size, world.device, on_progress)
        if inside is not None:
            if facts["global_batch"] != self._stages.global_batch:
                raise RunDirectoryError(
                    f"{found}: left inside an epoch with a global batch of {facts['global_batch']}, but {world.size} ranks make it "
                    f"{self._stages.global_batch}; resume on {facts['ranks']} ranks"
                )
            # Places would be dealt anew, and steps would no longer tell which samples are done.
            if self._stages.shards and facts["ranks"] != world.size:
                raise RunDirectoryError(
                    f"{found}: left inside an epoch whose samples lie on {facts['ranks']} ranks, but {world.size} are here; resume on "
                    f"{facts['ranks']} ranks, or remove this checkpoint to go on from the one before"
                )
            learner.load_buffers(inside.buffers)
            self._stages.pass_progress.restore(inside.passed)
            self._before = facts["seconds"]
        return ledger, method_state

    def _write_down(self, epoch: Epoch, outcome: EpochResult, clock: StageTimer, leaves: bool) -> None:
        """Write what an epoch left: checkpoint, ledger file, weights, line of metrics."""
        job, world, learner = self._job, self._world, self._stages.learner
        parts, line = learner.parts.take(), outcome.line
        with clock("checkpoint"):
            if (
                leaves
                or epoch.number == epoch.total - 1
                or (epoch.number + 1) % job.record.checkpoint_every == 0
            ):
                facts = {"epoch": epoch.number, "line": {**line, "seconds": clock.seconds(parts)}}
                self._save(f"epoch_{epoch.number:04d}", outcome.ledger, outcome.method_state, facts)
        self._write_columns(epoch, outcome)
        line["seconds"] = clock.seconds(parts)
        self._last = line
        if world.rank == 0:
            self._metrics.add(line)
            self._stages.progress.epoch(line)

    def _write_columns(self, epoch: Epoch, outcome: EpochResult) -> None:
        """Write ledger file and weights where they are asked for; if the disk does not take them, the run goes on without."""
        job, world, print_line = self._job, self._world, self._stages.progress.print_line
        if job.record.ledger:
            try:
                write_ledger(self._directory, epoch.number, outcome.planned_on, outcome.plan, world.comm)
            except OSError as problem:  # on rank 0 alone, which has nothing left to do with the others
                print_line(
                    f"warning: the ledger file of epoch {epoch.number} could not be written ({problem.strerror}); the run goes on without"
                )
        weights = job.selection.weights
        if weights and epoch.number in (weights.epoch, *job.record.weights_at):
            try:
                _write_weights(self._directory, epoch, outcome.ledger, weights.column, job, world, self._data)
            except DataError as problem:
                print_line(f"warning: {problem}; the run goes on without")

    def _stop_mid_epoch(
        self, epoch: Epoch, ledger: Ledger, method_state: MethodState, clock: StageTimer
    ) -> int:
        """Leave an epoch between two steps, with a checkpoint; ledger and memory are those it began with."""
        self._drain_exchange()
        learner, passed = self._stages.learner, self._stages.pass_progress.passed()
        facts = {
            "epoch": epoch.number - 1,
            "line": self._last,
            "seconds": clock.seconds(learner.parts.take()),
        }
        name = f"epoch_{epoch.number:04d}_inside_{sum(steps for steps, _ in passed):05d}"
        if self._found is None or name != self._found.name:  # else it has come no further
            self._save(name, ledger, method_state, facts, MidEpoch(passed, learner.buffers()))
        return self._stop_early(
            f"in epoch {epoch.number + 1} after {passed[-1][0]} steps of its pass {len(passed)}"
        )

    def _drain_exchange(self) -> None:
        """Finish the exchange of samples that is under way; its epoch will not."""
        if self._stages.shards and self._stages.shards.under_way:
            self._stages.shards.finish()

    def _stop_early(self, where: str) -> int:
        whole = self._finish()
        how = (
            "add --resume to go on"
            if whole
            else "without a checkpoint of it; make room and add --resume to go on from the one before"
        )
        self._stages.progress.print_line(f"leaving {where}: {self._stop.why}; {how}")
        return REQUEUE if whole else TERMINATED

    def _finish(self) -> bool:
        """Wait until the last checkpoint is one; return False if it could not be written. Tell of lines that the metrics lack."""
        if self._world.rank == 0 and (n_lost := self._metrics.write()):
            lines = "line" if n_lost == 1 else f"{n_lost} lines"
            self._stages.progress.print_line(
                f"warning: metrics.jsonl lacks its last {lines}: the disk is full"
            )
        return self._saver.finish()

    def _save(
        self,
        name: str,
        ledger: Ledger,
        method_state: MethodState,
        facts: dict,
        inside: MidEpoch | None = None,
    ) -> None:
        learner = self._stages.learner.state_dict() if self._world.rank == 0 else None
        self._saver.save(
            name,
            RankState(learner, ledger, method_state, inside),
            {**self._facts, "job": self._job.as_dict(), **facts},
        )


def _is_finished(job: Job, directory: Path, allow_changes: bool) -> bool:
    """Whether the newest checkpoint of this very job is of its last epoch. On rank 0 alone."""
    if not (directory / "job.yaml").exists():
        return False
    if not allow_changes:
        check_same(directory / "job.yaml", job)
    last = directory / "checkpoints" / f"epoch_{job.training.epochs - 1:04d}"
    return last.is_dir() and validate_checkpoint(last) is None


def _write_weights(
    directory: Path,
    epoch: Epoch,
    ledger: Ledger,
    column: str,
    job: Job,
    world: World,
    data: DatasetSplits,
) -> None:
    how = f"{job.name}, seed {job.seed}, after epoch {epoch.number}"
    about = ScoreInfo(job.selection.method, how, job.data.name, data.fingerprint, ledger.n_total, 0.0, 0, 0)
    path = directory / "weights" / f"epoch_{epoch.number:04d}.h5"
    write_scores(path, about, ledger.extra[column], world.comm, ledger.extra.get("label"))


def _stage(context: Context, shards: Shards, ledger: Ledger, max_hidden_fraction: float) -> None:
    """Copy what lies on this rank to its node's disk. most_hidden: as ``Shards.fill`` takes it."""

    def bar(files: Iterable[int], n: int, label: str) -> Iterator[int]:
        return context.heartbeat.passing(context.progress.bar(files, n, label))

    n_bytes = shards.fill(ledger, bar, max_hidden_fraction)
    context.progress.print_line(f"staged {in_words(n_bytes)} in {shards.folder.parent}")


def fitting_batch(job: Job, n: int, n_ranks: int) -> int:
    """Return the global batch. Raises a UserError if n samples, batch and ranks do not fit together."""
    if n_ranks > n:
        raise DataError(f"{job.data.name} has {n} samples for {n_ranks} ranks; use at most one rank a sample")
    try:
        return job.training.batch(n_ranks)
    except ValueError as problem:
        raise JobError(f"{problem}") from None


def _greet(job: Job, context: Context, found: Path | None, resume: bool) -> None:
    world, print_line = context.world, context.progress.print_line
    ranks = f"{world.size} ranks" if world.size > 1 else "1 rank"
    print_line(
        f"{job.name}: {job.selection.method} on {job.data.name}, {context.homes.n} samples, {ranks} on {world.device.type}, "
        f"global batch {context.global_batch}"
    )
    for warning in job.selection.warnings(job.training.epochs):
        print_line(f"warning: {warning}")
    if context.validation.workers < job.data.workers:
        print_line(
            f"warning: data.workers is {job.data.workers}, but loader processes need /dev/shm, which is not there; ranks read by themselves"
        )
    if found:
        print_line(f"resuming after {found.name}")
    elif resume:
        print_line("no checkpoint yet: beginning at epoch 0")
