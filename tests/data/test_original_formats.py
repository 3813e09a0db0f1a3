"""CIFAR, SVHN, MNIST and Fashion-MNIST in the formats in which they are downloaded."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from support.original_formats import (
    make_images,
    pack_tar,
    python2_pickle,
    write_cifar_binary,
    write_cifar_python,
    write_idx,
    write_svhn,
)

from kakurenbo_hpc.core.torchvision_compat import transforms
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.testing import check_dataset

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
CIFAR10 = [make_images(4, 10, seed=number) for number in range(6)]
CIFAR100 = [make_images(100, 100, seed=6), make_images(50, 100, seed=7)]
DIGITS = [make_images(20, 10, (1, 28, 28), seed=8), make_images(10, 10, (1, 28, 28), seed=9)]
HOUSES = [make_images(30, 10, seed=10), make_images(10, 10, seed=11), make_images(20, 10, seed=12)]


def opened(name, path, **options):
    return DATASETS[name](name=name, path=str(path), **options).open()


def contents(dataset):
    ids = np.arange(len(dataset))
    images, labels = dataset.__getitems__(ReadRequest(ids, np.zeros_like(ids), 0, False))
    assert np.array_equal(labels, dataset.labels())
    return (images * 255).round().numpy().astype(np.uint8), labels.numpy()


def joined(parts):
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def assert_holds(splits, train, test):
    for dataset, (pixels, labels) in ((splits.train, train), (splits.validation, test)):
        found, classes = contents(dataset)
        assert np.array_equal(found, pixels) and np.array_equal(classes, labels)
    assert splits.shape == train[0].shape[1:]


def lay_cifar10(folder, version):
    if version == "binary":
        write_cifar_binary(folder / "cifar-10-batches-bin", BATCHES, CIFAR10)
        return folder / "cifar-10-batches-bin"
    write_cifar_python(folder / "cifar-10-batches-py", BATCHES, CIFAR10, "labels")
    return folder / "cifar-10-batches-py"


def lay_cifar100(folder, version):
    names = ["train", "test"]
    if version == "binary":
        write_cifar_binary(folder / "cifar-100-binary", names, CIFAR100, coarse=True)
        return folder / "cifar-100-binary"
    write_cifar_python(folder / "cifar-100-python", names, CIFAR100, "fine_labels")
    return folder / "cifar-100-python"


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize(
    ("name", "lay", "parts"), [("cifar10", lay_cifar10, CIFAR10), ("cifar100", lay_cifar100, CIFAR100)]
)
def test_cifar_is_read_unpacked_and_as_an_archive(tmp_path, name, lay, parts, version):
    folder = lay(tmp_path / "unpacked", version)
    archive = pack_tar(lay(tmp_path / "packed", version))
    moved = tmp_path / archive.name.replace("-batches-bin", "-binary").replace("-batches-py", "-python")
    archive.rename(moved)
    splits = [opened(name, path) for path in (folder, folder.parent, moved, tmp_path)]
    for one in splits:
        assert_holds(one, joined(parts[:-1]), parts[-1])
    assert len({one.fingerprint for one in splits}) == 1


def test_both_versions_of_cifar_are_one_data_set(tmp_path):
    one, other = (opened("cifar10", lay_cifar10(tmp_path, version)) for version in ("binary", "python"))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")])
def test_idx_files_are_read_compressed_or_not(tmp_path, name, folder, compress):
    write_idx(tmp_path / folder, *DIGITS, compress=compress)
    for path in (tmp_path, tmp_path / folder):
        assert_holds(opened(name, path), *DIGITS)


def test_svhn_is_read_with_its_extra_images_or_without(tmp_path):
    for name, images in zip(("train", "test", "extra"), HOUSES, strict=True):
        write_svhn(tmp_path / f"{name}_32x32.mat", *images)
    assert_holds(opened("svhn", tmp_path), HOUSES[0], HOUSES[1])
    assert_holds(opened("svhn", tmp_path, extra=True), joined([HOUSES[0], HOUSES[2]]), HOUSES[1])


def test_torchvisions_readers_find_the_same(tmp_path, monkeypatch):
    transforms()  # declares what torchvision lacks beside a torch without CUDA
    from torchvision import datasets

    for reader in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
        monkeypatch.setattr(reader, "_load_meta", lambda self: None)
    monkeypatch.setattr(datasets.svhn, "check_integrity", lambda *given: True)
    lay_cifar10(tmp_path, "python")
    lay_cifar100(tmp_path, "python")
    write_idx(tmp_path / "MNIST/raw", *DIGITS)
    for name, images in zip(("train", "test"), HOUSES[:2], strict=True):
        write_svhn(tmp_path / f"{name}_32x32.mat", *images)
    theirs = {
        "cifar10": datasets.CIFAR10(tmp_path, train=True),
        "cifar100": datasets.CIFAR100(tmp_path, train=True),
        "mnist": datasets.MNIST(tmp_path, train=True),
        "svhn": datasets.SVHN(tmp_path, split="train"),
    }
    for name, reader in theirs.items():
        pixels, labels = contents(opened(name, tmp_path).train)
        same = np.stack([np.asarray(image).reshape(*pixels.shape[2:], -1) for image, _ in reader])
        assert np.array_equal(pixels.transpose(0, 2, 3, 1), same), name
        assert labels.tolist() == [label for _, label in reader], name


def test_they_keep_the_laws_of_data_sets(tmp_path):
    lay_cifar10(tmp_path / "a", "binary")
    write_cifar_binary(tmp_path / "b/cifar-10-batches-bin", BATCHES, CIFAR10[::-1])
    changed = {"path": str(tmp_path / "b")}
    check_dataset(
        DATASETS["cifar10"], changed=changed, path=str(tmp_path / "a"), augmentation=["crop", "flip"]
    )


class Hostile:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (os.system, ("touch was_run",))


def damaged(folder, how):
    """Lay a data set with one fault; return its name."""
    pixels, labels = CIFAR10[0]
    if how in ("a class", "a row cut short", "no file", "no images"):
        batch = lay_cifar10(folder, "binary") / "data_batch_3.bin"
        rows = bytearray(batch.read_bytes())
        rows[0] = 11 if how == "a class" else rows[0]
        batch.write_bytes({"a row cut short": rows[:-1], "no images": b""}.get(how, rows))
        if how == "no file":
            batch.unlink()
        return "cifar10"
    if how in ("code", "a pickle cut short", "other arrays", "other keys"):
        batch = lay_cifar10(folder, "python") / "data_batch_3"
        good = batch.read_bytes()
        other = {
            "code": pickle.dumps({"data": Hostile()}, protocol=2),
            "a pickle cut short": good[:-100],
            "other arrays": python2_pickle(pixels.reshape(8, -1), "labels", labels),
            "other keys": python2_pickle(pixels.reshape(4, -1), "fine_labels", labels),
        }
        batch.write_bytes(other[how])
        return "cifar10"
    if how in ("an archive cut short", "an archive without a file", "nothing"):
        if how != "nothing":
            unpacked = lay_cifar100(folder, "binary")
            if how == "an archive without a file":
                (unpacked / "test.bin").unlink()
            archive = pack_tar(unpacked)
            for path in [*unpacked.iterdir()]:
                path.unlink()
            unpacked.rmdir()
            if how == "an archive cut short":
                archive.write_bytes(archive.read_bytes()[:20_000])
        return "cifar100"
    if how in ("a page for a file", "values missing", "labels missing", "gzip cut short"):
        write_idx(folder / "MNIST/raw", *DIGITS, compress=how == "gzip cut short")
        [path] = (folder / "MNIST/raw").glob("train-images*")
        good = path.read_bytes()
        if how == "labels missing":
            write_idx(folder / "other", DIGITS[1], DIGITS[1])
            path.with_name("train-labels-idx1-ubyte").write_bytes(
                (folder / "other/train-labels-idx1-ubyte").read_bytes()
            )
        path.write_bytes(
            {"a page for a file": b"<html>", "values missing": good[:-5], "gzip cut short": good[:-50]}.get(
                how, good
            )
        )
        return "mnist"
    write_svhn(folder / "train_32x32.mat", *HOUSES[0])
    write_svhn(folder / "test_32x32.mat", *HOUSES[1])
    path = folder / "train_32x32.mat"
    if how == "a mat cut short":
        path.write_bytes(path.read_bytes()[:-3000])
    if how == "a mat of version 7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 512)
    if how == "a mat of grey images":
        write_svhn(path, HOUSES[0][0][:, :1], HOUSES[0][1])
    if how == "a mat of class 11":
        write_svhn(path, HOUSES[0][0], HOUSES[0][1] + 2)
    if how == "no mat":
        path.unlink()
    return "svhn"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a class", "data_batch_3.bin: classes go from 1 to 11, but are 0 to 9; download it again"),
        ("a row cut short", "data_batch_3.bin: has 12291 bytes, but must have a multiple of 3073; download"),
        ("no images", "data_batch_3.bin: has 0 bytes, but must have a multiple of 3073"),
        ("no file", "data_batch_3.bin: cannot be read (No such file or directory)"),
        (
            "code",
            "data_batch_3: damaged (UnpicklingError: it names posix.system, which no file of CIFAR does)",
        ),
        ("a pickle cut short", "data_batch_3: damaged ("),
        (
            "other arrays",
            "data_batch_3: holds uint8 of shape (8, 1536) and 4 classes, but must hold uint8 of",
        ),
        ("other keys", "data_batch_3: damaged (KeyError: b'labels')"),
        ("an archive cut short", "cifar-100-binary.tar.gz: damaged ("),
        ("an archive without a file", "cifar-100-binary.tar.gz: lacks test.bin; download it again"),
        ("nothing", "found none of cifar-100-binary, cifar-100-binary.tar.gz, cifar-100-python"),
        ("a page for a file", "begins with 3c 68 74 6d, but must begin with 00 00 08 03, bytes in 3 dim"),
        ("values missing", "holds 15675 values, but its head says 20 x 28 x 28; download it again"),
        ("labels missing", "train has 20 images, but 10 labels; download them again"),
        ("gzip cut short", "train-images-idx3-ubyte.gz: damaged ("),
        ("a mat cut short", "train_32x32.mat: cannot be read ("),
        (
            "a mat of version 7.3",
            "train_32x32.mat: has MATLAB version 7.3, but SVHN has 5; download it again",
        ),
        ("a mat of grey images", "X is uint8 of shape (32, 32, 1, 30) with 30 classes, but must be uint8"),
        ("a mat of class 11", "train_32x32.mat: classes go from 2 to 11, but are 1 to 10; download it again"),
        ("no mat", "train_32x32.mat: not found; data.path must name the folder that holds it"),
    ],
)
def test_a_fault_is_one_line_with_the_files_name(tmp_path, how, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = damaged(tmp_path, how)
    with pytest.raises(DataError) as problem:
        opened(name, tmp_path)
    assert (
        said in str(problem.value) and "\n" not in str(problem.value) and str(tmp_path) in str(problem.value)
    )
    assert not Path("was_run").exists()
