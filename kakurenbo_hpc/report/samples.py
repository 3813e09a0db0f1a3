"""Charts of single samples and classes: probabilities, weights, confidence, thumbnails."""

from __future__ import annotations

import json

import numpy as np

from .chart import Chart, Series
from .records import Group, Records, Run

_CLASSES = 50
_CURVE = np.linspace(0, 1, 101)


def selection_probability(records: Records) -> list[Chart]:
    """Return the probability of being trained over the percentile of the loss.

    Source: Jiang et al. 2019, figure 4.
    """
    series = []
    for i, group in enumerate(_with(records, "ledger"), 1):
        columns = _of_epoch(group.first, "ledger", records)
        probability = _probability(group.first, columns)
        if probability is not None and len(probability) > 1:
            percentile, mean = _binned(_percentile(columns["loss"]), probability)
            series.append(Series(group.name, percentile, mean, color=i))
    if not series:
        return []
    said = "Mean number of times that a sample of this loss percentile is trained in the epoch: " + "; ".join(
        f"{s.name} {s.y[0]:.2f} at the lowest, {s.y[-1]:.2f} at the highest" for s in series[:4]
    )
    title = "Selection probability"
    return [Chart("selection_probability", title, f"{said}.", "loss percentile", "times trained", series)]


def sample_history(records: Records) -> list[Chart]:
    """Return the selection probability of a few samples in all epochs; without hiding, what it would be.

    Source: Jiang et al. 2019, figure 15.
    """
    charts: list[Chart] = []
    for i, group in enumerate(_with(records, "ledger")):
        run, epochs, rows = group.first, [], []
        ids = None
        for epoch, columns in run.ledgers():
            probability = _probability(run, columns)
            if probability is None and "loss" in columns and np.isfinite(columns["loss"]).any():
                probability = _percentile(columns["loss"])
            if probability is None:
                continue
            ids = (
                np.linspace(0, len(probability) - 1, records.choices.ids).astype(int) if ids is None else ids
            )
            if len(probability) > ids[-1]:
                epochs.append(epoch)
                rows.append(probability[ids])
        if ids is None or len(epochs) < 2:
            continue
        values = np.array(rows)
        variance = float(np.var(values, axis=0).mean())
        series = [Series(f"id {n}", epochs, values[:, j], color=j + 1) for j, n in enumerate(ids)]
        name = "sample_history" if not charts else f"sample_history_{i + 1}"
        said = f"Five samples of {group.name}: the mean variance over epochs is {variance:.3g}.".replace(
            "Five", f"{len(ids)}"
        )
        axis = "times trained, or loss percentile"
        charts.append(Chart(name, f"Single samples: {group.name}", said, "epoch", axis, series))
    return charts


def confidence_percentiles(records: Records) -> list[Chart]:
    """Return the confidence in the target, and the accuracy, by percentile of the test set.

    Source: Jiang et al. 2019, figures 8 and 9.
    """
    confidence, accuracy = [], []
    for i, group in enumerate(_with(records, "test"), 0 if records.baseline else 1):
        columns = _of_epoch(group.first, "test", records)
        if not {"probability", "correct"} <= columns.keys() or not len(columns["probability"]):
            continue
        order = np.argsort(columns["probability"], kind="stable")
        at = np.minimum((_CURVE * len(order)).astype(int), len(order) - 1)
        confidence.append(Series(group.name, _CURVE, columns["probability"][order][at], color=i))
        window = max(1, len(order) // 20)
        smooth = np.convolve(columns["correct"][order].astype(float), np.ones(window) / window, "same")
        accuracy.append(Series(group.name, _CURVE, np.clip(smooth[at], 0, 1), color=i))
    if not confidence:
        return []
    said = "At the 20th percentile of the test set, confidence in the target is " + "; ".join(
        f"{s.y[20]:.1%} for {s.name}" for s in confidence[:4]
    )
    return [
        Chart(name, title, f"{said}.", "percentile of the test set", y, series, is_share=True)
        for name, title, y, series in (
            ("confidence_percentiles", "Confidence in the target", "confidence", confidence),
            ("confidence_percentiles_accuracy", "Accuracy by confidence", "correct", accuracy),
        )
    ]


def class_weights(records: Records) -> list[Chart]:
    """Return the mean weight of each class by weights file, with Spearman's correlation of successive ones.

    Source: Sample Importance in SGD Training, figures 3, 9, 11 and 15.
    """
    found = []
    for group in records.groups:
        for epoch, name in group.first.files_of("weights").items():
            columns = group.first.hdf5(name)
            if {"score", "label"} <= columns.keys() and len(columns["label"]):
                found.append((f"{group.name}, epoch {epoch}", group.first, columns))
    if not found:
        return []
    series, means = [], []
    for i, (name, run, columns) in enumerate(found[:8], 1):
        score, label = columns["score"], columns["label"]
        own = np.isfinite(score) & (label >= 0) & (label < _CLASSES)
        n = np.bincount(label[own], minlength=1)
        mean = np.bincount(label[own], score[own]) / np.maximum(n, 1)
        names = run.classes() or [f"{c}" for c in range(len(mean))]
        means.append(mean / max(mean.sum(), 1e-300))
        series.append(Series(name, names[: len(mean)], means[-1], color=i))
    pairs = [_spearman(a, b) for a, b in zip(means, means[1:], strict=False) if len(a) == len(b)]
    hardest, easiest = (int(f(means[-1])) for f in (np.argmax, np.argmin))
    labels = series[-1].x
    said = f"In {series[-1].name}, class {labels[hardest]} weighs most and {labels[easiest]} least."
    if pairs:
        said += f" Spearman's correlation of successive weights: {', '.join(f'{p:.2f}' for p in pairs)}."
    same = [s for s in series if len(s.x) == len(labels)]
    lines = [Series(s.name, np.arange(len(labels)), s.y, color=s.color) for s in same]
    table = (["", *map(str, labels)], [[s.name, *map(float, s.y)] for s in same])
    return [
        Chart("class_weights", "Weight by class", said, "class", "share of the weight", lines, table=table)
    ]


def weight_spread(records: Records) -> list[Chart]:
    """Return mean and spread of the samples' weights over seeds, by rank of the mean.

    Source: Sample Importance in SGD Training, figure 13.
    """
    charts: list[Chart] = []
    for i, group in enumerate(records.groups):
        of_runs = []
        for run in group.runs:
            names = list(run.files_of("weights").values())
            score = run.hdf5(names[-1]).get("score") if names else None
            if score is not None and np.isfinite(score).all() and score.sum() > 0:
                of_runs.append(score / score.sum() * len(score))
        if len(of_runs) < 2 or len({len(score) for score in of_runs}) > 1:
            continue
        weights = np.sort(np.array(of_runs), axis=0)[:, np.argsort(np.mean(of_runs, axis=0))]
        at = np.unique(np.linspace(0, weights.shape[1] - 1, 200).astype(int))
        mean, low, high = weights.mean(0)[at], weights.min(0)[at], weights.max(0)[at]
        rank = at / max(1, weights.shape[1] - 1)
        said = f"Weights of {group.name} over {len(of_runs)} seeds: mean, and from the least to the largest."
        name = "weight_spread" if not charts else f"weight_spread_{i + 1}"
        series = [Series(group.name, rank, mean, low, high, color=1)]
        charts.append(Chart(name, f"Spread of weights: {group.name}", said, "rank", "weight", series))
    return charts


def samples(records: Records) -> list[Chart]:
    """Return the thumbnails that runs wrote, of highest and lowest loss or weight."""
    charts = []
    for group in records.groups[:10]:
        columns = group.first.hdf5("images.h5")
        chart = _sheet_of(group, columns, records) if "image" in columns else None
        charts += [] if chart is None else [chart]
    return charts


def _sheet_of(group: Group, columns: dict[str, np.ndarray], records: Records) -> Chart | None:
    choices, names = records.choices, group.first.classes()
    by = np.array([text.decode() for text in columns["by"]])
    wanted = {"highest": [True], "lowest": [False]}.get(choices.extreme, [True, False])
    parts = [
        (extreme, np.flatnonzero((by == choices.by) & (columns["is_highest"] == extreme)))
        for extreme in wanted
    ]
    parts = [(extreme, chosen) for extreme, chosen in parts if len(chosen)]
    if not parts:
        return None
    lines, ticks, rows = [], [], []
    for extreme, chosen in parts:
        word = f"{'highest' if extreme else 'lowest'} {choices.by}"
        for first in range(0, len(chosen), 8):
            lines.append(_line_of(columns["image"], chosen[first : first + 8]))
            ticks.append(word if first == 0 else "")
        for i in chosen:
            label = int(columns["label"][i])
            name = names[label] if 0 <= label < len(names) else f"{label}" if label >= 0 else "\u2013"
            rows.append([word, f"{columns['id'][i]}", name, f"{columns['loss'][i]:.4g}"])
    said = f"Samples of {group.name} of {' and of '.join(dict.fromkeys(row[0] for row in rows))}."
    return Chart(
        f"samples_{records.groups.index(group) + 1}" if group is not records.groups[0] else "samples",
        f"Easiest and hardest: {group.name}" if not choices.extreme else f"Samples: {group.name}",
        said,
        "",
        "",
        [],
        "sheet",
        table=(["", "id", "class", "loss"], rows),
        image=np.concatenate(lines),
        ticks=ticks,
    )


def _line_of(images: np.ndarray, chosen: np.ndarray, n: int = 8) -> np.ndarray:
    """Return a line of n thumbnails, with a white pixel around each."""
    framed = np.pad(images[chosen], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    line = np.concatenate(list(framed), axis=1)
    width = n * framed.shape[2]
    return np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255)


def gradient_agreement(records: Records) -> list[Chart]:
    """Return cosine and sign agreement of partial gradients with the full one, by ``kakurenbo probe``.

    Source: Jiang et al. 2019, figure 5.
    """
    charts: list[Chart] = []
    for group, probe in _probes(records):
        for measure, title in (("cosine", "Cosine"), ("signs", "Signs that agree")):
            series = [
                Series(kind.replace("_", " "), probe["shares"], np.array(probe[kind][measure]), color=i)
                for i, kind in enumerate(("high_loss", "random"), 1)
            ]
            said = f"At a share of {probe['shares'][0]:.0%}, {title.lower()} with the full gradient of "
            said += f"{group.name}: " + ", ".join(f"{s.name} {s.y[0]:.2f}" for s in series)
            name = f"gradient_agreement_{measure}_{len(charts) + 1}" if charts else "gradient_agreement"
            axis = "share of the samples"
            charts.append(Chart(name, f"{title}: {group.name}", f"{said}.", axis, title.lower(), series))
    return charts


def gradient_bias(records: Records) -> list[Chart]:
    """Return how far the gradient of the next plan is from the full one, plain and with its weights.

    Source: Qin et al. 2024 (InfoBatch), figure 1.
    """
    probes = [(group, probe) for group, probe in _probes(records) if "plan" in probe]
    if not probes:
        return []
    names = [group.name for group, _ in probes]
    values = {
        key: np.array([probe["plan"][key] for _, probe in probes]) for key in ("cosine", "weighted_cosine")
    }
    said = "Cosine of the planned samples' gradient with that of all: " + "; ".join(
        f"{name} {plain:.3f}, weighted {weighted:.3f}"
        for name, plain, weighted in zip(names, *values.values(), strict=True)
    )
    series = [
        Series(key.replace("_", " "), names, v, color=i) for i, (key, v) in enumerate(values.items(), 1)
    ]
    lines = [Series(s.name, np.arange(len(names)), s.y, color=s.color) for s in series]
    table = (["", *names], [[s.name, *map(float, s.y)] for s in series])
    return [Chart("gradient_bias", "Gradient of the plan", f"{said}.", "run", "cosine", lines, table=table)]


def _probes(records: Records) -> list[tuple[Group, dict]]:
    found = []
    for group in records.groups[:10]:
        try:
            probe = json.loads((group.first.path / "gradients.json").read_text(encoding="utf-8"))
            _ = [len(probe[kind]["cosine"]) for kind in ("high_loss", "random")]
            found.append((group, probe))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _with(records: Records, folder: str) -> list[Group]:
    return [group for group in records.groups[:10] if group.first.files_of(folder)]


def _of_epoch(run: Run, folder: str, records: Records) -> dict[str, np.ndarray]:
    """Return the columns of the epoch that was asked for, or of the last; nothing if it has none."""
    names = run.files_of(folder)
    epoch = max(names, default=0) if records.choices.epoch is None else records.choices.epoch
    if epoch not in names:
        run.tell(f"{folder}: no file of epoch {epoch}")
        return {}
    return run.hdf5(names[epoch])


def _probability(run: Run, columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return how often each sample was expected to be trained; None where that was not recorded.

    Of Selective-Backprop, whose choice is made in the epoch, it is that of the losses in the ledger.
    """
    if "selection_probability" in columns:
        return columns["selection_probability"]
    selection = run.job.get("selection")
    if run.method != "selective_backprop" or not isinstance(selection, dict) or "loss" not in columns:
        return (
            columns["train"].astype(np.float64) if "train" in columns and run.method != "everything" else None
        )
    share, beta = selection.get("selectivity"), selection.get("beta")
    exponent = beta if isinstance(beta, int | float) else 1 / share - 1 if share else 1.0
    return _percentile(columns["loss"]) ** exponent


def _percentile(loss: np.ndarray) -> np.ndarray:
    """Return the share of losses that are at most each one; 1 where it is not finite."""
    known = np.where(np.isfinite(loss), loss, np.inf)
    return np.searchsorted(np.sort(known), known, side="right") / max(1, len(known))


def _binned(x: np.ndarray, y: np.ndarray, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of y in each of n bins of x, where there is any."""
    which = np.minimum((x * n).astype(int), n - 1)
    counts = np.bincount(which, minlength=n)
    some = counts > 0
    return (np.arange(n)[some] + 0.5) / n, np.bincount(which, y, n)[some] / counts[some]


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(x, y)[0, 1]) if len(a) > 1 else np.nan
