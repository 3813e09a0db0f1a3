"""Image folders: their listing, what is read from their files, and what is refused."""

import os
import shutil
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.data_read import images, read

from kakurenbo_hpc.config.augmentation_options import RandomResizedCrop
from kakurenbo_hpc.core.torchvision_compat import transforms
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.augmentation import draws
from kakurenbo_hpc.data.crops import random_box
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.data.images import reading
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DataError, SampleError
from kakurenbo_hpc.testing import check_dataset

CLASSES = ["n01440764", "n01443537", "n02102040"]
SMALL = {
    "augmentation": [{"random_resized_crop": 24}, "flip"],
    "evaluation": [{"resize": 32}, {"center_crop": 24}],
}


def picture(seed, width=70, height=50, mode="RGB"):
    """A smooth picture, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def lay(root, n=4, validation="val", splits=("train", "val")):
    """An ImageNet in small: JPEGs of several sizes, one of them CMYK, and a PNG that is called JPEG."""
    for split in splits:
        for label, name in enumerate(CLASSES):
            folder = root / (validation if split == "val" else split) / name
            folder.mkdir(parents=True)
            for i in range(n):
                seed = 100 * label + 10 * i + (split == "val")
                image = picture(seed, 60 + 10 * i, 80 - 5 * i, "CMYK" if (label, i) == (1, 1) else "RGB")
                kind = "PNG" if (label, i) == (2, 2) else "JPEG"
                image.save(folder / f"{name}_{i}.JPEG", kind, **({"quality": 90} if kind == "JPEG" else {}))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("imagenet"))


def opened(path, seed=0, directory=None, **options):
    values = {"name": "image_folder", "path": str(path), **SMALL, **options}
    return open_data(DATASETS["image_folder"](**values), seed, SerialComm(), directory)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_torchvisions_image_folder_has_the_same_samples_in_the_same_order(tmp_path, validation):
    lay(tmp_path, validation=validation)
    transforms()
    from torchvision.datasets import ImageFolder

    v1 = __import__("torchvision.transforms", fromlist=["_"])
    view = v1.Compose([v1.Resize(32), v1.CenterCrop(24), v1.PILToTensor()])
    data = opened(tmp_path)
    for split, ours in (("train", data.train), (validation, data.validation)):
        theirs = ImageFolder(tmp_path / split, transform=view)
        found, labels = read(ours, np.arange(len(ours)), augment=False)
        assert labels.tolist() == ours.labels().tolist() == theirs.targets
        assert torch.equal((found * 255).round().byte(), torch.stack([image for image, _ in theirs]))
    assert (data.n_classes, data.shape) == (3, (3, 24, 24))


def test_a_random_crop_is_cut_from_the_whole_image_and_then_scaled(folder):
    data = opened(folder, augmentation=[{"random_resized_crop": 24}], seed=7)
    ids = np.arange(len(data.train))
    found = images(data.train, ids, epoch=3)
    drawn = draws(7, "random_resized_crop", ReadRequest(ids, np.zeros(len(ids), np.int32), 3, True))
    names = data.train.files().names
    for i in ids:
        with Image.open(folder / names[i]) as image:
            image = image.convert("RGB")
        top, left, h, w = random_box(drawn[i], image.height, image.width, RandomResizedCrop(size=24))
        cut = image.crop((left, top, left + w, top + h)).resize((24, 24), Image.Resampling.BILINEAR)
        assert np.array_equal((found[i] * 255).round().byte().permute(1, 2, 0), np.asarray(cut))


def test_boxes_are_drawn_as_torchvision_draws_them():
    v1 = transforms() and __import__("torchvision.transforms", fromlist=["_"])
    image, crop = Image.new("RGB", (500, 375)), RandomResizedCrop(size=224)
    ours = np.array([random_box(np.uint64(seed * 7919), 375, 500, crop) for seed in range(3000)], float)
    torch.manual_seed(0)
    theirs = [v1.RandomResizedCrop.get_params(image, crop.scale, crop.ratio) for _ in range(3000)]
    theirs = np.array(theirs, float)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 5 * theirs.std(0) / 3000**0.5)
    assert np.all(np.abs(ours.std(0) / theirs.std(0) - 1) < 0.06)
    assert random_box(np.uint64(1), 10, 1000, crop) == (0, 493, 10, 13)  # no box fits: the central one


def test_scaled_decoding_differs_by_little(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        picture(3, 500, 375).save(tmp_path / split / "a" / "1.jpg", quality=90)
    small = {
        "augmentation": [{"random_resized_crop": 48}],
        "evaluation": [{"resize": 64}, {"center_crop": 48}],
    }
    full, scaled = (opened(tmp_path, decode=decode, **small) for decode in ("full", "scaled"))
    different = []
    for augment in (True, False):
        for epoch in range(10):
            pair = [images(one.train, [0], epoch=epoch, augment=augment) for one in (full, scaled)]
            different.append((pair[0] - pair[1]).abs().mean() * 255)
    assert max(different) < 3 and max(different) > 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaled_decoding_that_reduces_nothing_differs_by_one_at_most(tmp_path, interpolation):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for name, mode in (("1.jpg", "RGB"), ("2.jpg", "CMYK"), ("3.png", "RGB"), ("4.png", "L")):
            picture(3, 90, 70).convert(mode).save(tmp_path / split / "a" / name)
    views = {
        "augmentation": [{"random_resized_crop": {"size": 48, "interpolation": interpolation}}],
        "evaluation": [{"resize": {"size": 52, "interpolation": interpolation}}, {"center_crop": 48}],
    }
    full, scaled = (opened(tmp_path, decode=decode, **views) for decode in ("full", "scaled"))
    different = [
        (
            images(full.train, range(4), augment=augment) - images(scaled.train, range(4), augment=augment)
        ).abs()
        for augment in (True, False)
    ]
    assert 0 < max(one.max() for one in different) < 1.01 / 255


def test_tiny_imagenets_annotations_are_read(tmp_path):
    for label, name in enumerate(CLASSES):
        (tmp_path / "train" / name / "images").mkdir(parents=True)
        picture(label, 64, 64).save(tmp_path / "train" / name / "images" / f"{name}_0.JPEG")
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t10\t63\t58\n")
    (tmp_path / "val/images").mkdir(parents=True)
    lines = []
    for i, label in enumerate([2, 0, 1, 2]):
        picture(50 + i, 64, 64).save(tmp_path / "val/images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n")
    (tmp_path / "val/val_annotations.txt").write_text("".join(lines))
    data = opened(tmp_path, augmentation=["crop", "flip"], evaluation=[])
    assert data.train.labels().tolist() == [0, 1, 2] and data.validation.labels().tolist() == [2, 0, 1, 2]
    assert data.shape == (3, 64, 64) == tuple(images(data.validation, [0, 3]).shape[1:])


def test_a_class_may_lie_behind_links_and_what_is_hidden_stays_out(tmp_path):
    lay(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for i in range(3):
        picture(900 + i).save(elsewhere / f"more_{i}.jpg")
    folder = tmp_path / "data/train" / CLASSES[0]
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path / "data")
    (folder / ".ipynb_checkpoints").mkdir()
    for hidden in (".ipynb_checkpoints/0-checkpoint.JPEG", "._0.JPEG", ".DS_Store", "notes.txt"):
        (folder / hidden).write_bytes(b"no image")
    assert np.bincount(opened(tmp_path / "data").train.labels()).tolist() == [7, 4, 4]


def test_names_may_be_any_bytes(tmp_path):
    lay(tmp_path)
    for split in ("train", "val"):
        strange = os.fsencode(tmp_path / split) + b"/\xff\xe9t\xe9"
        os.mkdir(strange)
        shutil.copy(tmp_path / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG", strange + b"/\x80 1.jpg")
    data = opened(tmp_path)
    assert data.n_classes == 4 and images(data.train, [len(data.train) - 1]).shape == (1, 3, 24, 24)
    assert open_data(
        DATASETS["image_folder"](name="image_folder", path=str(tmp_path), **SMALL), 0, SerialComm()
    )


def test_a_kept_listing_is_taken_and_every_rank_maps_it(tmp_path, monkeypatch):
    data = opened(lay(tmp_path / "data"))
    monkeypatch.setattr("kakurenbo_hpc.data.images.listing._list_class", None)  # not listed again
    again = opened(tmp_path / "data")
    assert again.fingerprint == data.fingerprint
    assert isinstance(again.train._base._listing.rows(), np.memmap)
    assert torch.equal(images(again.train, [5]), images(data.train, [5]))


def test_where_the_data_is_read_only_the_run_directory_keeps_the_listing(tmp_path, monkeypatch):
    data = lay(tmp_path / "data")
    (data / "manifest").write_text("in the way")  # root may write anywhere
    first = opened(data, directory=tmp_path / "run")
    assert (tmp_path / "run/manifest/train_images.npy").exists()
    assert (
        opened(data, directory=tmp_path / "run").fingerprint == first.fingerprint == opened(data).fingerprint
    )


def test_it_keeps_the_laws_of_data_sets(folder, tmp_path):
    lay(tmp_path, n=3)
    check_dataset(DATASETS["image_folder"], changed={"path": str(tmp_path)}, path=str(folder), **SMALL)


def test_palettes_grey_and_transparent_images_are_read_as_torchvision_reads_them(tmp_path):
    lay(tmp_path, n=3)
    for i, mode in enumerate(("P", "L", "RGBA")):
        picture(i, 60, 40).convert(mode).save(tmp_path / "train" / CLASSES[i] / "a.png")
    picture(3, 60, 40).convert("L").save(tmp_path / "train" / CLASSES[0] / "b.jpg")
    picture(4, 60, 40).save(tmp_path / "train" / CLASSES[0] / "c.jpg", progressive=True, subsampling=0)
    transforms()
    from torchvision.datasets import ImageFolder

    ours = DATASETS["image_folder"](
        name="image_folder", path=str(tmp_path), augmentation=[], evaluation=[]
    ).open()
    for i, (theirs, label) in enumerate(ImageFolder(tmp_path / "train")):
        found, target = read(ours.train, [i])
        assert np.array_equal((found[0] * 255).round().byte().permute(1, 2, 0), np.asarray(theirs))
        assert target.item() == label


def test_without_simplejpeg_pillow_reads_the_same(folder, monkeypatch):
    both = []
    for decoder in (reading._jpeg_decoder, lambda: None):
        monkeypatch.setattr(reading, "_jpeg_decoder", decoder)
        data = opened(folder)
        ids = np.arange(len(data.train))
        both.append([images(data.train, ids), images(data.train, ids, augment=False)])
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


def test_a_flip_after_the_crop_is_that_of_any_data_set(folder):
    ids = np.arange(12)
    mirrored = opened(folder, seed=7).train
    plain = opened(folder, seed=7, augmentation=[{"random_resized_crop": 24}]).train
    drawn = draws(7, "flip", ReadRequest(ids, np.zeros(12, np.int32), 3, True)) % np.uint64(2) == 1
    expected = images(plain, ids, epoch=3)
    expected[drawn] = expected[drawn].flip(3)
    assert torch.equal(images(mirrored, ids, epoch=3), expected) and 0 < drawn.sum() < 12


def png_of_16_bits():
    """A PNG of 4 x 4 colours with 16 bits each, which Pillow does not write."""

    def chunk(kind, content):
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = (4).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(24)) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def damage(root, how):
    lay(root)
    image = root / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG"
    if how == "cut short":
        image.write_bytes(image.read_bytes()[:-300])
    if how == "text":
        image.write_text("404 not found")
    if how == "16 bits":
        Image.fromarray(np.zeros((40, 40), np.uint16)).save(image, "PNG")
    if how == "16-bit colours":
        image.write_bytes(png_of_16_bits())
    if how == "two spellings":
        for name in ("caf\u00e9", "cafe\u0301"):
            (root / "train" / name).mkdir()
            picture(1).save(root / "train" / name / "1.JPEG")
    if how == "empty class":
        shutil.rmtree(root / "train" / CLASSES[1])
        (root / "train" / CLASSES[1]).mkdir()
    if how == "unknown class":
        (root / "val" / "n99").mkdir()
        picture(1).save(root / "val" / "n99" / "1.JPEG")
    if how == "no validation":
        shutil.rmtree(root / "val")
    if how == "case":
        shutil.copy(image, image.with_suffix(".jpeg"))
    if how == "dangling":
        (root / "train" / CLASSES[0] / "gone.JPEG").symlink_to(root / "nowhere.JPEG")
    if how in ("new file", "changed file", "damaged listing"):
        opened(root)
    if how == "new file":
        picture(1).save(root / "train" / CLASSES[0] / "new.JPEG")
    if how == "changed file":
        with open(image, "ab") as file:
            file.write(b"0")
    if how == "damaged listing":
        (root / "manifest/train_images.npy").write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut short", f"{CLASSES[1]}_3.JPEG: cannot be read as an image (image file is truncated"),
        (
            "16-bit colours",
            f"{CLASSES[1]}_3.JPEG: has more than 8 bits a channel, of which the rest would be",
        ),
        ("two spellings", "looks like another class, but is spelled"),
        ("text", f"{CLASSES[1]}_3.JPEG: cannot be read as an image (cannot identify image file"),
        ("16 bits", f"{CLASSES[1]}_3.JPEG: has more than 8 bits a channel, of which the rest would be lost"),
        ("empty class", f"train/{CLASSES[1]}: found no images there; add some, or remove it"),
        ("unknown class", "val/n99: there is no such class to train on; remove it, or add "),
        (
            "no validation",
            "validation: cannot be listed (No such file or directory); give the folder that holds",
        ),
        ("case", f"{CLASSES[1]}_3.jpeg: differs from {CLASSES[1]}_3.JPEG in case only; remove one of them"),
        ("dangling", "gone.JPEG: cannot be read (a link to "),
        (
            "new file",
            f"train/{CLASSES[0]}: has changed since its images were listed; if that is right, remove",
        ),
        ("changed file", f"{CLASSES[1]}_3.JPEG: has changed since it was listed; if that is right, remove"),
        ("damaged listing", "train_images.npy: not a listing that can be read; remove "),
    ],
)
def test_a_fault_is_one_line_with_the_files_name(tmp_path, how, said):
    damage(tmp_path, how)
    with pytest.raises(DataError) as problem:
        data = opened(tmp_path)
        images(data.train, np.arange(len(data.train)))
    assert said in str(problem.value) and "\n" not in str(problem.value)


def test_images_of_several_sizes_need_a_crop(folder):
    with pytest.raises(DataError, match="center_crop is missing, but images of any size must come to one"):
        opened(folder, evaluation=[])
    with pytest.raises(DataError, match="random_resized_crop must come first"):
        opened(folder, augmentation=["flip", {"random_resized_crop": 24}])
    data = opened(folder, augmentation=["flip"], evaluation=[])
    with pytest.raises(
        SampleError, match="but another image of .*add random_resized_crop to data.augmentation"
    ):
        images(data.train, [0, 1])
