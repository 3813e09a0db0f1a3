"""Progress of a run by its metrics: sparkline of the loss, rate, time left, whether the walltime suffices."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

from ..config.yaml import read_yaml
from ..errors import UserError

_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def sparkline(values: list[float], width: int = 24) -> str:
    """Return the last values as bars, the lowest and the highest of them at the ends of the scale."""
    shown = [value for value in values if math.isfinite(value)]
    shown = [shown[i * len(shown) // width] for i in range(width)] if len(shown) > width else shown
    if not shown:
        return ""
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1))] for value in shown)


def progress(run: Path, walltime_s: float | None = None, epochs: int | None = None) -> str:
    """Return one line of how a run goes; empty before its first epoch has ended.

    Args:
        run: the run directory.
        walltime_s: of one batch job, if it is known.
        epochs: that the run is to have; as many as its job says if not given.
    """
    lines = _read_lines(run / "metrics.jsonl")
    if not lines:
        return ""
    epochs = epochs or _epochs_of_job(run)
    recent = lines[-5:]
    epoch_s = sum(seconds for _, seconds, _ in recent) / len(recent)
    rate = sum(n for _, _, n in recent) / max(1e-9, sum(seconds for _, seconds, _ in recent))
    losses = [loss for loss, _, _ in lines if isinstance(loss, int | float)]
    last = f"{losses[-1]:.4g}" if losses else "not finite"
    words = [f"loss {sparkline(losses)} {last}", f"{rate:,.0f} samples/s"]
    if (left := epochs - len(lines)) > 0:
        left_s = left * epoch_s
        words.append(f"{in_time(left_s)} to the end")
        if walltime_s:
            jobs = math.ceil(left_s / walltime_s)
            words.append("the walltime suffices" if jobs <= 1 else f"about {jobs} jobs of this walltime")
    return ", ".join(words)


def _read_lines(path: Path) -> list[tuple[float | None, float, float]]:
    """Return loss, seconds and forward samples of each line; one that is being written is left out."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            lines.append((line["train_loss"], float(line["seconds"]["total"]), float(line["n_forward"])))
    return lines


def _epochs_of_job(run: Path) -> int:
    try:
        return int(read_yaml(run / "job.yaml")["training"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return 0


def in_time(seconds: float) -> str:
    """Return a time in its largest unit: 3.2 h."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
