"""Where Horovod is missing its tests are skipped, but never in CI."""

import importlib.util
import os

import pytest

needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None and not os.environ.get("CI"),
    reason="no Horovod here: scripts/install_horovod.sh",
)
