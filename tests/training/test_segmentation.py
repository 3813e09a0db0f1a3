"""Masks: loss, correctness, confidence and IoU of each sample, against plain loops over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.gradient_sync import GradientSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.batch_stats import columns
from kakurenbo_hpc.training.criterion import build_criterion, weighted_sum
from kakurenbo_hpc.training.learner import Learner
from kakurenbo_hpc.training.model import build_model
from kakurenbo_hpc.training.segmentation import mean_iou, overlap

EMPTY = {0: (), 1: (1,), 2: (1, 2), 3: (2,)}  # classes that image i does not have


def images(k=8, classes=3):
    """Return logits (k, C, 5, 7) and masks (k, 5, 7), some classes missing in some images; most pixels are
    predicted well.
    """
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes, (k, 5, 7), generator=draw)
    for i, missing in EMPTY.items():
        for c in missing:
            target[i][target[i] == c] = 0
    logits = torch.randn(k, classes, 5, 7, generator=draw) + 2 * F.one_hot(target, classes).movedim(-1, 1)
    logits[0] = 9 * F.one_hot(target[0], classes).movedim(-1, 0)  # a perfect one
    logits[2] = 9 * F.one_hot(target[2], classes).movedim(-1, 0)  # a perfect one of nothing but class 0
    return logits, target


def slow_iou(predicted, target, classes=3):
    """Return one image's mean IoU over the classes that occur, pixel by pixel; others than classes are
    ignored.
    """
    pairs = [(p, t) for p, t in zip(predicted.flat, target.flat, strict=True) if 0 <= t < classes]
    each = []
    for c in sorted({value for pair in pairs for value in pair}):
        both = sum(int(p == c and t == c) for p, t in pairs)
        either = sum(int(p == c or t == c) for p, t in pairs)
        each.append(both / either)
    return sum(each) / len(each) if each else np.nan


def test_an_images_iou_is_a_loop_over_pixels_and_leaves_out_empty_classes():
    logits, target = images()
    predicted = logits.argmax(1)
    predicted[1][predicted[1] == 1] = 2  # image 1 has no class 1 in either mask
    got = mean_iou(*overlap(predicted, target, 3))
    want = [slow_iou(p, t) for p, t in zip(predicted.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[0] == got[2] == 1 and len(set(want)) > 4, "the images differ"


def test_pixels_that_are_no_class_count_nowhere():
    logits, target = images()
    target[3:, :2], target[4, 3], target[5] = 255, -100, 255
    predicted = logits.argmax(1)
    counts = overlap(predicted, target, 3)
    for got in (mean_iou(*counts), mean_iou(*(count.numpy() for count in counts))):
        want = [slow_iou(p, t) for p, t in zip(predicted.numpy(), target.numpy(), strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert np.isnan(want[5]) and np.isfinite(want).sum() == 7


def test_an_image_that_is_mostly_wrong_is_wrong_however_many_classes_there_are():
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    predicted = target.clone()
    predicted[:, 1:] = 20
    assert mean_iou(*overlap(predicted, target, 21)).item() == pytest.approx((4 / 16 + 0) / 2)
    logits = F.one_hot(predicted, 21).movedim(-1, 1).float()
    assert not columns(logits, target, torch.ones(1))["correct"].any()


def test_a_corpus_is_one_large_image():
    logits, target = images()
    predicted = logits.argmax(1)
    intersection, union = overlap(predicted, target, 3)
    got = mean_iou(intersection.sum(0)[None], union.sum(0)[None])[0]
    assert got == pytest.approx(slow_iou(predicted.numpy(), target.numpy()))


def test_a_samples_columns_are_means_over_its_pixels():
    logits, target = images()
    p = F.softmax(logits.double(), 1).numpy()
    losses = F.cross_entropy(logits, target, reduction="none").flatten(1).mean(1)
    got = columns(logits, target, losses, ("probability", "el2n", "label"), correct_iou=0.6)
    for i in range(len(target)):
        one, mask = p[i].reshape(3, -1), target[i].numpy().ravel()
        assert got["confidence"][i].item() == pytest.approx(one.max(0).mean(), rel=1e-5)
        assert got["probability"][i].item() == pytest.approx(one[mask, np.arange(35)].mean(), rel=1e-5)
        assert got["el2n"][i].item() == pytest.approx(
            np.linalg.norm(one - np.eye(3)[mask].T, axis=0).mean(), rel=1e-4, abs=1e-6
        )
        assert got["correct"][i].item() == (slow_iou(p[i].argmax(0), target[i].numpy()) >= 0.6)
    assert 0 < got["correct"].sum() < len(target)
    assert all(column.shape == (8,) for column in got.values()) and not got["label"].any()


def test_an_image_is_told_alike_to_the_bit_whoever_shares_its_batch():
    logits, target = images()
    criterion = build_criterion(
        Training(epochs=1, global_batch=4, lr=0.1, class_weights=[1.0, 2.6, 1.7]),
        3,
        torch.device("cpu"),
        (5, 7),
    )
    together = columns(logits, target, criterion(logits, target), ("probability", "el2n"))
    for i in range(len(target)):
        here = slice(i, i + 1)
        alone = columns(
            logits[here], target[here], criterion(logits[here], target[here]), ("probability", "el2n")
        )
        assert all(torch.equal(together[name][here], value) for name, value in alone.items())


def test_the_loss_is_weighted_by_class_and_divided_by_the_number_of_pixels():
    logits, target = images()
    weight = [1.00172, 2.61151, 1.71641]
    criterion = build_criterion(
        Training(epochs=1, global_batch=4, lr=0.1, class_weights=weight), 3, torch.device("cpu"), (5, 7)
    )
    log_p = F.log_softmax(logits.double(), 1).numpy()
    for i, got in enumerate(criterion(logits, target)):
        pixels = [-weight[t] * log_p[i, t, y, x] for (y, x), t in np.ndenumerate(target[i].numpy())]
        assert got.item() == pytest.approx(np.mean(pixels), rel=1e-5, abs=1e-6)


def test_the_loss_leaves_out_what_the_criterion_ignores():
    logits, target = images()
    target[3, :2], target[5] = -100, -100
    criterion = build_criterion(Training(epochs=1, global_batch=4, lr=0.1), 3, torch.device("cpu"), (5, 7))
    logits.requires_grad_()
    got = criterion(logits, target)
    log_p = F.log_softmax(logits.detach().double(), 1).numpy()
    for i in set(range(8)) - {5}:
        pixels = [-log_p[i, t, y, x] for (y, x), t in np.ndenumerate(target[i].numpy()) if t >= 0]
        assert got[i].item() == pytest.approx(np.mean(pixels), rel=1e-5, abs=1e-6)
    assert got[5].isnan()
    weighted_sum(got, np.ones(8, np.float32)).backward()
    assert logits.grad.isfinite().all() and not logits.grad[5].any() and not logits.grad[3, :, :2].any()


SMALL = {"width": 0.05, "middle": 1, "norm": "group"}


def learner(extra=(), name="deepcam_deeplabv3plus", options=SMALL, **training):
    training = Training(**{"epochs": 1, "global_batch": 2, "lr": 0.1, **training})
    return Learner(
        training,
        Model(name=name, options=options),
        World.detect(SerialComm()),
        3,
        (16, 32, 48),
        0,
        extra,
        (32, 48),
    )


class Asking(GradientSync):
    """Passes the example forward that it is to stabilize buckets with, and keeps the logits."""

    def wrap(self, model, optimizer, sync_batchnorm=False):
        return model

    def stabilize_buckets(self, parallel, forward):
        self.logits = forward()

    def average(self, model): ...

    def close(self): ...


@pytest.mark.parametrize(("batch", "n"), [(0, 1), (1, 1), (2, 2), (64, 2)])
def test_what_settles_the_exchange_is_in_memory_as_a_steps_own_inputs_are(batch, n):
    gradients = Asking()
    learner(precision="bf16").join(gradients, (16, 32, 48), batch)
    assert len(gradients.logits) == n and gradients.logits.dtype == torch.bfloat16


def test_a_network_is_tried_on_the_device_that_it_trains_on():
    network = build_model(
        Model(name="deepcam_deeplabv3plus", options=SMALL), 3, (16, 768, 1152), 0, (768, 1152), "meta"
    )
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights has 2 numbers, but the data has 3 classes"),
        (
            {"criterion": "focal"},
            "training.criterion is focal, which is for class labels, but the data has masks",
        ),
        ({"mixup": 0.2}, "training.mixup and training.cutmix are for class labels, but the data has masks"),
        ({"cutmix": 0.2}, "training.mixup and training.cutmix are for class labels, but the data has masks"),
        (
            {"name": "small_cnn", "options": {}},
            r"shape \(1, 3\), but \(1, 3, 32, 48\) is needed.*choose a segmentation model",
        ),
        ({"name": "deeplabv3_mobilenet_v3_large", "options": {}}, "cannot be built for inputs of shape"),
        ({"extra": ("grad_norm",)}, "grad_norm, which is known for class labels, but the data has masks"),
        ({"options": {"norm": "layer"}}, "cannot be built"),
    ],
)
def test_what_does_not_go_with_masks_is_told(arguments, message):
    with pytest.raises(JobError, match=message):
        learner(**arguments)
