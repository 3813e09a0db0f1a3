"""Every job that comes with the package is right, and fits the ranks that it names."""

import pytest

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import jobs_dir
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.selection import METHODS

RANKS = {"deepcam_kakurenbo": 1024, "deepcam_mlperf": 1024}


@pytest.mark.parametrize("path", sorted(jobs_dir().glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_job_can_be_run(path):
    job = read_job(path, [], DATASETS, METHODS)
    assert job.name == path.stem
    assert job.training.batch(RANKS.get(job.name, 2)) == {
        "deepcam_kakurenbo": 1024,
        "deepcam_mlperf": 2048,
    }.get(job.name, job.training.global_batch)


def test_deepcam_s_warm_up_and_milestones_are_the_baseline_s_steps():
    """122,000 samples, 1,024 a step: 120 steps an epoch."""
    training = read_job(jobs_dir() / "deepcam_kakurenbo.yaml", [], DATASETS, METHODS).training.in_epochs(
        122_000, 1024
    )
    assert (training.warmup_epochs, training.milestones) == (400 / 120, [800 / 120])
