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
from ..selection.batch_level import keeps_graphs
from .context import Context
from .loops import evaluate


class StepEvaluation:
    """Evaluations of a run every so many optimizer steps of an epoch, beside those at the ends of epochs.

    A line of the file holds ``epoch``, ``step`` within it, and what the evaluation found. An evaluation waits
    for the step after it to begin: what the last step of an epoch leaves is evaluated at the epoch's end
    alone. Training goes on as if there had been none: BatchNorm's statistics are averaged over ranks for it
    alone.
    """

    def __init__(self, run: Path, every: int, context: Context, epoch: int) -> None:
        """Forget what was written of later epochs, which are done again. On all ranks.

        Args:
            run: its directory.
            every: optimizer steps from one to the next; 0 for none.
            context: of the run.
            epoch: that the run begins with, or goes on in.
        """
        self._path, self._every, self._context = run / "evaluations.jsonl", every, context
        self._lines = context.world.comm.on_rank_zero(lambda: _read(self._path))
        # A run that evaluates decides at its first step what of this epoch is kept; another keeps none of it.
        self._rewind(epoch + bool(every), 0)
        self._is_first, self._is_torn = True, False

    def begin_epoch(self, epoch: int, timer: StageTimer) -> None:
        """Prepare for the steps of an epoch."""
        if self._every:
            self._is_first = True
            self._context.pass_progress.before_train_step = partial(self._before_step, epoch, timer)

    def _before_step(self, epoch: int, timer: StageTimer, step: int) -> None:
        """Evaluate what this many steps of the epoch have left, if it is time. Collective."""
        if self._is_first:  # of a resumed epoch the steps before this one are done, the others are done again
            self._rewind(epoch, step)
            self._is_first = False
        if step == 0 or step % self._every:
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
                file.write("\n" * self._is_torn + _text(line))
            self._is_torn = False
        except OSError as problem:
            self._context.console.print_line(
                f"warning: {self._path.name} lacks a line ({problem.strerror}); the run goes on without"
            )
            self._is_torn = True

    def _rewind(self, epoch: int, step: int) -> None:
        """Keep what lies before a step of an epoch."""
        kept = [line for line in self._lines if (line["epoch"], line["step"]) < (epoch, step)]
        text = "".join(map(_text, kept))
        if self._context.world.rank == 0 and text != _text_of(self._path):  # which may be torn at its end
            write_whole(self._path, text)
        self._lines = kept


def check_step_evaluation(every: int, context: Context) -> None:
    """Raise JobError if the method keeps autograd graphs, which the averaged statistics would spoil."""
    if every and keeps_graphs(context.method, context.global_batch):
        raise JobError(
            f"record.evaluate_every is {every}, but selection.reuse_forward is true, whose graphs do not "
            "outlive an evaluation; set record.evaluate_every to 0 or selection.reuse_forward to false"
        )


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read(path: Path) -> list[dict]:
    """Return the whole lines of the file; none if it is not there."""
    lines = []
    for text in _text_of(path).splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a crash
            line = json.loads(text)
            lines.append({**line, "epoch": int(line["epoch"]), "step": int(line["step"])})
    return lines


def _text(line: dict) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"
