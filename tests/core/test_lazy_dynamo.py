"""A run that compiles nothing never imports torch._dynamo; whatever asks it more gets the real one."""

import subprocess
import sys

TRAIN_THEN_COMPILE = """
import sys
from pathlib import Path
import torch
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS

sets = ["training.epochs=1", "training.warmup_epochs=0"]
job = read_job(find_job("digits_everything"), sets, DATASETS, METHODS)
assert run(job, Path(sys.argv[1]), SerialComm()) == 0
loaded = [name for name in sys.modules if name.startswith("torch._dynamo")]
assert loaded == ["torch._dynamo"], loaded
step = torch.optim.Optimizer.zero_grad.__wrapped__
assert step.__dynamo_disable is step

import torch._dynamo.config
assert sys.modules["torch._dynamo.config"] is torch._dynamo.config
assert torch._dynamo.config.__spec__.origin.endswith("config.py")
assert torch._dynamo is sys.modules["torch._dynamo"] and not hasattr(step, "__dynamo_disable")

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

@torch.compile(backend="eager")
def train(inputs):
    optimizer.zero_grad()
    model(inputs).sum().backward()
    optimizer.step()

before = model.bias.clone()
train(torch.ones(3, 2))
assert torch.allclose(model.bias, before - 0.3)
assert step.__dynamo_disable is not step
"""


def test_dynamo_is_imported_when_something_is_compiled(tmp_path):
    command = [sys.executable, "-c", TRAIN_THEN_COMPILE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
