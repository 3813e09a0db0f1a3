"""Images with masks: their listing, what changes both together, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.data_read import read
from support.original_formats import write_ade20k

from kakurenbo_hpc.config.augmentation_options import RandomCrop, parse_step
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.images.masks import IGNORED, JOINT_STEPS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.testing import check_dataset

SMALL = [{"random_scale": {"shorter": 40}}, {"random_crop": {"size": 32, "max_share": 0.75}}, "flip"]
N_TRAINING, N_VALIDATION = 6, 3


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    return write_ade20k(tmp_path_factory.mktemp("ade"), N_TRAINING, N_VALIDATION)


def opened(path, name="ade20k", seed=0, directory=None, **options):
    values = {"name": name, "path": str(path), "augmentation": SMALL, "evaluation": [], **options}
    return open_data(DATASETS[name](**values), seed, SerialComm(), directory)


def files(root, split):
    """Return images and labels as Pillow reads them."""
    names = sorted(path.stem for path in (root / "images" / split).iterdir())
    return [
        tuple(
            np.asarray(Image.open(root / kind / split / f"{name}.{suffix}"))
            for kind, suffix in (("images", "jpg"), ("annotations", "png"))
        )
        for name in names
    ]


def test_ade20ks_classes_are_its_labels_less_one_and_zero_is_ignored(ade):
    data = opened(ade)
    assert (data.n_classes, data.shape, data.target_shape) == (150, (3, 32, 32), (32, 32))
    assert (len(data.train), len(data.validation)) == (N_TRAINING, N_VALIDATION)
    for one, (image, labels) in enumerate(files(ade, "validation")):
        inputs, targets = read(data.validation, [one], augment=False)
        assert np.array_equal(targets[0], np.where(labels == 0, -100, labels.astype(int) - 1))
        assert torch.equal(
            (inputs[0] * 255).round().byte(), torch.from_numpy(image.transpose(2, 0, 1).copy())
        )


def test_image_and_mask_are_changed_together(tmp_path):
    """The image shows its mask's labels, also after all steps, but for pixels between two labels."""
    rng = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            (tmp_path / kind / split).mkdir(parents=True)
    for i in range(4):
        labels = np.kron(rng.integers(1, 100, (4, 5)), np.ones((12, 12))).astype(np.uint8)
        for split in ("training", "validation"):
            Image.fromarray(labels).save(tmp_path / f"annotations/{split}/{i}.png")
            Image.fromarray(np.stack([labels] * 3, 2)).save(tmp_path / f"images/{split}/{i}.png")
    data = opened(tmp_path, "mask_folder", image_suffix=".png", classes=101)
    seen = set()
    for epoch in range(6):
        images, masks = read(data.train, np.arange(4), epoch=epoch)
        red = (images[:, 0] * 255).round().long()
        counts = masks >= 0
        assert (red[~counts] == 0).all() and ((red == masks) | ~counts).float().mean() > 0.7
        seen |= {tuple(mask.unique().tolist()) for mask in masks}
    assert len(seen) > 15, "crops differ"
    flipped = [
        read(
            opened(tmp_path, "mask_folder", image_suffix=".png", classes=101, augmentation=list(steps)).train,
            [0],
        )
        for steps in ([], ["flip"])
    ]
    assert any(torch.equal(flipped[0][0], both) for both in (flipped[1][0], flipped[1][0].flip(3)))


def test_the_scale_is_of_the_shorter_side_and_masks_have_no_new_labels(ade):
    step = parse_step({"random_scale": {"scale": [0.5, 2.0], "shorter": 64}})
    image, mask = (
        torch.zeros(3, 48, 60, dtype=torch.uint8),
        torch.randint(0, 9, (48, 60), dtype=torch.uint8) * 20,
    )
    sides = []
    for draw in range(200):
        scaled, labels = JOINT_STEPS["random_scale"]((image, mask), np.uint64(draw), step.options)
        assert scaled.shape[1:] == labels.shape and set(labels.unique().tolist()) <= set(range(0, 180, 20))
        sides.append(labels.shape[0])
        assert abs(labels.shape[1] / labels.shape[0] - 60 / 48) < 0.05
    assert 32 <= min(sides) < 36 and 120 < max(sides) <= 128


def test_a_crop_avoids_squares_of_one_class_and_pads_what_is_missing():
    mask = torch.zeros(40, 200, dtype=torch.uint8)
    mask[:, 150:] = torch.arange(50, dtype=torch.uint8)
    image, crop = mask.expand(3, -1, -1), RandomCrop(size=32, max_share=0.75)
    shares = []
    for draw in range(100):
        _, cut = JOINT_STEPS["random_crop"]((image, mask), np.uint64(draw), crop)
        shares.append((cut == 0).float().mean().item())
    assert cut.shape == (32, 32) and np.mean(np.array(shares) <= 0.75) > 0.8
    image, cut = JOINT_STEPS["random_crop"]((image, mask), np.uint64(1), RandomCrop(size=64))
    assert image.shape == (3, 64, 64) and (cut[40:] == IGNORED).all() and not image[:, 40:].any()


def test_photometric_distortion_keeps_colours_in_their_place_and_the_mask(ade):
    """torchvision's own permutes them, which mmsegmentation's does not."""
    plain, changed = (opened(ade, augmentation=[*SMALL, *more]) for more in ([], ["photometric_distortion"]))
    differ = 0
    for epoch in range(5):
        before, after = (read(data.train, np.arange(N_TRAINING), epoch=epoch) for data in (plain, changed))
        assert torch.equal(before[1], after[1]) and 0 <= after[0].min() <= after[0].max() <= 1
        differ += (before[0] != after[0]).flatten(1).any(1).sum()
    assert 15 < differ <= 30
    from kakurenbo_hpc.data.augmentation import _transform

    red = torch.zeros(3, 8, 8)
    red[0] = 0.8
    for seed in range(40):
        torch.manual_seed(seed)
        found = _transform(parse_step("photometric_distortion"))[0](red).mean((1, 2))
        assert found.argmax() == 0


def test_a_view_scales_the_image_alone(ade):
    data = opened(
        ade,
        evaluation=[{"resize": 24}, {"normalize": "imagenet"}],
        augmentation=[*SMALL, {"normalize": "imagenet"}],
    )
    image, labels = files(ade, "validation")[1]
    inputs, targets = read(data.validation, [1], augment=False)
    assert targets[0].shape == labels.shape and min(inputs.shape[2:]) == 24 and inputs.min() < 0


def test_a_kept_listing_is_taken(ade, tmp_path, monkeypatch):
    root = shutil.copytree(ade, tmp_path / "data", ignore=shutil.ignore_patterns("manifest"))
    first = opened(root)
    assert sorted(path.name for path in (root / "manifest").glob("*.npy")) == [
        f"{split}_{kind}.npy" for split in ("train", "validation") for kind in ("images", "masks")
    ]
    monkeypatch.setattr("kakurenbo_hpc.data.images.listing.files_below", None)
    assert opened(root).fingerprint == first.fingerprint != opened(root, classes=149).fingerprint


def test_it_keeps_the_laws_of_data_sets(ade, tmp_path):
    other = write_ade20k(tmp_path, N_TRAINING, N_VALIDATION, seed=1)
    steps = [*SMALL, "photometric_distortion"]
    check_dataset(
        DATASETS["ade20k"], changed={"path": str(other)}, path=str(ade), augmentation=steps, evaluation=[]
    )


def damage(root, how):
    image, mask = (
        root / f"{kind}/training/ADE_train_00000002.{suffix}"
        for kind, suffix in (("images", "jpg"), ("annotations", "png"))
    )
    labels = np.asarray(Image.open(mask))
    if how == "other size":
        Image.fromarray(labels[:-1]).save(mask)
    if how == "no mask":
        mask.unlink()
    if how == "no image":
        image.unlink()
    if how == "label":
        Image.fromarray(np.where(labels == labels[0, 0], 151, labels).astype(np.uint8)).save(mask)
    if how == "colours":
        Image.fromarray(labels).convert("RGB").save(mask)
    if how == "16 bits":
        Image.fromarray(labels.astype(np.uint16)).save(mask)
    if how == "cut short":
        mask.write_bytes(mask.read_bytes()[:60])
    if how == "no folder":
        shutil.rmtree(root / "annotations/validation")
    if how == "other names":
        for path in (root / "images/training").iterdir():
            path.rename(path.with_suffix(".JPEG"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("other size", "ADE_train_00000002.png: is of "),
        ("no mask", "training/ADE_train_00000002.jpg: has no mask; add "),
        ("no image", "training/ADE_train_00000002.png: has no image; add it, or remove the mask"),
        (
            "label",
            "ADE_train_00000002.png: holds the label 151, but classes are 1 to 150; mend the mask, or set",
        ),
        (
            "colours",
            "ADE_train_00000002.png: is of Pillow's mode RGB, but a mask holds one label of 8 bits a",
        ),
        (
            "16 bits",
            "ADE_train_00000002.png: is of Pillow's mode I;16, but a mask holds one label of 8 bits a",
        ),
        ("cut short", "ADE_train_00000002.png: cannot be read as an image ("),
        ("no folder", "annotations/validation: there is no such folder; data.path must name the one that"),
        ("other names", "images/training: found no files there whose names end in .jpg"),
    ],
)
def test_a_fault_is_one_line_with_the_files_name(ade, tmp_path, how, said):
    root = shutil.copytree(ade, tmp_path / "data", ignore=shutil.ignore_patterns("manifest"))
    damage(root, how)
    with pytest.raises(DataError) as problem:
        read(opened(root).train, np.arange(N_TRAINING))
    assert said in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"augmentation": ["cutout"]},
            "data.augmentation holds cutout, which is not for images with masks; take",
        ),
        (
            {"evaluation": [{"center_crop": 8}]},
            "data.evaluation holds center_crop, which is not for images with",
        ),
        (
            {"augmentation": ["photometric_distortion", "flip"]},
            "flip must come before photometric_distortion, since masks change while they are read",
        ),
        ({"augmentation": [{"downscale": 0.5}]}, "downscale, which is not for images with masks"),
        ({"augmentation": ["random_scale"]}, "random_crop is missing after random_scale"),
        ({"first_label": 200}, "data.classes is 150 and data.first_label 200, but labels end at 255"),
    ],
)
def test_options_that_do_not_fit_are_told(ade, options, said):
    with pytest.raises(DataError, match=said):
        opened(ade, **options)


def test_images_that_keep_their_sizes_are_read_one_by_one(ade):
    assert opened(ade).own_sizes
    with pytest.raises(DataError, match="only random_crop brings images with masks to one size"):
        read(opened(ade).validation, [0, 1], augment=False)


def test_steps_for_masks_are_refused_for_classes():
    options = DATASETS["digits"](name="digits", augmentation=[{"random_crop": 8}])
    with pytest.raises(
        DataError, match="random_crop, which is for images with masks, but digits has classes"
    ):
        open_data(options, 0, SerialComm())
