"""Scoring runs: the learning rate of their epochs; what is trained with their weights."""

import numpy as np
import pytest
from support.runs import lines, train_here

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.score import score
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.score_file import ScoreInfo, write_scores
from kakurenbo_hpc.selection.subsets.recipe import read_recipe
from kakurenbo_hpc.training.schedule import Schedule

TINY = [
    "training={epochs: 4, global_batch: 10, lr: 0.01, schedule: cosine, warmup_epochs: 1}",
    "data={name: visual_atoms, classes: 2, instances: 10, validation: 5, pixels: 16}",
    "model.options={width: 2}",
]


@pytest.mark.parametrize("epochs", [2, 8])
def test_a_scoring_run_never_outlives_its_schedule(epochs, tmp_path, monkeypatch):
    rates, set_rate = [], Schedule.set
    monkeypatch.setattr(Schedule, "set", lambda *given: rates.append(set_rate(*given)))
    job = read_job(find_job("digits_everything"), TINY, DATASETS, METHODS)
    score(read_recipe("forgetting", epochs), job, tmp_path / "scores.h5", SerialComm())
    assert len(rates) >= 2 * epochs and min(rates[2:]) > 1e-5 and max(rates) > 0.005


def test_weights_with_mean_one_over_batches_of_one_sample_are_no_weights(tmp_path):
    job = read_job(find_job("digits_everything"), TINY, DATASETS, METHODS)
    data = open_data(job.data, job.seed, SerialComm())
    n, label = len(data.train), np.asarray(data.train.labels())
    about = ScoreInfo("craig", "", "drawn", data.fingerprint, n, 0.0, 0, 0, "all", 0.5, weighted=True)
    losses = {}
    for name, weight, normalise in [
        ("none", np.ones(n), "subset"),
        ("subset", (1 + np.arange(n)) ** 3.0, "subset"),
        ("batch", (1 + np.arange(n)) ** 3.0, "batch"),
    ]:
        path, run = tmp_path / f"{name}.h5", tmp_path / name
        write_scores(path, about, np.zeros(n), SerialComm(), label, np.arange(n), weight)
        subset = f"selection={{method: static, fraction: 0.5, scores: {path}, normalise: {normalise}}}"
        sets = [*TINY, "training={epochs: 1, global_batch: 1, lr: 0.01}", subset]
        train_here("digits_everything", sets, run, SerialComm())
        losses[name] = [line["train_loss"] for line in lines(run)]
    assert losses["batch"] == losses["none"] != losses["subset"]
