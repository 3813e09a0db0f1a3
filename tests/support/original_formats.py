"""Writers of small data sets in the formats in which the public ones are downloaded, byte for byte."""

import gzip
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def make_images(n: int, n_classes: int, shape=(3, 32, 32), seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, C, H, W) uint8 and labels (n,) uint8, every class among them if n allows."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), np.uint8), (np.arange(n) * 7 % n_classes).astype(np.uint8)


def write_cifar_binary(folder: Path, names: list[str], parts, coarse: bool = False) -> None:
    """Write ``NAME.bin`` files: a row per image, its label (CIFAR-100: coarse, fine) and 3,072 pixels."""
    folder.mkdir(parents=True)
    for name, (pixels, labels) in zip(names, parts, strict=True):
        label_bytes = np.stack([labels // 5, labels], 1) if coarse else labels[:, None]
        rows = np.concatenate([label_bytes, pixels.reshape(len(labels), -1)], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_cifar_python(folder: Path, names: list[str], parts, key: str) -> None:
    """Write pickles as Python 2 and NumPy 1 wrote those that are downloaded."""
    folder.mkdir(parents=True)
    for name, (pixels, labels) in zip(names, parts, strict=True):
        (folder / name).write_bytes(python2_pickle(pixels.reshape(len(labels), -1), key, labels))


def python2_pickle(pixels: np.ndarray, key: str, labels: np.ndarray) -> bytes:
    """Return the pickle, protocol 2, of ``{"data": pixels, key: list(labels)}``."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    raw = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + integer(0) + b"\x85" + text("b")
    )
    dtype = b"cnumpy\ndtype\n" + text("u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + text("|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86"
    state = b"(" + integer(1) + shape + dtype + b"\x89" + b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    classes = b"](" + b"".join(integer(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + b"\x87R" + state + text(key) + classes + b"u."


def pack_tar(folder: Path) -> Path:
    """Return ``FOLDER.tar.gz``, which holds the folder."""
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


def write_idx(folder: Path, train, test, compress: bool = False) -> None:
    """Write the four files of MNIST from pixels (n, 1, H, W) and labels (n,)."""
    folder.mkdir(parents=True)
    for prefix, (pixels, labels) in (("train", train), ("t10k", test)):
        for kind, values in (("images", pixels[:, 0]), ("labels", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            name = f"{prefix}-{kind}-idx{values.ndim}-ubyte"
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(head + values.tobytes()))
            else:
                (folder / name).write_bytes(head + values.tobytes())


def write_svhn(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write a MATLAB 5 file; the digit 0 is class 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": classes}, do_compression=True)


def write_ade20k(folder: Path, n_training: int, n_validation: int, seed=0) -> Path:
    """Write ADEChallengeData2016: JPEGs of several sizes, masks with classes 1 to 150 and 0 for the rest."""
    rng = np.random.default_rng(seed)
    root = folder / "ADEChallengeData2016"
    for split, short, n in (("training", "train", n_training), ("validation", "val", n_validation)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(1, n + 1):
            name, size = f"ADE_{short}_{i:08d}", (int(rng.integers(50, 90)), int(rng.integers(40, 60)))
            labels = Image.fromarray(rng.integers(0, 151, (3, 4), np.uint8))
            labels.resize(size, Image.Resampling.NEAREST).save(root / f"annotations/{split}/{name}.png")
            colours = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
            colours.resize(size, Image.Resampling.BICUBIC).save(root / f"images/{split}/{name}.jpg")
    for name in ("objectInfo150.txt", "sceneCategories.txt"):
        (root / name).write_text("as downloaded\n")
    return root
