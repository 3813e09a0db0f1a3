"""Samples by id: what augmentation depends on, and what it does not."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm

DIGITS = open_data(DATASETS["digits"](name="digits"), seed=4, comm=SerialComm())
PARTS = [(DIGITS.train, 1437), (DIGITS.validation, 360)]


def fetch(ids, epoch=0, augment=True, copy=None, source=DIGITS.train):
    ids = np.asarray(ids)
    copy = np.zeros(len(ids), np.int32) if copy is None else np.asarray(copy, np.int32)
    return source.__getitems__(ReadRequest(ids, copy, epoch, augment))[0]


def test_the_two_parts_hold_every_image_of_the_file_once():
    assert (len(DIGITS.train), len(DIGITS.validation)) == (1437, 360)
    theirs, parts = (
        load_digits(),
        [
            source.__getitems__(ReadRequest(np.arange(n), np.zeros(n, np.int32), 0, False))
            for source, n in PARTS
        ],
    )
    held_out = np.arange(1797) % 5 == 0
    for (images, labels), rows in zip(parts, (~held_out, held_out), strict=True):
        assert np.array_equal(images[:, 0], theirs.images[rows] / 16) and np.array_equal(
            labels, theirs.target[rows]
        )
    assert DIGITS.shape == tuple(fetch([0]).shape[1:]) == (1, 8, 8)


def test_a_samples_augmentation_does_not_depend_on_its_company():
    together = fetch(np.arange(100), epoch=3)
    assert all(torch.equal(together[i], fetch([i], epoch=3)[0]) for i in range(0, 100, 7))


def test_another_epoch_copy_or_seed_is_another_draw():
    ids = np.arange(200)
    first = fetch(ids)
    other_seed = open_data(DATASETS["digits"](name="digits"), seed=5, comm=SerialComm()).train
    for other in (fetch(ids, epoch=1), fetch(ids, copy=np.ones(200)), fetch(ids, source=other_seed)):
        assert 0.7 < (first != other).flatten(1).any(1).float().mean() < 1, (
            "one shift of nine is the same by chance"
        )


def test_an_augmented_digit_is_a_plain_one_moved_by_at_most_a_pixel():
    plain, moved = fetch([5], augment=False)[0, 0], fetch([5])[0, 0]
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1))
    assert any(torch.equal(moved, padded[r : r + 8, c : c + 8]) for r in range(3) for c in range(3))


def test_validation_is_never_augmented():
    assert torch.equal(
        fetch([1], source=DIGITS.validation), fetch([1], augment=False, source=DIGITS.validation)
    )
