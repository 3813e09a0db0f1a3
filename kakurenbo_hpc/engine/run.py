"""One run on one rank: set-up, epochs, checkpoints, exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.job import Job
from ..core.ledger import BLOCKS, Ledger
from ..core.plan import Epoch
from ..distributed.comm import Comm
from ..distributed.gradient_sync import GradientSync, open_gradient_sync
from ..distributed.preemption import Preemption
from ..distributed.world import World
from ..errors import DONE, FAILED, REQUEUE, TERMINATED, RunDirectoryError, TrainingError, UserError
from ..local_data.shards import Shards
from ..rundir.atomic_io import write_whole
from ..rundir.attempt import Attempt
from ..rundir.checkpoint.async_writer import CheckpointWriter
from ..rundir.checkpoint.manifest import load_facts, validate_checkpoint
from ..rundir.checkpoint.retention import list_checkpoints
from ..rundir.checkpoint.shards import MidEpoch, RankState
from ..rundir.checkpoint.snapshot import Snapshot
from ..rundir.console import Console, resume_advice
from ..rundir.energy import Energy
from ..rundir.exits import add_exit
from ..rundir.job_diff import check_same
from ..rundir.lock import Lock
from ..rundir.metrics import Metrics
from ..rundir.path_checks import check_place, in_words
from ..rundir.provenance import write_provenance
from ..rundir.rank_seconds import seconds_of_all_ranks
from ..rundir.run_dir import enter_run, open_run, writing_to
from ..rundir.tensorboard import check_tensorboard
from ..rundir.timers import StageTimer
from ..rundir.watchdog.heartbeat import Heartbeat
from ..rundir.watchdog.watchdog import Watchdog
from ..selection.method import Method
from .checkpoint_timer import CheckpointTimer
from .context import Context
from .epoch import EpochResult, run_epoch
from .epoch_files import EpochFiles
from .greeting import greet, list_warnings
from .pass_progress import PassProgress, PassState, StopEarly
from .resume import RunState, init_state, restore
from .set_up import Recording, begin_with_weights, set_up
from .step_evaluation import StepEvaluation, check_step_evaluation
from .stragglers import report_straggler

if TYPE_CHECKING:
    import torch


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
    if job.record.tensorboard:
        comm.run_or_raise_together(check_tensorboard)
    world, attempt = World.detect(comm), Attempt.of_this_process(directory)
    gradients = open_gradient_sync(job.world, job.training.accumulate, world)
    heartbeat = Heartbeat(attempt.number)
    hang_timeout = job.record.hang_timeout
    watchdog = Watchdog(heartbeat, directory, comm.rank, comm.size, hang_timeout, comm.abort, attempt)
    try:
        with (
            comm.run_or_raise_together(lambda: Preemption(comm, directory)) as stop,
            Lock(directory, "ranks" if attempt.word else "all") as lock,
            watchdog,
        ):
            this_run = _Run(job, directory, world, stop, heartbeat, attempt, scratch)
            try:
                code = this_run.train(gradients, lock, resume, allow_changes)
            finally:
                this_run.let_go()
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
        attempt: Attempt,
        scratch: str | None,
    ):
        self._attempt = attempt
        self._job, self._directory, self._world, self._stop = job, directory, world, stop
        self._snapshot = Snapshot(pinned=world.device.type == "cuda")
        self._writer = CheckpointWriter(
            directory / "checkpoints",
            job.record.keep,
            world.comm,
            self._snapshot,
            Console(world.rank, job.training.epochs).print_line,
            heartbeat.touch,
            attempt.leave_if_over,
        )
        recording = Recording(PassProgress(stop, self._writer), heartbeat)
        self._context = set_up(job, world, job.selection, recording, scratch, directory)
        self._metrics = Metrics(directory)
        self._checkpoint_timer = CheckpointTimer(world.comm, job.record.checkpoint_seconds)
        self._resumed_from: Path | None = None
        self._last_saved = ""
        self._facts: dict[str, Any] = {  # of every checkpoint's manifest
            "ranks": world.size,
            "ranks_per_node": world.local_size,
            "home_blocks": BLOCKS,
            "epochs": self._context.epochs,
            "global_batch": self._context.global_batch,
            "data": self._context.data.fingerprint,
        }
        if attempt.word:
            self._facts["attempt"] = attempt.number

    def let_go(self) -> None:
        """Refer no more to what refers to this: loader processes end with it, and exit waits for them."""
        progress = self._context.pass_progress
        progress.on_step, progress.before_train_step = lambda: None, lambda n_steps: None

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
            context.pass_progress.on_step = partial(self._save_if_due, epoch, state, timer)
            self._evaluation.begin_epoch(number, timer)
            try:
                result = run_epoch(epoch, state.ledger, state.method_state, context, timer)
            except StopEarly:
                return self._stop_mid_epoch(epoch, state, timer)
            except TrainingError as problem:  # a checkpoint that is being written is of an earlier epoch
                self._finish_exchange()
                self._finish()
                if self._world.rank == 0:
                    add_exit(self._directory, "failed", why=str(problem), code=FAILED)
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
        comm.run_or_raise_together(lambda: check_step_evaluation(job.record.evaluate_every, context))
        state = init_state(context)
        checkpoint = comm.on_rank_zero(
            lambda: open_run(self._directory, job, resume, lock, comm.size, allow_changes)
        )
        facts = load_facts(checkpoint) if checkpoint else {"epoch": -1}
        context.heartbeat.enter(facts["epoch"] + 1, "set-up")
        if checkpoint is None:
            begin_with_weights(job, context)
        local_batch = context.global_batch // (comm.size * context.accumulate)
        context.learner.join(gradients, context.data.shape, local_batch)
        if checkpoint:
            state = restore(checkpoint, facts, state, job, context)
        self._resumed_from, self._last_saved = checkpoint, checkpoint.name if checkpoint else ""
        comm.on_rank_zero(lambda: self._enter(lock, state))
        self._files = EpochFiles(self._directory, job, context, state.epoch)
        self._evaluation = StepEvaluation(self._directory, job.record.evaluate_every, context, state.epoch)
        self._energy = Energy(self._world.device, self._world.local_rank == 0)
        if comm.rank == 0:
            self._snapshot.of(context.learner.example_state())
        greet(job, context, checkpoint, resume)
        if context.shards:
            context.heartbeat.enter(state.epoch, "staging")
            _stage(context, context.shards, state.ledger)
        return state

    def _enter(self, lock: Lock, state: RunState) -> None:
        """Write what a run directory holds before the epochs. On rank 0 alone.

        Raises:
            RunDirectoryError: it cannot be written to.
        """
        found = self._resumed_from
        if found is not None:
            there = list_checkpoints(self._directory / "checkpoints")
            passed_over = [path.name for path in there[: there.index(found)]]
            facts = {"ranks": self._world.size, "passed_over": passed_over}
            add_exit(self._directory, "resumed", after=found.name, **facts)
        enter_run(self._directory, self._job, lock, found)
        if classes := self._context.data.classes:
            write_whole(self._directory / "classes.json", json.dumps(classes) + "\n")
        self._facts["changes"] = state.changes
        self._facts["warnings"] = list_warnings(self._job, self._context)
        with writing_to(self._directory):
            self._metrics.rewind(state.last_line)
            self._facts["provenance"] = write_provenance(self._directory, self._facts)

    def _record(self, epoch: Epoch, result: EpochResult, timer: StageTimer, stops: bool) -> RunState:
        """Write the results of an epoch: checkpoint, ledger file, weights, line of metrics."""
        job, context, line = self._job, self._context, result.metrics
        self._attempt.leave_if_over()
        parts = context.learner.parts.take()
        of_all = seconds_of_all_ranks(timer.seconds(parts), self._world.comm)
        state = RunState(result.ledger, result.method_state, epoch.number + 1, line)
        with timer("checkpoint"):
            is_due = (epoch.number + 1) % job.record.checkpoint_every == 0
            if stops or is_due or epoch.number == epoch.total - 1:
                seconds = timer.seconds(parts) | of_all
                self._save(f"epoch_{epoch.number:04d}", state, {"line": {**line, "seconds": seconds}})
        self._files.write(epoch, result)
        line["seconds"] = timer.seconds(parts) | of_all
        straggler = report_straggler(parts, context.learner.n_steps, self._world.comm)
        joules = self._world.comm.sum(np.array(list(self._energy.take().values())))
        line |= {f"energy_{part}_j": float(j) for part, j in zip(("gpu", "cpu"), joules, strict=True) if j}
        self._files.write_line(line)
        if self._world.rank == 0:
            self._metrics.add(line)
            context.console.epoch(line)
        if straggler:
            context.console.print_line(f"epoch {epoch.number + 1}: {straggler}")
        return state

    def _save_if_due(self, epoch: Epoch, state: RunState, timer: StageTimer) -> None:
        """Save a checkpoint between two steps of an epoch, if it is time, and go on."""
        if self._checkpoint_timer.is_due():
            seconds = timer.seconds(self._context.learner.parts.read())
            buffers = {name: value.clone() for name, value in self._context.learner.buffers().items()}
            self._save_mid_epoch(epoch, state, seconds, buffers)

    def _stop_mid_epoch(self, epoch: Epoch, state: RunState, timer: StageTimer) -> int:
        """Save a checkpoint between two steps of an epoch, and stop.

        Args:
            epoch: the epoch.
            state: before the epoch.
            timer: of the epoch.
        """
        self._finish_exchange()
        learner = self._context.learner
        passes = self._save_mid_epoch(epoch, state, timer.seconds(learner.parts.take()), learner.buffers())
        n_done = passes[-1][0]
        return self._stop_early(f"in epoch {epoch.number + 1} after {n_done} steps of pass {len(passes)}")

    def _save_mid_epoch(
        self, epoch: Epoch, state: RunState, seconds: dict[str, float], buffers: dict[str, torch.Tensor]
    ) -> list[PassState]:
        """Save a checkpoint between two steps of an epoch, unless there is one of this step.

        Args:
            epoch: the epoch.
            state: before the epoch.
            seconds: of the epoch so far.
            buffers: the model's; they must not change until they are written.

        Returns:
            The passes so far.
        """
        passes = self._context.pass_progress.state()
        name = f"epoch_{epoch.number:04d}_inside_{sum(n_steps for n_steps, _ in passes):05d}"
        if name != self._last_saved:  # else nothing was done since
            self._save(name, state, {"line": state.last_line, "seconds": seconds}, MidEpoch(passes, buffers))
        return passes

    def _stop_early(self, where: str) -> int:
        saved = self._finish()
        advice = (
            resume_advice(leaves_to_be_requeued=True)
            if saved
            else f"without a checkpoint; make room and {resume_advice()} from the one before"
        )
        self._context.console.print_line(f"leaving {where}: {self._stop.why}; {advice}")
        code = REQUEUE if saved else TERMINATED
        if self._world.rank == 0:
            add_exit(self._directory, "stopped", where=where, why=self._stop.why, code=code)
        return code

    def _finish_exchange(self) -> None:
        """Finish the exchange of samples of an epoch that ends early."""
        shards = self._context.shards
        if shards and shards.in_transit:
            shards.finish()

    def _finish(self) -> bool:
        """Wait for the last checkpoint; return whether it could be written. Warn of lost lines of metrics."""
        self._checkpoint_timer.restart()
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
        self._attempt.leave_if_over()
        learner = self._context.learner.state_dict() if self._world.rank == 0 else None
        manifest = {**self._facts, "job": self._job.as_dict(), "epoch": state.epoch - 1, **facts}
        self._checkpoint_timer.restart()
        self._last_saved = name
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

    n_bytes = shards.fill(ledger, bar, context.method.max_hidden_fraction).copied
    context.console.print_line(f"staged {in_words(n_bytes)} in {shards.folder.parent}")
