"""Per-sample gradient norms against one backward pass a sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kakurenbo_hpc.training.gradient_norm import LastInput, gradient_norms
from kakurenbo_hpc.training.model import SmallCnn


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_norm_is_that_of_one_backward_pass_a_sample(norm):
    torch.manual_seed(0)
    model = SmallCnn(10, 1, width=8, norm=norm).eval()
    input, target = torch.randn(6, 1, 8, 8), torch.arange(6)
    got = gradient_norms(model, cross_entropy, input, target)
    for i in range(6):
        model.zero_grad()
        cross_entropy(model(input[i : i + 1]), target[i : i + 1]).sum().backward()
        want = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        assert got[i].item() == pytest.approx(want.item(), rel=1e-4)


def test_the_last_layers_norm_is_error_times_input():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False))
    last = LastInput(model)
    input, target = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    logits = model(input)
    el2n = (F.softmax(logits, 1) - F.one_hot(target, 3)).norm(dim=1)
    for i, norm in enumerate(el2n * last.norms()):
        model.zero_grad()
        F.cross_entropy(logits[i : i + 1], target[i : i + 1]).backward(retain_graph=True)
        assert model[2].weight.grad.norm().item() == pytest.approx(norm.item(), rel=1e-4)
