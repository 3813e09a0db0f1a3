"""Every job that comes with the package is right, and fits the ranks that it names."""

import pytest
from support.paper_jobs import JOBS, nodes_of

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job, jobs_dir
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


PAPER_BATCHES = {
    "kakurenbo/resnet50": 2048,
    "kakurenbo/deit_tiny_fractal3k": 512,
    "kakurenbo/deit_tiny_cifar10": 768,
    "kakurenbo/deit_tiny_cifar100": 768,
    "infobatch/resnet18_imagenet": 1024,
    "infobatch/resnet50_imagenet": 1024,
    "infobatch/upernet_ade20k": 16,
    "sample_importance/resnet50_imagenet": 256,
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_of_a_paper_fits_its_ranks(name):
    job = read_job(find_job(name), [], DATASETS, METHODS)
    paper, _, row = name.partition("/")
    assert job.name == f"{paper}_{row}"
    batch = PAPER_BATCHES.get(name, 1024 if paper == "kakurenbo" else 128)
    assert job.training.batch(4 * nodes_of(name)) == batch


@pytest.mark.parametrize(
    ("name", "lr"),
    [("resnet50_a", 0.4), ("resnet50", 3.52), ("wrn28_10_cifar100", 0.8), ("deit_tiny_cifar10", 0.01)],
)
def test_kakurenbos_rates_are_per_rank(name, lr):
    job = read_job(find_job(f"kakurenbo/{name}"), [], DATASETS, METHODS)
    assert job.training.peak_lr(32) == pytest.approx(lr)


def test_deepcam_s_warm_up_and_milestones_are_the_baseline_s_steps():
    """122,000 samples, 1,024 a step: 120 steps an epoch."""
    training = read_job(jobs_dir() / "deepcam_kakurenbo.yaml", [], DATASETS, METHODS).training.in_epochs(
        122_000, 1024
    )
    assert (training.warmup_epochs, training.milestones) == (400 / 120, [800 / 120])
