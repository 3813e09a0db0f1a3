"""Console output of a run: a progress bar where rank 0 has a terminal, plain lines in a log otherwise."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 30.0  # between lines of progress in a log
_SCORES = {"val_accuracy": "accuracy", "val_iou": "IoU", "val_iou_corpus": "corpus IoU"}


def resume_advice(leaves_to_be_requeued: bool = False) -> str:
    """Return how a run that ends now goes on: by its batch script, which counts its attempts, or by hand."""
    attempt, _, most = os.environ.get("KAKURENBO_ATTEMPT", "").partition("/")  # 2/21
    if not attempt:
        return "add --resume to go on"
    if leaves_to_be_requeued and attempt != most:
        return "its batch script requeues it"
    return "submit it with --resume to go on"


def bar(items: Iterable[T], n: int, label: str) -> Iterator[T]:
    """Yield the items; draw a progress bar on a terminal (standard error), else print a line at times."""
    if not sys.stderr.isatty():
        yield from _lines(items, n, label)
        return
    from tqdm import tqdm

    yield from tqdm(items, total=n, desc=label, leave=False)


def _lines(items: Iterable[T], n: int, label: str, pause_s: float = _PAUSE_S) -> Iterator[T]:
    """Yield the items; print a line after each ``pause_s`` seconds, at most."""
    begun = last = time.monotonic()
    for i, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= pause_s:
            last = now
            print_line(f"  {label} {i} of {n}, {i / (now - begun):.3g} a second")


def prepare_streams() -> None:
    """Let standard streams that are closed lead nowhere, and escape what their encoding lacks.

    Else the next file that is opened would get their numbers, and what C libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "r" if name == "stdin" else "w"
        if getattr(sys, name) is None:
            if not _is_open(number):
                os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
                os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False, errors="backslashreplace"))
        elif mode == "w" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def print_line(text: str) -> None:
    """Print and flush a line. A log on a full disk loses it, without an error."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def print_error(text: str) -> None:
    """Flush standard output, then print a line on standard error; a full disk is ignored."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Console:
    """Console of one rank; only rank 0 prints."""

    def __init__(self, rank: int, epochs: int) -> None:
        self._prints, self._epochs = rank == 0, epochs

    def bar(self, items: Iterable[T], n: int, label: str) -> Iterator[T]:
        """Yield the items, with a progress bar on rank 0."""
        return bar(items, n, label) if self._prints else iter(items)

    def print_line(self, text: str) -> None:
        """Print a line on rank 0."""
        if self._prints:
            print_line(text)

    def epoch(self, line: dict) -> None:
        """Print one epoch's metrics in one line."""
        score = "  ".join(
            f"{word} {line[name]:.4f}" if line[name] is not None else f"{word} -"
            for name, word in _SCORES.items()
            if name in line
        )
        loss = f"{line['train_loss']:.4f}" if line["train_loss"] is not None else "not finite"
        self.print_line(
            f"epoch {line['epoch'] + 1}/{self._epochs}  loss {loss}  {score}  hidden {line['n_hidden']} of "
            f"{line['n_samples']} ({line['hidden_fraction']:.1%})  {line['steps']} steps  lr "
            f"{line['lr']:.4g}  "
            f"{line['seconds']['total']:.2f} s"
        )
