"""The linear classifier found by a probe, what hides it, and DeepFool's perturbations."""

import pytest
import torch
from torch import nn

from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.classifier import Classifier
from kakurenbo_hpc.training.deepfool import perturbations

CPU = torch.device("cpu")


class Net(nn.Module):
    """Features, one or two heads, and perhaps something after them."""

    def __init__(self, after=lambda x: x, heads=1, features=None, bias=True):
        super().__init__()
        self.features = features or nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(3, 3, bias) for _ in range(heads))
        self.after = after

    def forward(self, x):
        x = self.features(x)
        return self.after(sum(head(x) for head in self.heads))


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12))

    def forward(self, x):
        return nn.functional.cosine_similarity(x.flatten(1)[:, None], self.weight, dim=2)


def convolutional():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "name", "width"),
    [(Net(), "heads.0", 3), (Net(bias=False), "heads.0", 3), (convolutional(), "1", 3)],
    ids=["linear", "no bias", "convolution"],
)
def test_the_layer_whose_output_is_the_logits_is_found(model, name, width):
    model.train()
    found = Classifier(model, (3, 2, 2), 3, CPU)
    assert (found.name, found.width) == (name, width) and model.training
    x = torch.randn(5, 3, 2, 2)
    logits, layer = model(x), model.get_submodule(name)
    rows = nn.functional.linear(found.input, layer.weight.flatten(1), layer.bias)
    assert torch.allclose(rows, logits, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Net(after=lambda x: 3 * x), "the output of features.1 and heads.0 is not|come of several heads"),
        (Net(heads=2), "the logits come of several heads"),
        (Cosine(), "no linear layer has as many outputs as there are classes"),
        (Net(after=lambda x: (x, x)), "its output is not one"),
    ],
    ids=["scale", "two heads", "cosine", "two outputs"],
)
def test_what_has_no_linear_classifier_is_an_error_by_name(model, said):
    with pytest.raises(JobError, match=said):
        Classifier(model, (3, 2, 2), 3, CPU)


def test_a_scale_after_the_classifier_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softplus())
    with pytest.raises(
        JobError, match=r"the output of 1 is not the logits: what follows it, such as a scale"
    ):
        Classifier(model, (3, 2, 2), 3, CPU)


def test_deepfool_on_a_linear_network():
    model = nn.Linear(2, 3, bias=False)
    model.weight.data = torch.tensor([[1.0, 0], [0, 1], [-1, -1]])
    h = torch.tensor([[1.0, 0], [0, 2], [3, 1], [0, 1], [4, 0], [1, 3], [2, 1]])
    assert model(h).argmax(dim=1).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert perturbations(model, h, 10).tolist() == pytest.approx([0.5, 2, 2, 0.5, 8, 2, 0.5])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
