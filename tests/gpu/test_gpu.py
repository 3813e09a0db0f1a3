"""The checks of `checks.py`, on a GPU."""

import pytest
import torch
from gpu.checks import CHECKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_does_as_a_cpu_does(name):
    CHECKS[name](torch.device("cuda"))
