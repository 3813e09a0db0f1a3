"""Images by formula: the same wherever they are drawn, told apart by class, easy and hard in one set."""

import numpy as np
import pytest
import torch
from support.data_read import atoms, images, random_states, read

from kakurenbo_hpc.data.datasets import visual_atoms
from kakurenbo_hpc.training.model import SmallCnn

TRAIN = atoms().train


@pytest.mark.parametrize("options", [{}, {"channels": 3, "pixels": 33}, {"pixels": 8, "classes": 2}])
def test_images_have_the_promised_shape_and_range(options):
    data = atoms(**options)
    input, target = read(data.train, np.arange(20))
    assert (input.dtype, target.dtype) == (torch.float32, torch.int64)
    assert tuple(input.shape[1:]) == data.shape
    assert input.min() == 0 and 0.3 < input.amax((1, 2, 3)).min() <= input.max() <= 1
    assert (len(data.train), len(data.validation)) == (30 * data.n_classes, 4 * data.n_classes)


def test_an_image_depends_on_seed_and_id_and_nothing_else():
    before = random_states()
    together = images(TRAIN, np.arange(60))
    afresh = atoms(run_seed=8).train
    apart = torch.cat([images(afresh, [id], epoch=5, copy=2) for id in range(60)])
    assert torch.equal(together, apart)
    backwards = images(TRAIN, np.arange(60)[::-1].copy())
    assert torch.equal(together.flip(0), backwards)
    assert random_states() == before


@pytest.mark.parametrize("other", [atoms(seed=1).train, atoms(difficulty=0.6).train, atoms().validation])
def test_another_seed_difficulty_or_part_holds_other_images(other):
    assert (images(TRAIN, np.arange(40)) != images(other, np.arange(40))).flatten(1).any(1).all()


def test_labels_are_known_without_drawing_and_are_the_targets(monkeypatch):
    target = read(TRAIN, np.arange(300))[1]
    monkeypatch.setattr(visual_atoms, "_rasterize", None)
    assert np.array_equal(TRAIN.labels(), target) and np.bincount(TRAIN.labels()).tolist() == [30] * 10


def test_without_difficulty_a_class_is_one_image_and_with_it_instances_stray():
    def spread(difficulty):
        of_class = images(atoms(difficulty=difficulty).train, 10 * np.arange(30))
        return float(of_class.std(0).mean())

    assert spread(0.0) == 0 < 2 * spread(0.1) < spread(0.5) < spread(1.0)


def test_few_instances_stray_far_and_most_do_not():
    source = atoms(instances=1000, classes=2, pixels=8, difficulty=0.1).train
    away = (
        (
            images(source, np.arange(0, 2000, 2))
            - images(atoms(classes=2, pixels=8, difficulty=0.0).train, [0])
        )
        .flatten(1)
        .norm(dim=1)
    )
    assert away.quantile(0.98) > 1.8 * away.median()


def test_a_contour_is_closed_and_as_long_as_its_shape_says():
    """A circle of one contour, no waves: an oracle that needs no code of ours."""
    shape = visual_atoms.Shapes(
        frequency=np.ones((1, 1, 2), np.int32),
        phase=np.zeros((1, 1, 2), np.float32),
        amplitude=np.zeros((1, 1, 2), np.float32),
        radius=np.full((1, 1), 0.5, np.float32),
        brightness=np.full((1, 1, 1), 0.02, np.float32),
        pose=np.float32([[0, 1, 1, 0, 0]]),
    )
    across, down = visual_atoms._contours(shape, 256)
    assert np.allclose(np.hypot(across, down), 0.5, atol=1e-6)
    (image,) = visual_atoms._rasterize(across, down, shape.brightness, 32)[0]
    assert image.sum() == pytest.approx(256 * 0.02, rel=1e-4), "every point is somewhere, once"
    row, column = np.indices(image.shape)
    centre = (image * row).sum() / image.sum(), (image * column).sum() / image.sum()
    assert centre == pytest.approx((15.5, 15.5), abs=1e-3)
    distance = np.hypot(row - 15.5, column - 15.5)
    assert np.all(abs(distance[image > 0] - 8) < 1.5)


def test_what_lies_outside_the_image_is_left_out():
    far = np.full((1, 1, 4), 5, np.float32)
    image = visual_atoms._rasterize(far, -far, np.ones((1, 1, 1), np.float32), 8)
    assert not image.any()


def test_a_small_network_learns_far_more_than_chance_but_not_everything():
    data = atoms(instances=100, validation=30)
    input, target = read(data.train, np.arange(1000))
    torch.manual_seed(0)
    model = SmallCnn(10, 1, width=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for _ in range(4):
        for rows in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(input[rows]), target[rows]).backward()
            optimizer.step()
    input, target = read(data.validation, np.arange(300))
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(input), target, reduction="none")
        accuracy = (model(input).argmax(1) == target).float().mean()
    assert 0.4 < accuracy < 0.95, "chance is 0.1"
    assert losses.quantile(0.95) > 10 * losses.quantile(0.25), "easy and hard ones in one set"
