"""What HDF5 can store in a file, and where: read as h5py reads it, or refused in one line."""

import fcntl
import os

import h5py
import numpy as np
import pytest
import torch
from support.data_files import fields, write_deepcam

from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data import retry as patience
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.data.hdf5.layout import THROUGH_H5PY, explain
from kakurenbo_hpc.data.tools.stats import write_stats
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DataError

N, SHAPE = 6, (6, 2, 4, 4)
INTEGERS = np.random.default_rng(0).integers(-64, 64, SHAPE)
VALUES = (INTEGERS / 64).astype(np.float32)  # bfloat16 and float16 have all of them


@pytest.fixture
def path(tmp_path):
    """A file of labels, so long that offsets of the other file lie inside it, too; and validation data."""
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        with h5py.File(tmp_path / split / "0.h5", "w") as file:
            file["labels"], file["room"] = np.arange(N) % 3, np.full(4000, 3.0)
    with h5py.File(tmp_path / "validation" / "0.h5", "a") as file:
        file["inputs"] = VALUES
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"], file["group/values"] = VALUES, VALUES
    return tmp_path / "train" / "0.h5"


def open_rows(path, **options):
    return open_data(DATASETS["hdf5"](name="hdf5", path=str(path.parent.parent), **options), 0, SerialComm())


def everything() -> ReadRequest:
    return ReadRequest(np.arange(N), np.zeros(N, np.int32), epoch=0, augment=False)


def create(file, stored, memory=None, values=VALUES, properties=None):
    """Write the inputs by HDF5's own functions."""
    space = h5py.h5s.create_simple(values.shape)
    dataset = h5py.h5d.create(file.id, b"inputs", stored, space, properties)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values), memory)


def bfloat16(file):
    stored = h5py.h5t.IEEE_F32LE.copy()
    stored.set_fields(15, 7, 8, 0, 7)
    stored.set_size(2)
    stored.set_ebias(127)
    create(file, stored)


def twelve_bits(file):
    stored = h5py.h5t.NATIVE_INT16.copy()
    stored.set_precision(12)
    stored.set_offset(4)
    create(file, stored, values=INTEGERS.astype(np.int16))


def bits(file):
    create(file, h5py.h5t.STD_B8LE, h5py.h5t.STD_B8LE, INTEGERS.astype(np.uint8))


def compact(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    create(file, h5py.h5t.NATIVE_FLOAT, properties=properties)


def committed(file):
    file["type"] = np.dtype("f4")
    file.create_dataset("inputs", data=VALUES, dtype=file["type"])


def allocated_early(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_value(np.array(7, np.float32))
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(file.id, b"inputs", h5py.h5t.NATIVE_FLOAT, space, properties)


def partly_written(file):
    file.create_dataset("inputs", SHAPE, "f4", chunks=(2, *SHAPE[1:]), fillvalue=7)[:1] = VALUES[:1]


def filter_left_out(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *SHAPE[1:]))
    properties.set_filter(32767, h5py.h5z.FLAG_OPTIONAL, ())
    create(file, h5py.h5t.NATIVE_FLOAT, properties=properties)


def soft_link(file):
    file["group/values"], file["inputs"] = VALUES, h5py.SoftLink("/group/values")


def link_to_itself(file):
    file["group/values"], file["inputs"] = VALUES, h5py.ExternalLink(file.filename, "/group/values")


def written(dtype, **how):
    values = VALUES if np.dtype(dtype).kind == "f" else INTEGERS
    return lambda file: file.create_dataset("inputs", data=values.astype(dtype), **how)


FAST, SLOW = True, False
READ = {
    "float32": (written("f4"), FAST),
    "float16": (written("f2"), FAST),
    "float64": (written("f8"), FAST),
    "float64, big endian": (written(">f8"), SLOW),
    "long double": (written("longdouble"), SLOW),
    "bfloat16": (bfloat16, SLOW),
    "uint16": (written("u2"), FAST),
    "uint64": (written("u8"), FAST),
    "bool": (written("?"), FAST),
    "an enum": (
        lambda file: file.create_dataset(
            "inputs", data=INTEGERS.astype("i1"), dtype=h5py.enum_dtype({"one": 1, "nine": 9}, "i1")
        ),
        SLOW,
    ),
    "12 bits of 16": (twelve_bits, SLOW),
    "bits": (bits, SLOW),
    "a committed type": (committed, FAST),
    "a soft link": (soft_link, FAST),
    "an external link to the file itself": (link_to_itself, FAST),
    "compact": (compact, SLOW),
    "never written": (lambda file: file.create_dataset("inputs", SHAPE, "f4", fillvalue=7), SLOW),
    "allocated, never written": (allocated_early, FAST),
    "partly written": (partly_written, SLOW),
    "a chunk larger than the cache": (written("f4", chunks=SHAPE, maxshape=(1 << 20, 2, 4, 4)), SLOW),
    "checksums": (written("f4", chunks=(1, 2, 4, 4), fletcher32=True), SLOW),
    "a scale and an offset": (written("f4", chunks=(1, 2, 4, 4), scaleoffset=3), SLOW),
    "an optional filter left out at writing": (filter_left_out, SLOW),
}


@pytest.mark.parametrize("case", READ)
def test_values_are_those_of_h5py(path, case):
    write, fast = READ[case]
    with h5py.File(path, "a") as file:
        write(file)
    data = open_rows(path)
    inputs, targets = data.train.__getitems__(everything())
    with h5py.File(path) as file:
        values = file["inputs"][...]
    wanted = values.astype(np.float32) / np.float32(255 if values.dtype == np.uint8 else 1)
    assert np.array_equal(inputs.numpy(), wanted) and targets.tolist() == [0, 1, 2, 0, 1, 2]
    [(ahead, _)] = data.train.stream([everything()], torch.device("cpu"))
    assert torch.equal(ahead, inputs)
    offsets = np.load(path.parent.parent / "manifest" / "train.npz")["offsets"]
    assert (offsets[0, 0] != THROUGH_H5PY) == fast


@pytest.mark.parametrize("size", [512, 4096])
def test_a_user_block_moves_all_offsets(path, size):
    with h5py.File(path, "w", userblock_size=size) as file:
        file["labels"], file["inputs"] = np.arange(N) % 3, VALUES
    assert np.array_equal(open_rows(path).train.__getitems__(everything())[0].numpy(), VALUES)


def another_file(file):
    file["link"], file["inputs"] = h5py.ExternalLink("../other.h5", "values"), h5py.SoftLink("/link")


def a_group_of_another_file(file):
    file["link"], file["inputs"] = h5py.ExternalLink("../other.h5", "group"), h5py.SoftLink("/link/values")


def gone(file):
    file["link"], file["inputs"] = h5py.ExternalLink("../gone.h5", "values"), h5py.SoftLink("/link")


def virtual(file):
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("../other.h5", "values", SHAPE)
    file.create_virtual_dataset("inputs", layout)


def stored_outside(file):
    name = f"{file.filename}.raw"
    file.create_dataset("inputs", SHAPE, "f4", external=[(name, 0, h5py.h5f.UNLIMITED)])[...] = VALUES


def missing_filter(file):
    space, properties = h5py.h5s.create_simple(SHAPE), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *SHAPE[1:]))
    properties.set_filter(32767, h5py.h5z.FLAG_OPTIONAL, ())
    dataset = h5py.h5d.create(file.id, b"inputs", h5py.h5t.NATIVE_FLOAT, space, properties)
    dataset.write_direct_chunk((0, 0, 0, 0), b"compressed")


def other_labels(labels):
    def write(file):
        del file["labels"]
        file["labels"], file["inputs"] = labels, VALUES

    return write


CLASSES = np.arange(N) % 3
REFUSED = {
    "a soft link to an external link": (another_file, r"inputs is a link to another file, .*other\.h5"),
    "a group of another file": (a_group_of_another_file, r"inputs is a link to another file, .*other\.h5"),
    "a link to nothing": (gone, "holds no dataset inputs of its own, but labels, room"),
    "a virtual dataset": (virtual, "inputs is a virtual dataset, of numbers stored elsewhere"),
    "external storage": (stored_outside, r"inputs is stored in .*0\.h5\.raw"),
    "a missing filter": (missing_filter, "inputs is compressed by filter 32767.*; install hdf5plugin"),
    "no values": (lambda file: file.create_dataset("inputs", data=h5py.Empty("f4")), "inputs is empty"),
    "no labels": (other_labels(h5py.Empty("i8")), "labels is empty"),
    "no pixels": (
        lambda file: file.create_dataset("inputs", (N, 0, 4, 4), "f4"),
        r"samples of inputs are of shape \(0, 4, 4\)",
    ),
    "variable length": (
        lambda file: file.create_dataset("inputs", (N,), h5py.vlen_dtype("f4")),
        "inputs holds object, but must hold numbers",
    ),
    "another spelling": (
        lambda file: file.create_dataset("e\u0301", data=VALUES),
        r"dataset é is spelled 'e\\u0301', not '\\xe9'",
    ),
    "a column of labels": (other_labels(CLASSES[:, None]), r"are of shape \(n, 1\), .* labels\[:, 0\]"),
    "one-hot labels": (other_labels(np.eye(3)[CLASSES]), r"are of shape \(n, 3\), one-hot .*argmax\(1\)"),
    "masks with a channel": (
        other_labels(np.zeros((N, 1, 4, 4))),
        r"are of shape \(n, 1, 4, 4\), but masks of \(n, H, W\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_one_line(path, case):
    write, said = REFUSED[case]
    with h5py.File(path, "a") as file:
        write(file)
    options = {"inputs": "\u00e9"} if case == "another spelling" else {}
    with h5py.File(path.parent.parent / "validation" / "0.h5", "a") as file:
        file["\u00e9"] = VALUES
    with pytest.raises(DataError, match=rf"train/0\.h5: .*{said}") as found:
        open_rows(path, **options)
    assert "\n" not in str(found.value) and "copy it again" not in str(found.value)


@pytest.mark.parametrize("value", [0.7, 3.0, -1.0, np.nan])
def test_a_mask_of_other_values_than_classes_is_refused(tmp_path, value):
    for split in ("train", "validation"):
        write_deepcam(tmp_path, *fields(2), part=split)
    with h5py.File(tmp_path / "train" / "data-0001.h5", "a") as file:
        file["climate/labels_0"][3, 5] = value
    data = open_data(DATASETS["deepcam"](name="deepcam", path=str(tmp_path)), 0, SerialComm())
    said = f"data-0001.h5: climate/labels_0 holds {value}, but classes are whole numbers from 0 to 2"
    with pytest.raises(DataError, match=said):
        data.train.__getitems__(ReadRequest(np.array([1]), np.zeros(1, np.int32), 0, False))


def test_hidden_files_are_no_samples_and_capital_suffixes_are(path):
    with h5py.File(path, "a") as file:
        file["inputs"] = VALUES
    (path.parent / "._0.h5").write_bytes(b"a trace of another system")
    path.with_name("1.H5").write_bytes(path.read_bytes())
    assert len(open_rows(path).train) == 2 * N


def test_names_that_are_not_utf8_are_read(path):
    with h5py.File(path, "a") as file:
        file["inputs"] = VALUES
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff.h5"))
    data, again = open_rows(path), open_rows(path)
    assert np.array_equal(data.train.__getitems__(everything())[0].numpy(), VALUES)
    assert data.fingerprint == again.fingerprint


def test_a_manifest_of_an_earlier_version_is_made_anew(path):
    with h5py.File(path, "a") as file:
        bfloat16(file)
    open_rows(path)
    place = path.parent.parent / "manifest" / "train.npz"
    kept = {name: column for name, column in np.load(place).items() if name != "version"}
    np.savez(place, **{**kept, "offsets": np.zeros_like(kept["offsets"])})
    assert np.array_equal(open_rows(path).train.__getitems__(everything())[0].numpy(), VALUES)
    assert np.load(place)["offsets"][0, 0] == THROUGH_H5PY


def test_a_file_that_is_open_elsewhere_is_not_called_damaged(path, monkeypatch):
    with h5py.File(path, "a") as file:
        file.create_dataset("inputs", data=VALUES, chunks=True)
    data = open_rows(path)
    (path.parent.parent / "manifest" / "train.npz").unlink()
    monkeypatch.setattr(patience, "PAUSES", ())
    with open(path, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for read in (lambda: open_rows(path), lambda: data.train.__getitems__(everything())):
            with pytest.raises(DataError, match="0.h5: .*another program has it open for writing"):
                read()


@pytest.mark.parametrize(
    ("number", "text", "advice"),
    [
        (11, "unable to lock file, errno = 11", "another program has it open for writing"),
        (37, "unable to lock file, errno = 37", "export HDF5_USE_FILE_LOCKING=FALSE"),
        (None, "file is already open for write (may use <h5clear file> to clear", "run h5clear -s"),
        (None, "required filter 'zstd' is not registered", "see HDF5_PLUGIN_PATH"),
        (13, "Permission denied", "ask its owner"),
        (24, "Too many open files", "raise ulimit -n"),
        (2, "No such file or directory", "copy it again"),
        (None, "file signature not found", "copy it again"),
    ],
)
def test_advice_fits_the_reason(number, text, advice):
    problem = OSError(text) if number is None else OSError(number, text)
    reason, said = explain(problem)
    assert reason == text and advice in said


def test_statistics_of_what_is_no_field_are_refused(tmp_path):
    write_deepcam(tmp_path, *fields(2))
    write_deepcam(tmp_path, *fields(2), part="validation")
    with h5py.File(tmp_path / "stats.h5", "w") as file:
        file["climate/minval"] = file["climate/maxval"] = h5py.Empty("f4")
    with pytest.raises(DataError, match="stats.h5: .*remove it and make it: kakurenbo data stats"):
        open_data(DATASETS["deepcam"](name="deepcam", path=str(tmp_path)), 0, SerialComm())
    with h5py.File(tmp_path / "train" / "data-0001.h5", "a") as file:
        del file["climate/data"]
        file["climate/data"] = h5py.Empty("f4")
    with pytest.raises(DataError, match="data-0001.h5: has no dataset climate/data of numbers"):
        write_stats(tmp_path, replace=True)
