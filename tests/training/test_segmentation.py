"""Masks: loss, correctness, confidence and IoU of each sample, against plain loops over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc.config.job import Model, Training
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.gradient_sync import GradientSync
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.training.batch_stats import columns
from kakurenbo_hpc.training.criterion import build_criterion
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
    """Return one image's mean IoU, pixel by pixel."""
    each = []
    for c in range(classes):
        both = sum(int(p == c and t == c) for p, t in zip(predicted.flat, target.flat, strict=True))
        either = sum(int(p == c or t == c) for p, t in zip(predicted.flat, target.flat, strict=True))
        each.append(both / either if either else 1.0)
    return sum(each) / classes


def test_an_images_iou_is_a_loop_over_pixels_and_an_empty_class_counts_one():
    logits, target = images()
    predicted = logits.argmax(1)
    got = mean_iou(*overlap(predicted, target, 3))
    want = [slow_iou(p, t) for p, t in zip(predicted.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[0] == got[2] == 1 and len(set(want)) > 4, "the images differ"


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
