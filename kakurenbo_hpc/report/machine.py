"""Charts of ranks, input and energy."""

from __future__ import annotations

import numpy as np

from .chart import Chart, Series
from .records import Group, Records

_SIDE = 256  # cells of a heat map at most, each way
_HEATS = {
    "compute": ("Computing", "train"),
    "data_wait": ("Waiting for data", "data_wait"),
    "gradient_exchange": ("Gradient exchange that backward does not hide", "gradient_exchange"),
}


def ranks(records: Records) -> list[Chart]:
    """Return rank x epoch heat maps of computing, of waiting for data, and of the gradient exchange."""
    charts: list[Chart] = []
    for group in records.groups[:10]:
        columns = group.first.hdf5("rank_seconds.h5")
        if not {"epoch", "stage", "seconds"} <= columns.keys() or columns["seconds"].ndim != 3:
            continue
        stages = [name.decode() for name in columns["stage"]]
        of_stage = {name: columns["seconds"][..., i].T for i, name in enumerate(stages)}
        if not {"train", "data_wait", "gradient_exchange"} <= of_stage.keys():
            continue
        # A rank that computes less than others waits for them in the exchange.
        of_stage["train"] = of_stage["train"] - of_stage["data_wait"] - of_stage["gradient_exchange"]
        for name, (title, stage) in _HEATS.items():
            charts.append(
                _heat(group, f"ranks_{name}", title, of_stage[stage], columns["epoch"], len(charts))
            )
    return charts


def _heat(
    group: Group, name: str, title: str, seconds: np.ndarray, epochs: np.ndarray, n_before: int
) -> Chart:
    """Return a heat map of seconds, (ranks, epochs)."""
    of_rank = np.nanmean(seconds, axis=1)
    most = int(np.argmax(of_rank))
    mean = float(of_rank.mean())
    said = (
        f"{title}, seconds of each rank and epoch of {group.name}: rank {most} has most, "
        f"{of_rank[most]:.3g} s a mean epoch; the mean rank has {mean:.3g} s."
    )
    rows = [[f"{rank}", *map(float, (s.mean(), s.min(), s.max()))] for rank, s in enumerate(seconds)]
    step = -(-len(seconds) // _SIDE)
    return Chart(
        name if n_before < len(_HEATS) else f"{name}_{n_before // len(_HEATS) + 1}",
        f"{title}: {group.name}",
        said,
        "epoch",
        "rank",
        [],
        "heat",
        table=(["rank", "mean, s", "least, s", "most, s"], rows),
        image=_coarse(seconds),
        ticks=[f"{rank}" for rank in range(0, len(seconds), step)],
        columns=(float(epochs[0]), float(epochs[-1])),
    )


def _coarse(image: np.ndarray, most: int = _SIDE) -> np.ndarray:
    """Return a matrix of at most so many rows and columns: of what is joined, the largest."""
    for axis in (0, 1):
        step = -(-image.shape[axis] // most)
        image = np.fmax.reduceat(image, np.arange(0, image.shape[axis], step), axis=axis)
    return image


def accelerator_utilisation(records: Records) -> list[Chart]:
    """Return the share of training and refreshing in which rank 0 did not wait for data, of every epoch.

    Source: accelerator utilisation of MLPerf Storage, computing time / (computing time + waiting for data).
    """
    series, said = [], []
    for i, group in enumerate(records.groups[:10], 0 if records.baseline else 1):
        run = group.first
        busy = run.column("seconds", "train") + np.nan_to_num(run.column("seconds", "refresh"))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 - run.column("seconds", "data_wait") / busy
        if np.isfinite(share).any():
            series.append(Series(group.name, run.column("epoch"), share, color=i, dashed=i == 0))
            said.append(f"{group.name} {np.nanmean(share):.1%}")
    if not series:
        return []
    sentence = f"Share of the time in which rank 0 did not wait for data, mean: {'; '.join(said[:6])}."
    title = "Accelerator utilisation"
    return [Chart("accelerator_utilisation", title, sentence, "epoch", "share", series, is_share=True)]


def input_rate(records: Records) -> list[Chart]:
    """Return the GB/s that ranks together read, as tensors, in training and refreshing."""
    series, said = [], []
    for i, group in enumerate(records.groups[:10], 0 if records.baseline else 1):
        run = group.first
        seconds = run.column("seconds", "train") + np.nan_to_num(run.column("seconds", "refresh"))
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = run.column("input_bytes") / seconds / 1e9
        if np.isfinite(rate).any():
            series.append(Series(group.name, run.column("epoch"), rate, color=i, dashed=i == 0))
            said.append(f"{group.name} {np.nanmedian(rate):.3g}")
    if not series:
        return []
    sentence = f"GB of input tensors in a second of training and refreshing, median: {'; '.join(said[:6])}."
    return [Chart("input_rate", "Input rate", sentence, "epoch", "GB / s", series)]


def energy(records: Records) -> list[Chart]:
    """Return joules a sample of every epoch, where meters could be read."""
    series, said = [], []
    for i, group in enumerate(records.groups[:10], 0 if records.baseline else 1):
        run = group.first
        parts = [run.column(f"energy_{part}_j") for part in ("gpu", "cpu")]
        if np.isfinite(parts).any():
            joules = np.nansum(parts, axis=0)
            series.append(Series(group.name, run.column("epoch"), joules / run.column("n_samples"), color=i))
            said.append(f"{group.name} {joules.sum():,.0f} J in all")
    if not series:
        return []
    sentence = f"Joules of GPUs and processors as far as they can be read: {'; '.join(said[:6])}."
    return [Chart("energy", "Energy", sentence, "epoch", "J / sample", series)]
