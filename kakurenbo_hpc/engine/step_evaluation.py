"""Evaluation between the steps of an epoch, and its file ``evaluations.jsonl``."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path

from ..errors import JobError
from ..rundir.atomic_io import write_whole
from ..rundir.metrics import finite
from ..rundir.timers import StageTimer
from ..selection.batch_level import BatchMethod
from .context import Context
from .loops import evaluate


class StepEvaluation:
    """Evaluations of a run every so many optimizer steps of an epoch, beside those at the ends of epochs.

    A line of the file holds ``epoch``, ``step`` within it, and what the evaluation found. Training goes on as
    if there had been none: BatchNorm's statistics are averaged over ranks for it alone.
    """

    def __init__(self, run: Path, every: int, context: Context, epoch: int) -> None:
        """Forget what was written of later epochs, which are done again. On all ranks.

        Args:
            run: its directory.
            every: optimizer steps from one to the next; 0 for none.
            context: of the run.
            epoch: that the run begins with, or goes on in.

        Raises:
            JobError: the method keeps autograd graphs, which the averaged statistics would spoil.
        """
        self._path, self._every, self._context = run / "evaluations.jsonl", every, context
        if every and _keeps_graphs(context):
            raise JobError(
                f"record.evaluate_every is {every}, but selection.reuse_forward is true, whose graphs do not "
                "outlive an evaluation; set record.evaluate_every to 0 or selection.reuse_forward to false"
            )
        self._lines = context.world.comm.on_rank_zero(lambda: _read(self._path))
        # A run that evaluates decides at its first step what of this epoch is kept; another keeps none of it.
        self._rewind(epoch + bool(every), 0)
        self._is_first = True

    def begin_epoch(self, epoch: int, timer: StageTimer) -> None:
        """Prepare for the steps of an epoch."""
        if self._every:
            self._is_first = True
            self._context.pass_progress.on_train_step = partial(self._after_step, epoch, timer)

    def _after_step(self, epoch: int, timer: StageTimer, step: int) -> None:
        """Evaluate if it is time. Collective."""
        if self._is_first:  # of a resumed epoch the steps before this one are done, the others are done again
            self._rewind(epoch, step)
            self._is_first = False
        last = self._lines[-1]["step"] if self._lines and self._lines[-1]["epoch"] == epoch else 0
        if step // self._every == last // self._every:
            return
        with timer("evaluate"):
            learner = self._context.learner
            statistics = {name: buffer.clone() for name, buffer in learner.buffers().items()}
            learner.average_statistics()
            found, _ = evaluate(self._context, may_stop=False)
            learner.load_buffers(statistics)
        self._add({"epoch": epoch, "step": step, **found})

    def _add(self, line: dict) -> None:
        self._lines.append(line)
        if self._context.world.rank:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_text(line))
        except OSError as problem:
            self._context.console.print_line(
                f"warning: {self._path.name} lacks a line ({problem.strerror}); the run goes on without"
            )

    def _rewind(self, epoch: int, step: int) -> None:
        """Keep what lies before a step of an epoch."""
        kept = [line for line in self._lines if (line["epoch"], line["step"]) < (epoch, step)]
        if len(kept) < len(self._lines) and self._context.world.rank == 0:
            write_whole(self._path, "".join(map(_text, kept)))
        self._lines = kept


def _read(path: Path) -> list[dict]:
    """Return the whole lines of the file; none if it is not there."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a crash
            line = json.loads(text)
            lines.append({**line, "epoch": int(line["epoch"]), "step": int(line["step"])})
    return lines


def _keeps_graphs(context: Context) -> bool:
    method = context.method
    return isinstance(method, BatchMethod) and method.selection_pass(context.global_batch).reuse_graph


def _text(line: dict) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"
