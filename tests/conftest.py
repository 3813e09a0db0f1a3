"""For all tests: shared helpers on the path, tiers, how many examples hypothesis tries."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

pytest_plugins = ["support.rank_session"]

# Small networks, several ranks on few cores: more threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ranks are threads here, on machines shared with others: an example's time says nothing.
settings.register_profile(
    "here", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("all", settings.get_profile("here"), max_examples=40)  # scripts/test --all
settings.register_profile("long", settings.get_profile("here"), max_examples=1000)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Files whose tests need a GPU, or start processes of their own, ranks or a batch system; all others are of
# the tier `unit`.
TIERS = {
    "ranks": [
        "ranks",
        "drills",
        "hiding/test_readme_loop.py",
        "bad_input/test_bad_input_of_processes.py",
        "support/test_rank_session.py",
        "test_stranger.py",
    ],
    "gpu": ["gpu"],
    "cluster": [
        "cluster/test_imagenet_walk.py",
        "cluster/test_slurm.py",
        "cluster/test_slurm_accounts.py",
        "cluster/test_srun.py",
        "cluster/test_restarts_on_slurm.py",
        "cluster/test_pbs.py",
    ],
}

# Statistics, packaging and long drills, which only `scripts/test --all` runs.
NIGHTLY = [
    "laws/test_unbiased.py",
    "test_packaging.py",
    "test_bench.py",
    "test_scripts.py",
    "test_setup.py",
    "drills/test_kills.py",
    "drills/test_growth.py",
    "cluster/test_imagenet_walk.py",
    "cluster/test_slurm_accounts.py",  # needs slurmdbd and MariaDB
]


def is_among(path: Path, places: list[str]) -> bool:
    """Return whether a test file is one of these, or below one of these folders."""
    return any(path.relative_to(TESTS).is_relative_to(place) for place in places)


def tier_of(path: Path) -> str:
    """Return the tier of a test file."""
    return next((tier for tier, places in TIERS.items() if is_among(path, places)), "unit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, unless it says so itself."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in ("unit", *TIERS)):
            item.add_marker(tier_of(item.path))
        if any(marker.args for marker in item.iter_markers("ranks")):
            item.add_marker("inside")
        if is_among(item.path, NIGHTLY):
            item.add_marker("nightly")


@pytest.fixture(scope="session")
def mpich(tmp_path_factory):
    """A virtual environment whose MPI is MPICH."""
    from support.environments import mpich_or_skip

    return mpich_or_skip(tmp_path_factory.mktemp("mpich") / "environment")
