"""``kakurenbo data pack``: images into HDF5 parts, in order, each whole or not there."""

import os
import pickle
import struct
import zlib

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from support.data_messages import refused, told
from support.data_read import read

from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data.tools import pack as packing
from kakurenbo_hpc.data.tools.pack import pack


def picture(path, height=6, width=8, mode="RGB"):
    """Write an image of random colours, the same for the same name; return its pixels, (3, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(list(os.fsencode(path.name))).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    image = Image.fromarray(colours).convert(mode)
    image.save(path)
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


NAMES = {
    "train": [
        "cat/1.png",
        "cat/2.png",
        "cat/deeper/3.png",
        "dog/0.png",
        "dog/4.PNG",
        "owl/5.bmp",
        "owl/6.png",
    ],
    "val": ["dog/7.png", "owl/8.png"],
}


@pytest.fixture
def source(tmp_path):
    """An image folder of three classes, and what is no image in it."""
    folder = tmp_path / "images"
    for split, names in NAMES.items():
        for name in names:
            picture(folder / split / name)
    (folder / "train" / "labels.txt").write_text("cat dog owl")
    (folder / "train" / "cat" / "notes.txt").write_text("a cat")
    (folder / "train" / "cat" / "._1.png").write_text("a trace of another system")
    return folder


def pixels(source, split):
    return np.stack(
        [np.asarray(Image.open(source / split / name)).transpose(2, 0, 1) for name in NAMES[split]]
    )


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_and_classes_come_in_the_order_of_their_names(source, tmp_path, monkeypatch, capsys):
    said = told(["data", "pack", source, tmp_path / "packed"], monkeypatch, capsys)
    assert said == (
        f"{tmp_path}/packed: 7 + 2 images of 3 x 6 x 8 in 3 classes, 2 of 2 parts written now\n"
        f"2 files left out, not named as images or in no class: {source}/train/cat/notes.txt for one\n"
    )
    for split, folder, labels in [("train", "train", [0, 0, 0, 1, 1, 2, 2]), ("val", "validation", [1, 2])]:
        with h5py.File(tmp_path / "packed" / folder / "part_0000.h5") as file:
            assert (file["inputs"][...] == pixels(source, split)).all() and file["inputs"].dtype == np.uint8
            assert file["labels"][...].tolist() == labels and file["labels"].dtype == np.int64
            assert list(file["labels"].attrs["classes"]) == ["cat", "dog", "owl"]
            assert all(
                file[name].chunks is None and file[name].id.get_offset() for name in ("inputs", "labels")
            )


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_parts_are_cut_at_their_size_and_hold_all_images_once(source, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(packing, "_CHUNK_BYTES", at_once * 3 * 6 * 8)
    done = pack(source, tmp_path / "packed", part_bytes=3 * (3 * 6 * 8) + 5)
    assert (done.parts, done.written) == (4, 4)
    parts = [h5py.File(path) for path in sorted((tmp_path / "packed" / "train").iterdir())]
    assert [len(part["labels"]) for part in parts] == [3, 3, 1]
    assert (np.concatenate([part["inputs"][...] for part in parts]) == pixels(source, "train")).all()


def test_a_part_that_is_whole_is_kept_and_a_torn_one_is_written_again(source, tmp_path):
    folder, cut = tmp_path / "packed", {"part_bytes": 3 * (3 * 6 * 8)}
    pack(source, folder, **cut)
    before = content(folder)
    assert pack(source, folder, **cut).written == 0
    os.truncate(folder / "train/part_0001.h5", 600)
    (folder / "train/part_0002.h5").rename(folder / "train/.part_0002.h5.part")
    stamp = (folder / "train/part_0000.h5").stat().st_mtime_ns
    assert pack(source, folder, **cut).written == 2
    assert content(folder) == before and (folder / "train/part_0000.h5").stat().st_mtime_ns == stamp


def test_a_packing_that_ends_in_the_middle_goes_on_there(source, tmp_path, monkeypatch, capsys):
    broken = source / "train/owl/6.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-60] + bytes(60))  # of the same size
    with pytest.raises(packing.DataError, match="owl/6.png: cannot be read as an image"):
        pack(source, tmp_path / "packed", part_bytes=3 * (3 * 6 * 8))
    assert sorted(path.name for path in (tmp_path / "packed/train").glob("*.h5")) == [
        "part_0000.h5",
        "part_0001.h5",
    ]
    broken.write_bytes(whole)
    done = pack(source, tmp_path / "packed", part_bytes=3 * (3 * 6 * 8))
    assert (done.parts, done.written) == (4, 2)


def test_with_a_size_the_shorter_side_is_resized_and_the_centre_cropped(source, tmp_path):
    flag = np.zeros((40, 120, 3), np.uint8)
    flag[:, 40:80] = 200
    Image.fromarray(flag).save(source / "train/cat/1.png")
    done = pack(source, tmp_path / "packed", size=20)
    assert done.shape == (3, 20, 20)
    with h5py.File(tmp_path / "packed/train/part_0000.h5") as file:
        assert file["inputs"].shape == (7, 3, 20, 20)
        assert (file["inputs"][0, :, :, 1:-1] == 200).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_grey_images_and_others_become_rgb(source, tmp_path, mode):
    expected = picture(source / "train/cat/1.png", mode=mode)
    pack(source, tmp_path / "packed")
    with h5py.File(tmp_path / "packed/train/part_0000.h5") as file:
        assert (file["inputs"][0] == expected).all()


def test_tens_of_thousands_of_classes_have_room_for_their_names(tmp_path):
    expected = picture(tmp_path / "1.png")
    rows = np.array([(b"1.png", 0, 1)], [("name", "S5"), ("label", np.int32), ("size", np.int64)])
    names = [f"n{number:08d}" for number in range(30_000)]
    with packing.ThreadPoolExecutor(1) as pool:
        part = packing._Part(tmp_path / "part_0000.h5", rows)
        list(packing._write_part(part, names, packing._Pixels(tmp_path, None, rows[0]), pool))
    with h5py.File(tmp_path / "part_0000.h5") as file:
        assert list(file["labels"].attrs["classes"]) == names and (file["inputs"][0] == expected).all()


def larger(source):
    picture(source / "val/owl/8.png", 9, 8)


def spelled_twice(source):
    picture(source / "train/do\u0301g/1.png")
    picture(source / "train/d\u00f3g/1.png")


def spelled_otherwise(source):
    picture(source / "train/e\u0301lk/1.png")
    picture(source / "val/\u00e9lk/1.png")


def no_classes(source):
    (source / "train").rename(source / "training")


def no_folders(source):
    (source / "val").rename(source / "train" / "cat" / "val")
    (source / "validation").mkdir()


def strange_class(source):
    picture(source / "val/elk/1.png")


def empty_class(source):
    (source / "train" / "elk").mkdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (larger, "val/owl/8.png: has 9 x 8 pixels, but the first image 6 x 8; add --size"),
        (
            lambda source: (source / "train/dog/0.png").write_text("a dog"),
            "train/dog/0.png: cannot be read as an image",
        ),
        (
            lambda source: (source / "train/dog/1.png").symlink_to("gone"),
            "train/dog/1.png: cannot be read (a link to gone, where nothing is)",
        ),
        (
            lambda source: (source / "train/dog/more").symlink_to("gone"),
            "train/dog/more: cannot be read (a link to gone, where nothing is)",
        ),
        (
            spelled_twice,
            "train/do\u0301g: looks like another class, but is spelled 'do\\u0301g', not 'd\\xf3g'",
        ),
        (
            spelled_otherwise,
            "val/\u00e9lk: looks like another class, but is spelled '\\xe9lk', not 'e\\u0301lk'",
        ),
        (
            no_classes,
            "train: cannot be listed (No such file or directory); give the folder that holds train/CLASS/",
        ),
        (no_folders, "validation: found no folders there"),
        (strange_class, "val/elk: there is no such class to train on"),
        (empty_class, "train/elk: found no images there"),
    ],
)
def test_what_cannot_be_packed_is_one_line_that_names_it(source, tmp_path, harm, said, monkeypatch, capsys):
    harm(source)
    assert said in refused(["data", "pack", source, tmp_path / "packed"], monkeypatch, capsys)
    assert not list((tmp_path / "packed").glob("validation/*.h5"))


def png(colour_type, channels):
    """Return a PNG of 16 bits a channel, which Pillow cannot write in colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 8, 6, 16, colour_type, 0, 0, 0)
    rows = bytes(6 * (1 + 8 * channels * 2))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff():
    """Return an uncompressed TIFF of 16 bits a channel, RGB."""
    tags = {256: 8, 257: 6, 258: 122, 259: 1, 262: 2, 273: 128, 277: 3, 278: 6, 279: 288}
    entries = [struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, value) for tag, value in tags.items()]
    start = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    return start + struct.pack("<3H", 16, 16, 16) + bytes(288)


DEEP = {
    "grey.png": png(0, 1),
    "rgb.png": png(2, 3),
    "grey and alpha.png": png(4, 2),
    "rgba.png": png(6, 4),
    "rgb.ppm": b"P6 8 6 65535\n" + bytes(288),
    "plain.ppm": b"P3 8 6 1023\n" + b"0 " * 144,
    "grey.pgm": b"P5 8 6 65535\n" + bytes(96),
    "rgb.tif": tiff(),
}


@pytest.mark.parametrize("name", DEEP)
def test_images_of_more_than_8_bits_a_channel_are_refused(source, tmp_path, name):
    (source / "train/dog" / name).write_bytes(DEEP[name])
    with pytest.raises(packing.DataError, match=f"train/dog/{name}: has more than 8 bits a channel"):
        pack(source, tmp_path / "packed")


def test_linked_folders_are_packed_and_hidden_ones_are_not(source, tmp_path):
    linked = [picture(tmp_path / "elsewhere" / name) for name in ("1.png", "deeper/2.png")]
    (source / "train/owl/more").symlink_to(tmp_path / "elsewhere")
    (source / "train/owl/up").symlink_to("..")  # and so without end
    (source / "train/bee").symlink_to(tmp_path / "elsewhere")
    picture(source / "train/owl/.ipynb_checkpoints/6-checkpoint.png")
    done = pack(source, tmp_path / "packed")
    with h5py.File(tmp_path / "packed/train/part_0000.h5") as file:
        labels = file["labels"][...].tolist()
        assert (file["inputs"][:2] == linked).all() and (file["inputs"][-2:] == linked).all()
    assert labels[:2] == [0, 0]
    assert done.train == len(labels)


def test_names_that_are_not_utf8_are_packed(source, tmp_path, monkeypatch, capsys):
    name = os.fsdecode(b"\xff")
    expected = picture(source / "train" / "zebra" / f"{name}.png")
    (source / "train" / "zebra").rename(source / "train" / f"z{name}")
    told(["data", "pack", source, tmp_path / "packed"], monkeypatch, capsys)
    with h5py.File(tmp_path / "packed/train/part_0000.h5") as file:
        assert list(file["labels"].attrs["classes"]) == ["cat", "dog", "owl", f"z{name}"]
        assert (file["inputs"][-1] == expected).all()


def test_an_empty_source_a_size_of_nothing_and_folders_that_hold_something_else_are_refused(
    source, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "train: found no folders there" in refused(
        ["data", "pack", tmp_path / "empty", tmp_path / "packed"], monkeypatch, capsys
    )
    assert "Invalid value for '--size'" in refused(
        ["data", "pack", source, tmp_path / "packed", "--size=-3"], monkeypatch, capsys
    )
    assert "images: not empty, and nothing that was begun here" in refused(
        ["data", "pack", source, source], monkeypatch, capsys
    )
    assert not (tmp_path / "packed").exists()
    pack(source, tmp_path / "packed")
    before = content(tmp_path / "packed")
    assert "packed: holds another set, " in refused(
        ["data", "pack", source, tmp_path / "packed", "--size=6"], monkeypatch, capsys
    )
    picture(source / "train/dog/9.png")
    assert "packed: holds another set, " in refused(
        ["data", "pack", source, tmp_path / "packed"], monkeypatch, capsys
    )
    assert content(tmp_path / "packed") == before


def as_read(path, **options):
    values = {"name": "image_folder", "path": str(path), "augmentation": [], "evaluation": [], **options}
    return DATASETS["image_folder"](**values).open()


def test_encoded_files_are_the_same_data_set_as_their_folder(source, tmp_path, monkeypatch, capsys):
    said = told(["data", "pack", source, tmp_path / "packed", "--encoded"], monkeypatch, capsys)
    assert said.startswith(f"{tmp_path}/packed: 7 + 2 images in 3 classes, 2 of 2 parts written now\n")
    folder, packed = as_read(source), as_read(tmp_path / "packed")
    assert folder.fingerprint == packed.fingerprint and packed.n_classes == 3
    for ours, theirs in ((packed.train, folder.train), (packed.validation, folder.validation)):
        ids = np.arange(len(theirs))
        found, expected = read(pickle.loads(pickle.dumps(ours)), ids), read(theirs, ids)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    mapped = as_read(tmp_path / "packed").train._listing.rows()  # the listing that was kept
    assert isinstance(mapped, np.memmap)


def test_parts_of_encoded_files_are_cut_and_restarted_as_those_of_pixels_are(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 500)
    folder, how = tmp_path / "packed", {"encoded": True, "part_bytes": 600}
    assert pack(source, folder, **how).parts > 3
    before = content(folder)
    (folder / "train/part_0001.h5").unlink()
    with pytest.raises(packing.DataError, match="part_0001.h5: cannot be read .* goes on where it stopped"):
        as_read(folder)
    assert pack(source, folder, **how).written == 1 and content(folder) == before
    ids = np.arange(7)
    assert torch.equal(read(as_read(folder).train, ids)[0], read(as_read(source).train, ids)[0])


def overwrite(path, name, change):
    with h5py.File(path, "r+") as file:
        values = file[name][...]
        del file[name]
        file[name] = change(values)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda part: os.truncate(part, 900), "part_0000.h5: cannot be read as HDF5"),
        (
            lambda part: overwrite(part, "offsets", lambda found: found + 1),
            "its offsets do not fit its bytes",
        ),
        (lambda part: overwrite(part, "offsets", np.flip), "its offsets do not fit its bytes"),
        (
            lambda part: overwrite(part, "names", lambda found: np.char.add(b"../", found)),
            "its labels or names are not as they were packed",
        ),
        (lambda part: overwrite(part, "labels", np.negative), "part_0000.h5: not a part of packed images"),
        (
            lambda part: overwrite(part, "bytes", np.zeros_like),
            "part_0000.h5, train/cat/1.png: cannot be read as an image (cannot identify image file); remove",
        ),
    ],
)
def test_what_is_wrong_with_packed_files_is_one_line_that_names_them(source, tmp_path, harm, said):
    pack(source, tmp_path / "packed", encoded=True)
    harm(tmp_path / "packed/train/part_0000.h5")
    with pytest.raises(packing.DataError) as problem:
        read(as_read(tmp_path / "packed").train, [0])
    assert said in str(problem.value) and "\n" not in str(problem.value)


def test_parts_that_change_after_they_were_listed_are_told(source, tmp_path, monkeypatch, capsys):
    pack(source, tmp_path / "packed", encoded=True)
    as_read(tmp_path / "packed")
    with open(tmp_path / "packed/train/part_0000.h5", "ab") as file:
        file.write(b"0")
    with pytest.raises(packing.DataError, match="train: has other parts than when they were listed"):
        as_read(tmp_path / "packed")
    words = ["data", "pack", source, tmp_path / "other", "--encoded", "--size", "20"]
    assert "--encoded keeps images as they are, so that --size" in refused(words, monkeypatch, capsys)
