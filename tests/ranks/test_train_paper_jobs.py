"""Every job of the four papers trains two steps on real ranks, its network whole, from small data as it is
downloaded.
"""

import warnings

import pytest
from support.paper_jobs import JOBS, N_TRAIN, write_data
from support.runs import lines, meet, train_here

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import DONE
from kakurenbo_hpc.selection import METHODS

pytestmark = pytest.mark.ranks(2, limit_s=600)
ELSEWHERE = "infobatch/upernet_ade20k"  # tests/ranks/test_ade20k.py, where what it needs is installed
BY_DEFAULT = (
    "kakurenbo/deit_tiny_cifar10",  # and its pretraining
    "selective_backprop/mobilenet_v2_cifar10",
    "sample_importance/lenet_cifar10",
)
CASES = [
    pytest.param(job, marks=[pytest.mark.nightly] * (job not in BY_DEFAULT))
    for job in JOBS
    if job != ELSEWHERE
]
BATCH = N_TRAIN // 2
TWO_STEPS = [
    "training.epochs=1",
    f"training.global_batch={BATCH}",
    "training.batch_per_rank=null",
    "training.lr_scaling=none",
    "training.warmup_epochs=0",
    "training.warmup_steps=0",
    "training.precision=fp32",
    "record.weights_at=[]",
    "data.workers=0",
]


@pytest.fixture(scope="module")
def trained(module_comm, tmp_path_factory):
    """Trains a job once, after the one whose weights it begins with: its run directory. Collective."""
    folder, runs = tmp_path_factory.mktemp("papers"), {}
    if module_comm.rank == 0:
        write_data(folder)
    meet(module_comm)

    def train(name):
        if name not in runs:
            job = read_job(find_job(name), [], DATASETS, METHODS)
            sets = [*TWO_STEPS, f"data.path={folder / job.data.path}"]
            if job.model.weights_from:
                before = train(job.model.weights_from.removeprefix("runs/").replace("_", "/", 1))
                sets.append(f"model.weights_from={before}")
            runs[name] = folder / job.name
            scratch = str(folder / "scratch")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1 x 1 convolutions
                assert train_here(name, sets, runs[name], module_comm, scratch=scratch) == DONE
        return runs[name]

    return train


@pytest.mark.parametrize("job", CASES)
def test_a_job_of_a_paper_trains_two_steps(job, trained):
    (line,) = lines(trained(job))
    n = N_TRAIN * (5 if "augmented" in job else 1)
    assert line["n_samples"] == n and line["train_loss"] is not None and line["val_loss"] is not None
    if not job.startswith("selective_backprop/"):  # whose steps follow from its choices
        assert line["steps"] == n / BATCH
