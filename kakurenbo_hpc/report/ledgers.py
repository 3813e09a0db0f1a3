"""Charts made of ledger files, which are read one epoch at a time."""

from __future__ import annotations

import numpy as np

from .chart import Chart, Series
from .records import Run

_LAST = 10
_AGES = 10
_CLASSES = 50


def loss_top_bottom(run: Run, title: str, name: str, share: float) -> Chart | None:
    """Return the losses of a share of the highest and of the rest, in the last ten epochs together.

    Source: KAKURENBO, appendix, figure 6.
    """
    edges = np.geomspace(1e-6, 1e3, 109)
    top, bottom = f"top {100 * share:g} %", f"bottom {100 - 100 * share:g} %"
    counts = {bottom: np.zeros(108), top: np.zeros(108)}
    last = sorted((run.path / "ledger").glob("epoch_*.h5"))[-_LAST:]
    first = int(last[0].stem.removeprefix("epoch_")) if last else 0
    for epoch, columns in run.ledgers(first):
        if epoch and (loss := columns.get("loss")) is not None and (loss := loss[np.isfinite(loss)]).size:
            is_top = loss > np.quantile(loss, 1 - share)
            for label, chosen in ((bottom, ~is_top), (top, is_top)):
                counts[label] += np.histogram(np.maximum(loss[chosen], 1e-6), edges)[0]
    total = sum(values.sum() for values in counts.values())
    if not total:
        return None
    middle = np.sqrt(edges[1:] * edges[:-1])
    seen = np.flatnonzero(sum(counts.values()))
    kept = slice(max(seen[0] - 1, 0), seen[-1] + 2)
    series = [Series(k, middle[kept], v[kept] / total, color=i) for i, (k, v) in enumerate(counts.items(), 1)]
    said = f"Losses of {title} in the last {len(last)} ledgers: the {top} of each epoch, and the rest."
    return Chart(
        name, f"Highest losses apart: {title}", said, "loss", "samples", series, is_share=True, log_x=True
    )


def weighted_losses(run: Run, title: str, name: str, epoch: int | None) -> Chart | None:
    """Return the losses of all samples of an epoch, of those trained, and of these by their weights.

    Source: InfoBatch, figure 5.
    """
    names = run.files_of("ledger")
    columns = run.hdf5(names.get(max(names, default=0) if epoch is None else epoch, "none"))
    if not {"loss", "train", "weight"} <= columns.keys() or not np.isfinite(columns["loss"]).any():
        return None
    loss, edges = np.maximum(columns["loss"], 1e-6), np.geomspace(1e-6, 1e3, 55)
    known = np.isfinite(loss)
    factors = {
        "all": known.astype(np.float64),
        "trained": np.where(known, columns["train"], 0).astype(np.float64),
        "trained, by weight": np.where(known, columns["train"] * columns["weight"], 0.0),
    }
    middle = np.sqrt(edges[1:] * edges[:-1])
    counts = {
        k: np.histogram(loss[known], edges, weights=f[known])[0] / len(loss) for k, f in factors.items()
    }
    seen = np.flatnonzero(counts["all"])
    kept = slice(max(seen[0] - 1, 0), seen[-1] + 2)
    series = [
        Series(k, middle[kept], v[kept], color=i, dashed=i == 0) for i, (k, v) in enumerate(counts.items())
    ]
    sums = ", ".join(f"{k} {v.sum():.2f}" for k, v in counts.items())
    said = f"Losses of {title} that an epoch was planned on; samples counted: {sums} of the data set."
    title = f"Losses by weight: {title}"
    return Chart(name, title, said, "loss", "samples", series, is_share=True, log_x=True)


def hidden_by_age(run: Run, title: str, name: str, top: float = 0.0) -> Chart | None:
    """Return the hidden share of the samples by how many epochs ago each was last seen."""
    n_hidden, n_all = np.zeros(_AGES), np.zeros(_AGES)
    for epoch, columns in run.ledgers():
        if {"seen_epoch", "train"} <= columns.keys():
            seen = columns["seen_epoch"] >= 0
            age = np.clip(epoch - columns["seen_epoch"][seen], 1, _AGES) - 1
            n_all += np.bincount(age, minlength=_AGES)
            n_hidden += np.bincount(age[columns["train"][seen] == 0], minlength=_AGES)
    known = np.flatnonzero(n_all)
    if not n_hidden.sum() or len(known) < 2:  # methods that refresh what they hide know one age alone
        return None
    share = n_hidden[known] / n_all[known]
    labels = [f"{age + 1}" + (" or more" if age == _AGES - 1 else "") for age in known]
    said = f"Of the samples of {title} last seen one epoch ago, {share[0]:.1%} are hidden."
    return Chart(
        name,
        f"Hidden by age: {title}",
        said,
        "epochs since last seen",
        "hidden",
        [Series("hidden", labels, share)],
        "bars",
        is_share=True,
    )


def hidden_per_class(run: Run, title: str, name: str, top: float = 0.0) -> Chart | None:
    """Return the hidden share of each of the first 50 classes, over all epochs; needs labels in the ledger.

    Source: KAKURENBO, appendix, figure 2.
    """
    n_hidden, n_all = np.zeros(_CLASSES), np.zeros(_CLASSES)
    for _, columns in run.ledgers():
        if {"label", "train"} <= columns.keys():
            own = (columns["label"] >= 0) & (columns["label"] < _CLASSES)
            label, hidden = columns["label"][own].astype(np.int64), columns["train"][own] == 0
            n_all += np.bincount(label, minlength=_CLASSES)
            n_hidden += np.bincount(label[hidden], minlength=_CLASSES)
    known = np.flatnonzero(n_all)
    if not n_hidden.sum():
        return None
    share = n_hidden[known] / n_all[known]
    names = run.classes() or [f"{c}" for c in range(_CLASSES)]
    labels = [names[c] if c < len(names) else f"{c}" for c in known]
    most, least = labels[int(np.argmax(share))], labels[int(np.argmin(share))]
    said = f"{title} hides class {most} most ({share.max():.1%}) and class {least} least ({share.min():.1%})."
    return Chart(
        name,
        f"Hidden per class: {title}",
        said,
        "class",
        "hidden",
        [Series("hidden", labels, share)],
        "bars",
        is_share=True,
    )
