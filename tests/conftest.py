"""For all tests: ``from oracle import ...`` works anywhere, and how many examples hypothesis tries."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# Ranks are threads here, on machines shared with others: an example's time says nothing.
settings.register_profile(
    "here", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", settings.get_profile("here"), max_examples=1000
)  # pytest --hypothesis-profile=long
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def mpich(tmp_path_factory):
    """A virtual environment whose MPI is MPICH."""
    from support.environments import mpich_or_skip

    return mpich_or_skip(tmp_path_factory.mktemp("mpich") / "environment")
