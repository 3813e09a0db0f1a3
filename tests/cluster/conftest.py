"""What several tests of the launcher start from."""

import pytest
from support.slurm_cluster import slurm_or_skip


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A real Slurm of two nodes."""
    with slurm_or_skip(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm
