"""Training augmentation: draws belong to the sample, whoever reads it; no other generator is touched."""

import multiprocessing

import numpy as np
import pytest
import torch
from support.data_read import atoms, images, of_process, random_states
from support.start_ranks import start

from kakurenbo_hpc.config.augmentation_options import parse_step
from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.core.batch import MicroBatch
from kakurenbo_hpc.data.augmentation import Augmented, augment
from kakurenbo_hpc.data.dataset import DatasetSplits
from kakurenbo_hpc.data.datasets.digits import Images
from kakurenbo_hpc.data.loader import Loader, plain_micro_batches
from kakurenbo_hpc.errors import DataError

NAMES = [
    "flip",
    "crop",
    "shift",
    "cutout",
    "auto_augment",
    "rand_augment",
    "trivial_augment_wide",
    "random_erasing",
    {"crop": 2},
    {"cutout": {"length": 7}},
    {"random_resized_crop": 32},
    {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    {"auto_augment": "cifar10"},
    {"rand_augment": "rand-m9-mstd0.5-inc1"},
    {"random_erasing": {"probability": 0.9, "mode": "random"}},
]
IDS = np.arange(48)


def test_images_are_scaled_down_in_training_alone():
    full, half = (under("flip", *more) for more in ([], [{"downscale": 0.5}]))
    assert half.shape == full.shape == (3, 32, 32)
    small = images(half.train, IDS, epoch=3)
    assert small.shape == (48, 3, 16, 16)
    torch.testing.assert_close(small.mean(), images(full.train, IDS, epoch=3).mean(), atol=2e-3, rtol=0)
    assert torch.equal(images(half.validation, IDS, epoch=3), images(full.validation, IDS, epoch=3))


def under(*names, run_seed=0, **options):
    return atoms(augmentation=[*names], run_seed=run_seed, channels=3, pixels=32, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_samples_draws_depend_on_its_key_and_on_nothing_else(name):
    source = under(name).train
    torch.manual_seed(1)
    before = random_states()
    together = images(source, IDS, epoch=3)
    assert random_states() == before
    torch.manual_seed(2)
    np.random.seed(2)
    apart = torch.cat([images(source, [id], epoch=3) for id in IDS])
    assert torch.equal(together, apart)
    assert together.dtype == torch.float32 and together.shape == (48, 3, 32, 32)
    # timm draws the colours of an erased box for images that are normalized already.
    assert "mode" in str(name) or 0 <= together.min() <= together.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_another_epoch_copy_or_run_seed_is_another_draw(name):
    first = images(under(name).train, IDS)
    for other in (
        images(under(name).train, IDS, epoch=1),
        images(under(name).train, IDS, copy=1),
        images(under(name, run_seed=1).train, IDS),
    ):
        assert (first != other).flatten(1).any(1).float().mean() > 0.3, (
            "one in two stays as it is under flip and random_erasing"
        )


@pytest.mark.parametrize("name", NAMES)
def test_validation_and_a_plain_look_are_left_alone(name):
    data, plain = under(name), under()
    assert torch.equal(images(data.validation, IDS[:40]), images(plain.validation, IDS[:40]))
    assert torch.equal(images(data.train, IDS, augment=False), images(plain.train, IDS))


NUMBERED = torch.arange(1.0, 1 + 32 * 32).reshape(1, 1, 32, 32).numpy() / 2000


def numbered(*names, n=400):
    """Return n augmentations of an image whose pixels all differ, none zero; and that image."""
    source = Augmented(
        Images(np.repeat(NUMBERED, n, 0), np.zeros(n)), [parse_step(name) for name in names], [], seed=5
    )
    return images(source, np.arange(n))[:, 0].numpy(), NUMBERED[0, 0]


def test_the_order_of_names_is_the_order_of_doing():
    (moved, _), (cut, _) = numbered("crop"), numbered("cutout")
    assert np.array_equal(numbered("crop", "cutout")[0], np.where(cut == 0, 0, moved))
    assert not np.array_equal(numbered("cutout", "crop")[0], np.where(cut == 0, 0, moved))


def test_flip_turns_one_in_two_from_left_to_right():
    turned, plain = numbered("flip")
    flipped = (turned == plain[:, ::-1]).all((1, 2))
    assert np.array_equal(~flipped, (turned == plain).all((1, 2))) and 150 < flipped.sum() < 250


@pytest.mark.parametrize(("name", "most"), [("shift", 1), ("crop", 4)])
def test_shift_and_crop_move_an_image_with_zeros_coming_in(name, most):
    moved, plain = numbered(name, n=2000)
    padded = np.pad(plain, most)
    every = {
        (r, c): padded[r : r + 32, c : c + 32].tobytes()
        for r in range(2 * most + 1)
        for c in range(2 * most + 1)
    }
    counts = {place: sum(image.tobytes() == wanted for image in moved) for place, wanted in every.items()}
    expected = 2000 / len(every)
    assert sum(counts.values()) == 2000 and all(
        abs(n - expected) < 5 * expected**0.5 for n in counts.values()
    )


def test_cutout_is_a_square_of_half_the_side_whose_centre_is_anywhere():
    cut, plain = numbered("cutout", n=2000)
    holes = cut == 0
    assert np.array_equal(np.where(holes, plain, cut), np.broadcast_to(plain, cut.shape))
    rows, columns = holes.any(2), holes.any(1)
    assert np.array_equal(holes, rows[:, :, None] & columns[:, None, :])
    sizes = np.bincount(rows.sum(1))
    assert sizes[:8].sum() == 0 and len(sizes) == 17 and abs(sizes[16] / 2000 - 17 / 32) < 0.05, (
        "16, or less at an edge"
    )


def test_a_crop_and_a_cutout_are_as_large_as_their_options_say():
    moved, _ = numbered({"crop": 2}, n=500)
    assert (moved == 0).all(2).sum(1).max() == (moved == 0).all(1).sum(1).max() == 2
    holes = (numbered({"cutout": 7}, n=500)[0] == 0).any(2).sum(1)
    assert holes.max() == 7 and (holes == 7).mean() > 0.7


def test_normalize_is_undone_by_its_numbers_and_is_part_of_the_view():
    norm = {"normalize": {"mean": [0.5, 0.25, 0.0], "std": [0.5, 2.0, 1.0]}}
    data, plain = under(norm, evaluation=[norm]), under()
    for split, ids in (("train", IDS), ("validation", IDS[:40])):
        found, before = (images(getattr(one, split), ids) for one in (data, plain))
        undone = (
            found * torch.tensor([0.5, 2.0, 1.0])[:, None, None]
            + torch.tensor([0.5, 0.25, 0.0])[:, None, None]
        )
        assert torch.allclose(undone, before, atol=1e-6) and not torch.equal(found, before)


def test_a_view_resizes_and_crops_what_is_not_augmented():
    data = under("flip", evaluation=[{"resize": 24}, {"center_crop": 16}])
    assert images(data.train, IDS).shape[2:] == (32, 32)
    assert (
        images(data.validation, IDS[:40]).shape[2:]
        == images(data.train, IDS, augment=False).shape[2:]
        == (16, 16)
    )
    assert under({"random_resized_crop": 8}, evaluation=[{"center_crop": 8}]).shape == (3, 8, 8)


def test_torchvisions_own_transform_under_the_same_state_is_the_oracle():
    from kakurenbo_hpc.core.rng import bits, key
    from kakurenbo_hpc.core.torchvision_compat import transforms

    plain = (images(under().train, IDS) * 255).round().byte()
    for name, transform in {
        "rand_augment": transforms().RandAugment(),
        "auto_augment": transforms().AutoAugment(),
    }.items():
        seen = images(under(name).train, IDS, epoch=2, copy=1)
        for id, state in enumerate(bits(key(0, f"augment, {name}", 2), IDS, np.ones(48))):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(state) >> 1)
                assert torch.equal(seen[id], transform(plain[id]).float() / 255)


def test_other_processes_draw_the_same():
    source = under("flip", "crop", "trivial_augment_wide", "random_erasing", repeats=2, label_noise=0.2).train
    here = images(source, IDS, epoch=4).numpy().tobytes()
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply(of_process, [(source, IDS, 4)]) == here


def test_loader_processes_draw_the_same():
    source = under("crop", "rand_augment").train
    turns: list[MicroBatch] = plain_micro_batches(0, 48, 12)
    read = lambda workers: torch.cat(
        [b.input for b in Loader(source, workers, torch.device("cpu"))(turns, 1, True)]
    )  # noqa: E731
    assert torch.equal(read(0), read(2))


def test_ranks_draw_the_same():
    done = start(2, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr[-2000:]


PROGRAM = """
import numpy as np
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.world import open_comm
comm = open_comm()
options = dict(classes=4, instances=10, pixels=16, label_noise=0.3, repeats=2)
augmentation = ["flip", "trivial_augment_wide"]
options = DATASETS["visual_atoms"](name="visual_atoms", augmentation=augmentation, **options)
data = open_data(options, 3, SerialComm())


def sums(ids):
    images, labels = data.train.__getitems__(ReadRequest(ids, ids * 0, 1, True))
    return np.array([float(images.double().sum()), float((labels.double() * (1 + ids)).sum())])


ids = np.arange(len(data.train))
assert np.allclose(comm.sum(sums(ids[comm.rank :: comm.size])), sums(ids), rtol=1e-12)
comm.close()
"""


class Bands(DataOptions):
    def open(self, directory=None):
        raise AssertionError("not opened here")


def test_a_library_transform_is_refused_for_channels_that_it_does_not_know():
    bands = DatasetSplits(
        train=Images(np.zeros((2, 4, 8, 8), np.float32), np.arange(2)),
        validation=None,
        n_classes=2,
        shape=(4, 8, 8),
        fingerprint="",
    )
    with pytest.raises(
        DataError,
        match="holds rand_augment, which takes images of 1 or 3 channels, but bands has 4; remove it",
    ):
        augment(bands, Bands(name="bands", augmentation=["flip", "rand_augment"]), seed=0)
    assert augment(bands, Bands(name="bands", augmentation=["flip"]), seed=0).train.labels().tolist() == [
        0,
        1,
    ]
