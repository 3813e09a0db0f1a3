"""Scoring runs: the learning rate of their epochs."""

import pytest

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.score import score
from kakurenbo_hpc.selection import METHODS
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
