"""The laws that `kakurenbo_hpc.testing` runs on a stranger's class hold for all of ours."""

import pytest
from hypothesis import settings

from kakurenbo_hpc.cluster.schedulers import SCHEDULERS
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.testing import LawBroken, check_dataset, check_method, check_scheduler

JOB_IDS = {
    "slurm": {"SLURM_JOB_ID": "12"},
    "pbs": {"PBS_JOBID": "12.here"},
    "flux": {"FLUX_ENCLOSING_ID": "f12"},
}
SMALL = {"classes": 3, "instances": 5, "validation": 3, "pixels": 16}


@pytest.mark.parametrize("name", METHODS.own)
def test_of_methods(name):
    check_method(
        METHODS[name],
        examples=settings().max_examples // 6,
        **({"scores": "any.h5"} if name in ("static", "rho_loss") else {}),
    )


@pytest.mark.parametrize("name", SCHEDULERS.own)
def test_of_schedulers(name):
    check_scheduler(SCHEDULERS[name], environ=JOB_IDS[name])


def test_of_data_sets():
    check_dataset(DATASETS["visual_atoms"], changed={"seed": 4}, augmentation=["flip", "cutout"], **SMALL)


def test_a_fingerprint_that_does_not_change_is_found():
    with pytest.raises(LawBroken, match="the fingerprint is the same for the same samples, and another"):
        check_dataset(DATASETS["visual_atoms"], changed={"workers": 2}, **SMALL)
