"""For all tests: shared helpers on the path, tiers, how many examples hypothesis tries."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

pytest_plugins = ["support.rank_session"]

# Ranks are threads here, on machines shared with others: an example's time says nothing.
settings.register_profile(
    "here", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("here"), max_examples=1000)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Files whose tests start processes of their own, ranks or a batch system; all others are of the tier `unit`.
TIERS = {
    "ranks": [
        "ranks",
        "drills",
        "hiding/test_readme_loop.py",
        "compare/test_compare.py",
        "bad_input/test_bad_input_of_processes.py",
        "bad_input/test_hostile.py",
        "support/test_rank_session.py",
        "cluster/test_launch.py",
        "test_stranger.py",
        "test_same_results.py",
    ],
    "cluster": [
        "cluster/test_slurm.py",
        "cluster/test_srun.py",
        "cluster/test_pbs.py",
        "cluster/test_doctor.py",
    ],
}


def tier_of(path: Path) -> str:
    """Return the tier of a test file."""
    place = path.relative_to(TESTS)
    for tier, places in TIERS.items():
        if any(place.is_relative_to(known) for known in places):
            return tier
    return "unit"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier."""
    for item in items:
        item.add_marker(tier_of(item.path))


@pytest.fixture(scope="session")
def mpich(tmp_path_factory):
    """A virtual environment whose MPI is MPICH."""
    from support.environments import mpich_or_skip

    return mpich_or_skip(tmp_path_factory.mktemp("mpich") / "environment")
