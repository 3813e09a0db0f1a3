"""How long a report takes and how large its page is, of made runs.

    python scripts/bench_report.py [--runs 100] [--epochs 200]

Seconds are CPU time of whole commands, Python's start included: load does not change it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from bench_common import header, say, verdict

N = 1_281_167


def make_run(folder: Path, number: int, epochs: int) -> None:
    """Write a run directory as the driver leaves it; number 0 is the baseline."""
    rng, run = np.random.default_rng(number), folder / f"run{number:03d}"
    run.mkdir()
    selection = {"method": "kakurenbo" if number else "everything"}
    job = {"name": run.name, "training": {"epochs": epochs, "lr": 0.1 + number}, "selection": selection}
    (run / "job.yaml").write_text(yaml.safe_dump(job))
    (run / "provenance.json").write_text(json.dumps({"ranks": 2}))
    with open(run / "metrics.jsonl", "w") as file:
        for epoch in range(epochs):
            file.write(json.dumps(_line(epoch, 0.3 * min(1, epoch / 20) if number else 0, rng)) + "\n")


def _line(epoch: int, hidden: float, rng: np.random.Generator) -> dict:
    n_hidden = int(N * hidden * rng.uniform(0.9, 1))
    stages = {"plan": 0.1, "train": 100 * (1 - hidden), "refresh": 20 * hidden, "evaluate": 5.0}
    seconds = {name: value * rng.uniform(0.97, 1.03) for name, value in stages.items()}
    return {
        "epoch": epoch,
        "train_loss": 5 * np.exp(-epoch / 50),
        "val_loss": rng.uniform(),
        "val_accuracy": 0.76 - 0.7 * np.exp(-epoch / 40) + 0.003 * rng.normal(),
        "n_samples": N,
        "n_candidates": n_hidden,
        "n_moved_back": n_hidden // 9,
        "n_hidden": n_hidden,
        "hidden_fraction": n_hidden / N,
        "max_fraction": 0.3,
        "n_forward": N,
        "n_backward": N - n_hidden,
        "n_nan": 0,
        "n_skipped_steps": 0,
        "lr": 0.1,
        "lr_scale": N / (N - n_hidden),
        "steps": 1251,
        "loss_histogram": {
            "edges": np.geomspace(1e-6, 1e3, 109).tolist(),
            "counts": rng.integers(0, 5000, 108).tolist(),
        },
        "seconds": seconds | {"total": sum(seconds.values())},
    }


def seconds_of(*words: object) -> float:
    """Return the CPU seconds of kakurenbo report with these words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["kakurenbo", "report", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="runs (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=200, help="of each (default: %(default)s)")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder, few = Path(name, "all"), Path(name, "few")
        folder.mkdir(), few.mkdir()
        say(f"{asked.runs} runs of {asked.epochs} epochs ...")
        for number in range(asked.runs):
            make_run(folder, number, asked.epochs)
        for number in range(min(10, asked.runs)):
            (few / f"run{number:03d}").symlink_to(folder / f"run{number:03d}")
        page_s = seconds_of(folder, "--out", f"{name}/all.html")
        few_s = seconds_of(few, "--out", f"{name}/few.html")
        text_s = seconds_of(few, "--text")
        all_mb, few_mb = (Path(name, f"{which}.html").stat().st_size / 1e6 for which in ("all", "few"))
    print(f"result:    {page_s:.1f} s and {all_mb:.2f} MB for the page of {asked.runs} runs")
    print(header(("numpy", "matplotlib"), "1"))
    print(f"\npage of {min(10, asked.runs)} runs: {few_s:.1f} s; --text of them: {text_s:.2f} s\n")
    print(verdict(page_s < 30, f"a page of {asked.runs} runs in less than 30 s: {page_s:.1f}"))
    print(verdict(all_mb < 3, f"of less than 3 MB: {all_mb:.2f}"))
    print(verdict(few_mb < 1, f"that of ten runs of less than 1 MB: {few_mb:.2f}"))
    print(verdict(text_s < 1, f"--text of ten runs in less than 1 s: {text_s:.2f}"))


if __name__ == "__main__":
    main(sys.argv[1:])
