"""Run directories for tests of the report: metrics as the driver writes them, without training."""

import json
from pathlib import Path

import h5py
import numpy as np
import yaml


def line(epoch: int, hidden: float = 0.0, accuracy: float | None = None) -> dict:
    """Return an epoch's metrics."""
    n_hidden = round(1000 * hidden)
    return {
        "epoch": epoch,
        "train_loss": 2 / (epoch + 1),
        "val_loss": 1 / (epoch + 1),
        "val_accuracy": 1 - 0.5 / (epoch + 1) if accuracy is None else accuracy,
        "n_samples": 1000,
        "n_candidates": n_hidden,
        "n_moved_back": 0,
        "n_hidden": n_hidden,
        "hidden_fraction": hidden,
        "max_fraction": 0.3,
        "n_forward": 1000,
        "n_backward": 1000 - n_hidden,
        "n_nan": 0,
        "n_skipped_steps": 0,
        "lr": 0.1,
        "lr_scale": 1.0,
        "steps": 20,
        "loss_histogram": {"edges": [0.25, 0.5, 1.0, 2.0, 4.0], "counts": [100 * epoch + 1, 300, 400, 200]},
        "seconds": {
            "plan": 0.1,
            "train": 2.0 - hidden,
            "refresh": 0.2,
            "evaluate": 0.1,
            "total": 2.4 - hidden,
        },
    }


def make_run(
    path: Path,
    method: str = "everything",
    *,
    epochs: int = 4,
    lines=None,
    seed: int = 1,
    ranks: int = 2,
    data: str = "digits",
) -> Path:
    """Write a run directory and return it."""
    path.mkdir(parents=True)
    hidden = 0.0 if method == "everything" else 0.25
    lines = [line(epoch, hidden if epoch else 0.0) for epoch in range(epochs)] if lines is None else lines
    job = {
        "name": path.name,
        "seed": seed,
        "training": {"epochs": epochs},
        "selection": {"method": method},
        "data": {"name": data},
    }
    (path / "job.yaml").write_text(yaml.safe_dump(job))
    (path / "provenance.json").write_text(json.dumps({"kakurenbo_hpc": "1.0", "ranks": ranks}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def add_ledger(run: Path, epoch: int, **columns: np.ndarray) -> Path:
    """Write a ledger file with these columns and return its path."""
    path = run / "ledger" / f"epoch_{epoch:04d}.h5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
    return path


def add_records(run: Path, epochs: int = 4, ranks: int = 3) -> None:
    """Write all that a run records where it is asked to, with hostile class names."""
    rng = np.random.default_rng(1)
    n = 60
    label = (np.arange(n) % 3).astype(np.int32)
    for epoch in range(epochs):
        columns = {"loss": rng.lognormal(size=n).astype(np.float32), "label": label}
        columns |= {"train": np.arange(n) % 2, "weight": np.full(n, 2.0, np.float32)}
        columns |= {"seen_epoch": np.full(n, epoch - 1), "selection_probability": rng.uniform(size=n)}
        add_ledger(run, epoch, **columns)
        _write(run / "test" / f"epoch_{epoch:04d}.h5", probability=rng.uniform(size=n), correct=label > 0)
        _write(run / "weights" / f"epoch_{epoch:04d}.h5", score=rng.uniform(size=n), label=label)
    stages = ["train", "data_wait", "gradient_exchange"]
    seconds = np.ones((epochs, ranks, 3)) * [10.0, 1.0, 2.0]
    seconds[:, 1, 2] = 0.5  # rank 1 computes most, so it waits least
    _write(run / "rank_seconds.h5", epoch=np.arange(epochs), stage=stages, seconds=seconds)
    _write(
        run / "images.h5",
        image=rng.integers(0, 255, (4, 6, 6, 3)).astype(np.uint8),
        id=np.arange(4),
        loss=np.array([9.0, 8.0, 0.1, 0.2]),
        label=np.array([0, 1, 2, -1]),
        by=["loss"] * 4,
        is_highest=np.array([True, True, False, False]),
    )
    (run / "classes.json").write_text(json.dumps(["<b>cat</b>", "\u202edog" + "g" * 300, "_c"]))
    (run / "exits.jsonl").write_text(
        '{"time": "2026-01-01T00:00:00+00:00", "event": "stopped", "why": "<i>USR1</i>", "code": 75}\n{"ev'
    )
    agreement = {"cosine": [0.8, 1.0], "signs": [0.7, 1.0]}
    probe = {"shares": [0.1, 1.0], "high_loss": agreement, "random": agreement}
    (run / "gradients.json").write_text(
        json.dumps(probe | {"plan": {"cosine": 0.9, "weighted_cosine": 0.95}})
    )


def _write(path: Path, **columns) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = [text.encode() for text in column] if isinstance(column, list) else column
