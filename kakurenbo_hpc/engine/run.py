"""One run on one rank: set-up, epochs, checkpoints, exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..config.job import Job
from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..distributed.comm import Comm
from ..distributed.gradient_sync import GradientSync, open_gradient_sync
from ..distributed.preemption import Preemption
from ..distributed.world import World
from ..errors import DONE, REQUEUE, TERMINATED, RunDirectoryError, TrainingError, UserError
from ..local_data.shards import Shards
from ..rundir.checkpoint.async_writer import CheckpointWriter
from ..rundir.checkpoint.manifest import load_facts, validate_checkpoint
from ..rundir.checkpoint.shards import MidEpoch, RankState
from ..rundir.checkpoint.snapshot import Snapshot
from ..rundir.console import Console, resume_advice
from ..rundir.job_diff import check_same
from ..rundir.lock import Lock
from ..rundir.metrics import Metrics
from ..rundir.path_checks import check_place, in_words
from ..rundir.provenance import write_provenance
from ..rundir.run_dir import enter_run, open_run, writing_to
from ..rundir.timers import StageTimer
from ..rundir.watchdog.heartbeat import Heartbeat
from ..rundir.watchdog.watchdog import Watchdog
from ..selection.method import Method
from .context import Context
from .epoch import EpochResult, run_epoch
from .epoch_files import write_epoch_files
from .pass_progress import PassProgress, StopEarly
from .resume import RunState, init_state, restore
from .set_up import Recording, set_up


def run(
    job: Job[Method],
    directory: Path,
    comm: Comm,
    resume: bool = False,
    scratch: str | None = None,
    allow_changes: bool = False,
) -> int:
    """Train a job in its run directory. Collective.

    Args:
        job: the job.
        directory: the run directory.
        comm: all ranks.
        resume: whether to continue from the newest checkpoint.
        scratch: a folder on each node's own disk, for ``data.placement`` local.
        allow_changes: whether to resume a run of another job.

    Returns:
        The exit code.

    Raises:
        UserError: on all ranks alike, before anything is trained, the job cannot be run as it is.
    """
    comm.on_rank_zero(lambda: check_place(directory))
    if resume and comm.on_rank_zero(lambda: _is_finished(job, directory, allow_changes)):
        epochs = job.training.epochs
        Console(comm.rank, epochs).print_line(f"{directory}: all {epochs} epochs are done")
        return DONE
    world = World.detect(comm)
    gradients, heartbeat = open_gradient_sync(job.world, job.training.accumulate, world), Heartbeat()
    watchdog = Watchdog(heartbeat, directory, comm.rank, comm.size, job.record.hang_timeout, comm.abort)
    try:
        with (
            comm.run_or_raise_together(lambda: Preemption(comm, directory)) as stop,
            Lock(directory) as lock,
            watchdog,
        ):
            this_run = _Run(job, directory, world, stop, heartbeat, scratch)
            code = this_run.train(gradients, lock, resume, allow_changes)
    except UserError as problem:
        if problem.on_all_ranks:  # no rank waits for another, and they may begin another run
            gradients.close()
        raise
    gradients.close()
    return code


class _Run:
    """A job in its run directory: runs the epochs and records their results."""

    def __init__(
        self,
        job: Job[Method],
        directory: Path,
        world: World,
        stop: Preemption,
        heartbeat: Heartbeat,
        scratch: str | None,
    ):
        self._job, self._directory, self._world, self._stop = job, directory, world, stop
        self._snapshot = Snapshot(pinned=world.device.type == "cuda")
        self._writer = CheckpointWriter(
            directory / "checkpoints",
            job.record.keep,
            world.comm,
            self._snapshot,
            Console(world.rank, job.training.epochs).print_line,
            heartbeat.touch,
        )
        recording = Recording(PassProgress(stop, self._writer), heartbeat)
        self._context = set_up(job, world, job.selection, recording, scratch, directory)
        self._metrics = Metrics(directory)
        self._resumed_from: Path | None = None
        self._facts: dict[str, Any] = {  # of every checkpoint's manifest
            "ranks": world.size,
            "epochs": self._context.epochs,
            "global_batch": self._context.global_batch,
            "data": self._context.data.fingerprint,
        }

    def train(self, gradients: GradientSync, lock: Lock, resume: bool, allow_changes: bool) -> int:
        """Run the epochs that are left; return DONE, or the exit code of a run that stopped early.

        Raises:
            RunDirectoryError: the last checkpoint could not be written.
            TrainingError: training cannot continue.
        """
        job, context = self._job, self._context
        state = self._begin(gradients, lock, resume, allow_changes)
        for number in range(state.epoch, context.epochs):
            epoch = Epoch(number, context.epochs, job.seed)
            timer = StageTimer(self._world.device, state.seconds, partial(context.heartbeat.enter, number))
            try:
                result = run_epoch(epoch, state.ledger, state.method_state, context, timer)
            except StopEarly:
                return self._stop_mid_epoch(epoch, state, timer)
            except TrainingError as problem:  # a checkpoint that is being written is of an earlier epoch
                self._finish_exchange()
                self._finish()
                problem.on_all_ranks = True
                raise
            stops = self._stop.should_stop_now()
            state = self._record(epoch, result, timer, stops)
            if stops and number < epoch.total - 1:
                return self._stop_early(f"after epoch {number + 1}")
        if not self._finish():
            lost = RunDirectoryError(
                f"{self._directory}: the last checkpoint could not be written; make room and add --resume"
            )
            lost.on_all_ranks = True
            raise lost
        return DONE

    def _begin(self, gradients: GradientSync, lock: Lock, resume: bool, allow_changes: bool) -> RunState:
        """Take over the run directory; return the state of the run before its next epoch."""
        job, context, comm = self._job, self._context, self._world.comm
        state = init_state(context)
        checkpoint = comm.on_rank_zero(lambda: open_run(self._directory, job, resume, lock, allow_changes))
        facts = load_facts(checkpoint) if checkpoint else {"epoch": -1}
        context.heartbeat.enter(facts["epoch"] + 1, "set-up")
        local_batch = context.global_batch // (comm.size * context.accumulate)
        context.learner.join(gradients, context.data.shape, local_batch)
        if checkpoint:
            state = restore(checkpoint, facts, state, job, context)
        self._resumed_from = checkpoint
        comm.on_rank_zero(lambda: self._enter(lock, state))
        if comm.rank == 0:
            self._snapshot.of(context.learner.example_state())
        _greet(job, context, checkpoint, resume)
        if context.shards:
            context.heartbeat.enter(state.epoch, "staging")
            _stage(context, context.shards, state.ledger)
        return state

    def _enter(self, lock: Lock, state: RunState) -> None:
        """Write what a run directory holds before the epochs. On rank 0 alone.

        Raises:
            RunDirectoryError: it cannot be written to.
        """
        enter_run(self._directory, self._job, lock, self._resumed_from)
        self._facts["changes"] = state.changes
        with writing_to(self._directory):
            self._metrics.rewind(state.last_line)
            self._facts["provenance"] = write_provenance(self._directory, self._facts)

    def _record(self, epoch: Epoch, result: EpochResult, timer: StageTimer, stops: bool) -> RunState:
        """Write the results of an epoch: checkpoint, ledger file, weights, line of metrics."""
        job, context, line = self._job, self._context, result.metrics
        parts = context.learner.parts.take()
        state = RunState(result.ledger, result.method_state, epoch.number + 1, line)
        with timer("checkpoint"):
            is_due = (epoch.number + 1) % job.record.checkpoint_every == 0
            if stops or is_due or epoch.number == epoch.total - 1:
                seconds = timer.seconds(parts)
                self._save(f"epoch_{epoch.number:04d}", state, {"line": {**line, "seconds": seconds}})
        write_epoch_files(self._directory, epoch, result, job, context)
        line["seconds"] = timer.seconds(parts)
        if self._world.rank == 0:
            self._metrics.add(line)
            context.console.epoch(line)
        return state

    def _stop_mid_epoch(self, epoch: Epoch, state: RunState, timer: StageTimer) -> int:
        """Save a checkpoint between two steps of an epoch, and stop.

        Args:
            epoch: the epoch.
            state: before the epoch.
            timer: of the epoch.
        """
        self._finish_exchange()
        learner, passes = self._context.learner, self._context.pass_progress.state()
        name = f"epoch_{epoch.number:04d}_inside_{sum(n_steps for n_steps, _ in passes):05d}"
        facts = {"line": state.last_line, "seconds": timer.seconds(learner.parts.take())}
        if self._resumed_from is None or name != self._resumed_from.name:  # else nothing was done since
            self._save(name, state, facts, MidEpoch(passes, learner.buffers()))
        n_done = passes[-1][0]
        return self._stop_early(f"in epoch {epoch.number + 1} after {n_done} steps of pass {len(passes)}")

    def _stop_early(self, where: str) -> int:
        saved = self._finish()
        advice = (
            resume_advice(leaves_to_be_requeued=True)
            if saved
            else f"without a checkpoint; make room and {resume_advice()} from the one before"
        )
        self._context.console.print_line(f"leaving {where}: {self._stop.why}; {advice}")
        return REQUEUE if saved else TERMINATED

    def _finish_exchange(self) -> None:
        """Finish the exchange of samples of an epoch that ends early."""
        shards = self._context.shards
        if shards and shards.in_transit:
            shards.finish()

    def _finish(self) -> bool:
        """Wait for the last checkpoint; return whether it could be written. Warn of lost lines of metrics."""
        if self._world.rank == 0 and (n_lost := self._metrics.write()):
            lines = "line" if n_lost == 1 else f"{n_lost} lines"
            self._context.console.print_line(
                f"warning: metrics.jsonl lacks its last {lines}: the disk is full"
            )
        return self._writer.finish()

    def _save(
        self, name: str, state: RunState, facts: dict[str, Any], mid_epoch: MidEpoch | None = None
    ) -> None:
        """Begin to write a checkpoint of this state, and if mid-epoch of the passes."""
        learner = self._context.learner.state_dict() if self._world.rank == 0 else None
        manifest = {**self._facts, "job": self._job.as_dict(), "epoch": state.epoch - 1, **facts}
        self._writer.save(name, RankState(learner, state.ledger, state.method_state, mid_epoch), manifest)


def _is_finished(job: Job, directory: Path, allow_changes: bool) -> bool:
    """Return whether this very job has a valid checkpoint of its last epoch. On rank 0 alone.

    Raises:
        RunDirectoryError: the run is of another job, and that is not allowed.
    """
    if not (directory / "job.yaml").exists() or not job.training.epochs:  # iterations: not known yet
        return False
    if not allow_changes:
        check_same(directory / "job.yaml", job)
    last = directory / "checkpoints" / f"epoch_{job.training.epochs - 1:04d}"
    return last.is_dir() and validate_checkpoint(last) is None


def _stage(context: Context, shards: Shards, ledger: Ledger) -> None:
    """Copy this rank's samples to its node's disk."""

    def bar(files: Iterable[int], n: int, label: str) -> Iterator[int]:
        return context.heartbeat.passing(context.console.bar(files, n, label))

    n_bytes = shards.fill(ledger, bar, context.method.max_hidden_fraction)
    context.console.print_line(f"staged {in_words(n_bytes)} in {shards.folder.parent}")


def _greet(job: Job[Method], context: Context, checkpoint: Path | None, resume: bool) -> None:
    """Print what is run, and what the user should know before."""
    world, print_line = context.world, context.console.print_line
    ranks = f"{world.size} ranks" if world.size > 1 else "1 rank"
    print_line(
        f"{job.name}: {job.selection.method} on {job.data.name}, {context.homes.n} samples, {ranks} on "
        f"{world.device.type}, global batch {context.global_batch}"
    )
    for warning in job.selection.warnings(context.epochs):
        print_line(f"warning: {warning}")
    if context.validation.workers < job.data.workers:
        print_line(
            f"warning: data.workers is {job.data.workers}, but worker processes need /dev/shm, which is "
            "missing; ranks read by themselves"
        )
    if checkpoint:
        print_line(f"resuming after {checkpoint.name}")
    elif resume:
        print_line("no checkpoint yet: beginning at epoch 0")
