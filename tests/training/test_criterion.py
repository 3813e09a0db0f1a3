"""The loss of each sample by itself."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.core.torchvision_compat import timm
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.criterion import build_criterion

LOGITS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 3
TARGET = torch.arange(20) % 4


def criterion(**options):
    return build_criterion(Training(epochs=1, global_batch=4, lr=0.1, **options), 4, torch.device("cpu"))


def test_cross_entropy_with_smoothing_is_torchs_sample_by_sample():
    got = criterion(label_smoothing=0.1)(LOGITS, TARGET)
    assert torch.equal(got, F.cross_entropy(LOGITS, TARGET, reduction="none", label_smoothing=0.1))


def test_smoothing_is_timms_soft_target_cross_entropy_without_mixup():
    soft = F.one_hot(TARGET, 4) * (1 - 0.1) + 0.1 / 4  # as timm.data.mixup.mixup_target has it
    timm()
    expected = importlib.import_module("timm.loss").SoftTargetCrossEntropy()(LOGITS, soft)
    torch.testing.assert_close(criterion(label_smoothing=0.1)(LOGITS, TARGET).mean(), expected)
    torch.testing.assert_close(criterion()(LOGITS, soft).mean(), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma):
    p = F.softmax(LOGITS.double(), 1)[torch.arange(20), TARGET]
    alpha = [1.0, 2.0, 0.5, 1.0]
    want = torch.tensor(alpha)[TARGET] * (1 - p) ** gamma * -p.log()
    got = criterion(criterion="focal", focal_gamma=gamma, class_weights=alpha)(LOGITS, TARGET)
    torch.testing.assert_close(got.double(), want.double(), rtol=1e-4, atol=1e-7)


def test_focal_loss_of_a_sure_sample_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0, 0, 0]], requires_grad=True)
    criterion(criterion="focal", focal_gamma=0.5)(logits, torch.tensor([0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_class_weights_are_one_for_each_class():
    with pytest.raises(JobError, match="class_weights has 2 numbers, but the data has 4 classes"):
        criterion(class_weights=[1.0, 2.0])
