"""Optimizers by name, and the parameters that weight decay spares."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.torchvision_compat import timm
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.deeplab import DeepLab
from kakurenbo_hpc.training.model import SmallCnn
from kakurenbo_hpc.training.optimizer import build_optimizer


def options(**values):
    return Training(**{"epochs": 1, "global_batch": 2, "lr": 0.01, **values})


@pytest.mark.parametrize("name", ["lamb", "adamw", "rmsprop"])
def test_optimizers_of_the_papers_take_a_step(name):
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(Training(epochs=1, global_batch=2, lr=0.01, optimizer=name), model, 0.01)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


class WithoutDecay(nn.Module):
    """Says which parameters never decay, as timm's vision transformers do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)
        self.second.bias.requires_grad_(False)
        self.position = nn.Parameter(torch.ones(1, 4, 3))

    def no_weight_decay(self):
        return {"pos*", "second.weight"}


MODELS = [
    lambda: SmallCnn(10, 1),
    lambda: SmallCnn(10, 1, norm="batch"),
    lambda: DeepLab(3, 16, width=0.05, middle=1),
    WithoutDecay,
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"optimizer": "sgd", "momentum": 0.8, "nesterov": True}, "sgd"),
        ({"optimizer": "sgd", "momentum": 0.8}, "momentum"),
        ({"optimizer": "sgd", "momentum": 0.0}, "momentum"),
        ({"optimizer": "adam"}, "adam"),
        ({"optimizer": "adamw"}, "adamw"),
    ],
)
def test_optimizers_built_without_timm_are_those_of_timm(model, weight_decay, ours, theirs):
    network, training = model(), options(weight_decay=weight_decay, **ours)
    built = build_optimizer(training, network, 0.02)
    same = timm().optim.create_optimizer_v2(
        network, opt=theirs, lr=0.02, weight_decay=weight_decay, momentum=training.momentum
    )
    assert type(built) is type(same) and built.defaults == same.defaults
    assert len(built.param_groups) == len(same.param_groups)
    for group, expected in zip(built.param_groups, same.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in expected["params"]]
        assert {**group, "params": 0} == {**expected, "params": 0}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sgd", {"dampening": 0.1}),
        ("adam", {"betas": [0.8, 0.9], "eps": 1e-6}),
        ("adamw", {"betas": [0.8, 0.9], "eps": 1e-6}),
        ("rmsprop", {"alpha": 0.9, "eps": 1e-3}),
        ("rmsproptf", {"alpha": 0.8, "eps": 1e-3}),
        ("lars", {"trust_coeff": 0.01}),
    ],
)
def test_options_of_an_optimizer_reach_it_and_all_decay_where_the_job_says_so(name, more):
    training = options(optimizer=name, optimizer_options=more, weight_decay=1e-3, decay_norms=True)
    optimizer = build_optimizer(training, SmallCnn(10, 1, norm="batch"), 0.1)
    for group in optimizer.param_groups:
        assert {option: pytest.approx(group[option]) for option in more} == more
        assert group["weight_decay"] == 1e-3


@pytest.mark.parametrize(
    ("name", "more"),
    [("adamw", {"alpha": 0.9}), ("lamb", {"apha": 1}), ("adam", {"betas": [2.0, 0.9]}), ("sgd", {"lr": 1.0})],
)
def test_options_that_an_optimizer_does_not_take_are_told(name, more):
    with pytest.raises(JobError, match=f"training.optimizer is {name} with optimizer_options"):
        build_optimizer(options(optimizer=name, optimizer_options=more), nn.Linear(2, 2), 0.1)


def test_nesterov_without_momentum_is_an_error():
    with pytest.raises(JobError, match="nesterov is true, but training.momentum is 0"):
        build_optimizer(options(nesterov=True, momentum=0.0), nn.Linear(2, 2), 0.1)


PROGRAM = """
import sys
from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.model import build_model
from kakurenbo_hpc.training.optimizer import build_optimizer
from kakurenbo_hpc.training.schedule import Schedule

for name, shape, mask in (("small_cnn", (1, 8, 8), ()), ("deepcam_deeplabv3plus", (4, 32, 32), (32, 32))):
    options = {"width": 0.05, "middle": 1} if mask else {}
    model = build_model(Model(name=name, options=options), 3, shape, 0, mask)
    for optimizer in ("sgd", "adamw"):
        training = Training(epochs=2, global_batch=2, lr=0.1, optimizer=optimizer)
        Schedule(training, build_optimizer(training, model, 0.1)).set(0.5)
loaded = {module.partition(".")[0] for module in sys.modules}
print(sorted(loaded & {"timm", "torchvision", "sklearn", "h5py"}))
"""


def test_models_and_optimizers_of_our_own_import_no_large_library():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
