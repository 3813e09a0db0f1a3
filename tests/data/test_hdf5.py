"""Samples of HDF5 files: whatever form they have and whoever reads them, they are what plain h5py and numpy
say.
"""

import os
import pickle
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.data_files import FORMS, fields, write_deepcam, write_rows

from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data import retry as patience
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.data.hdf5 import manifest
from kakurenbo_hpc.data.loader import Loader, plain_micro_batches
from kakurenbo_hpc.data.pinned_pool import PinnedPool
from kakurenbo_hpc.data.tools.stats import write_stats
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import DataError

CPU = torch.device("cpu")
N = 7


def deepcam(root, **options):
    return open_data(DATASETS["deepcam"](name="deepcam", path=str(root), **options), 0, SerialComm())


def hdf5(root, **options):
    return open_data(DATASETS["hdf5"](name="hdf5", path=str(root), **options), 0, SerialComm())


def asked(*ids) -> ReadRequest:
    return ReadRequest(np.array(ids, np.int64), np.zeros(len(ids), np.int32), epoch=0, augment=False)


@pytest.fixture
def root(tmp_path):
    for seed, part in enumerate(("validation", "train")):
        write_deepcam(tmp_path, *fields(N, seed), part=part)
    return tmp_path


def wanted(root, ids):
    """Return inputs and targets as CamDataset of the MLPerf HPC reference computes them: read by h5py, scaled
    by channel, channels first.
    """
    with h5py.File(root / "stats.h5") as file:
        data_shift = file["climate/minval"][:]
        data_scale = 1.0 / (file["climate/maxval"][:] - data_shift)
    data_shift, data_scale = data_shift.astype(np.float32), data_scale.astype(np.float32)
    paths = sorted((root / "train").glob("*.h5"))
    inputs, targets = [], []
    for id in ids:
        with h5py.File(paths[id]) as file:
            inputs.append(data_scale * (file["climate/data"][...].astype(np.float32) - data_shift))
            targets.append(file["climate/labels_0"][...])
    return np.stack(inputs).transpose(0, 3, 1, 2), np.stack(targets).astype(np.int64)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_gives_the_same_bits(form, root):
    write_deepcam(root, *fields(N, seed=1), form=form)
    ids = [3, 0, 6, 3]
    input, target = deepcam(root).train.__getitems__(asked(*ids))
    want_input, want_target = wanted(root, ids)
    assert input.dtype == torch.float32 and target.dtype == torch.int64
    assert np.array_equal(input.numpy(), want_input) and np.array_equal(target.numpy(), want_target)
    through_h5py = form not in ("contiguous", "float64")
    assert (
        np.load(root / "manifest" / "train.npz")["offsets"][:, 0] == manifest.THROUGH_H5PY
    ).all() == through_h5py


def test_files_of_several_forms_may_stand_beside_each_other(root):
    inputs, masks = fields(N, seed=1)
    for number, form in enumerate(FORMS):
        with h5py.File(root / "train" / f"data-{number:04d}.h5", "w") as file:
            file.create_dataset("climate/data", data=inputs[number], **FORMS[form])
            file["climate/labels_0"] = masks[number]
    input, _ = deepcam(root).train.__getitems__(asked(*range(N)))
    assert np.array_equal(input.numpy(), wanted(root, range(N))[0])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 3, 1), (7,), ()])
def test_what_is_read_ahead_is_what_is_asked_for(root, sizes, threads):
    source = deepcam(root, threads=threads).train
    ids = iter(range(N))
    requests = [asked(*(next(ids) for _ in range(size))) for size in sizes]
    for _ in range(2):  # the second time into memory that was used before
        n = 0
        for request, (input, target) in zip(requests, source.stream(requests, CPU), strict=True):
            for got, want in zip((input, target), source.__getitems__(request), strict=True):
                assert torch.equal(got, want)
            n += 1
        assert n == len(sizes)


@pytest.mark.parametrize("pinned", [False, True])
def test_memory_is_used_again_but_never_while_somebody_has_it(root, pinned, monkeypatch):
    source, requests = deepcam(root, threads=2).train, [asked(id % N) for id in range(60)]
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, pin_memory=False, **how: empty(*size, **how)
    )  # pinning itself needs a GPU
    source._buffers = [PinnedPool(shape, dtype, pinned) for shape, dtype in source._formats()]
    places = {input.data_ptr() for input, _ in source.stream(requests, CPU)}
    assert len(places) <= 6  # one in use, one just left, the threads' two and those begun beside them
    kept = [input[:, :2] for input, _ in source.stream(requests, CPU)]  # views keep it as a graph would
    for id, view in enumerate(kept):
        assert np.array_equal(view.numpy(), wanted(root, [id % N])[0][:, :2])


def test_varied_and_augmented_samples_are_read_ahead_too(tmp_path):
    rng = np.random.default_rng(1)
    for part in ("train", "validation"):
        write_rows(
            tmp_path / part / "0.h5", rng.integers(0, 256, (N, 3, 8, 8)).astype(np.uint8), np.arange(N) % 3
        )
    source = hdf5(tmp_path, augmentation=["crop"], label_noise=0.5, repeats=2).train
    requests = [
        ReadRequest(np.array([2, 2 * N - 1, id]), np.zeros(3, np.int32), epoch=1, augment=True)
        for id in range(N)
    ]
    want = [source.__getitems__(request) for request in requests]
    assert source.reads_ahead
    loader = Loader(source, 0, CPU)
    turns = [
        replace(plain_micro_batches(0, 1, 1)[0], id=request.id, copy=request.copy) for request in requests
    ]
    for batch, (input, target) in zip(loader(turns, 1, augment=True), want, strict=True):
        assert torch.equal(batch.input, input) and torch.equal(batch.target, target)


def test_one_rank_looks_and_all_know(root, monkeypatch):
    n_listed, listed = [], manifest._list_files
    monkeypatch.setattr(manifest, "_list_files", lambda *words: n_listed.append(1) or listed(*words))
    options = DATASETS["deepcam"](name="deepcam", path=str(root))
    found = run_in_threads(3, lambda comm: open_data(options, 0, comm))
    assert len({data.fingerprint for data in found}) == 1 and len(found) == 3
    assert len(n_listed) == 2, "once for each part"


def test_files_are_looked_into_once(root, monkeypatch):
    first = deepcam(root)
    monkeypatch.setattr(manifest, "read_layout", None)
    again = deepcam(root)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.__getitems__(asked(2))[0], first.train.__getitems__(asked(2))[0])


def test_the_manifest_lies_in_the_run_directory_where_the_data_cannot_be_written(
    root, tmp_path_factory, monkeypatch
):
    run = tmp_path_factory.mktemp("run")
    (root / "manifest").write_text("in the way, even of root")
    options = DATASETS["deepcam"](name="deepcam", path=str(root))
    open_data(options, 0, SerialComm(), run)
    assert (run / "manifest" / "train.npz").exists()
    monkeypatch.setattr(manifest, "read_layout", None)
    open_data(options, 0, SerialComm(), run)


def test_many_files_are_looked_into_by_several_processes(root, monkeypatch):
    monkeypatch.setattr(manifest, "_MANY", 3)
    assert len(deepcam(root).train) == N


def test_statistics_may_lie_among_the_samples(root):
    first = deepcam(root).train.__getitems__(asked(3))[0]
    (root / "stats.h5").rename(root / "train" / "stats.h5")
    data = deepcam(root)
    assert len(data.train) == N and torch.equal(data.train.__getitems__(asked(3))[0], first)
    assert write_stats(root, replace=True) == N and not (root / "stats.h5").exists()
    assert torch.equal(deepcam(root).train.__getitems__(asked(3))[0], first)
    rewrite(root / "train" / "stats.h5", minval=np.zeros(4))
    with pytest.raises(
        DataError, match=rf"train/stats.h5: lacks .*; remove it and make it: kakurenbo data stats {root}$"
    ):
        deepcam(root)


def test_rows_of_several_files_are_one_data_set(tmp_path):
    rng = np.random.default_rng(1)
    inputs, labels = rng.integers(0, 256, (11, 3, 6, 6)).astype(np.uint8), np.arange(11) % 5
    for number, (a, b) in enumerate([(0, 4), (4, 5), (5, 11)]):
        how = {"chunks": (1, 3, 6, 6), "compression": "gzip"} if number == 1 else {}
        write_rows(tmp_path / "train" / f"{number}.h5", inputs[a:b], labels[a:b], **how)
    write_rows(tmp_path / "validation" / "0.h5", inputs[:2], labels[:2])
    data = hdf5(tmp_path)
    assert (len(data.train), len(data.validation), data.n_classes, data.shape, data.target_shape) == (
        11,
        2,
        5,
        (3, 6, 6),
        (),
    )
    assert np.array_equal(data.train.labels(), labels)
    ids = [4, 10, 0, 3, 5]
    [(input, target)] = data.train.stream([asked(*ids)], CPU)
    assert np.array_equal(input.numpy(), inputs[ids].astype(np.float32) / np.float32(255))
    assert np.array_equal(target.numpy(), labels[ids])
    assert data.train.files() is None


def test_rows_may_have_masks_and_any_numbers(tmp_path):
    inputs, masks = fields(5)
    write_rows(tmp_path / "train" / "0.h5", inputs.astype(">f8"), masks.astype(np.int16))
    write_rows(tmp_path / "validation" / "0.h5", inputs, masks.astype(np.int16))
    data = hdf5(tmp_path, n_classes=3)
    input, target = data.train.__getitems__(asked(4, 1))
    assert np.array_equal(input.numpy(), inputs[[4, 1]]) and np.array_equal(target.numpy(), masks[[4, 1]])
    with pytest.raises(DataError, match="data.n_classes is missing, but .* holds masks"):
        hdf5(tmp_path)


def test_a_file_that_comes_back_is_read(root, monkeypatch):
    source, path = deepcam(root).train, root / "train" / "data-0002.h5"
    away = path.rename(root / "away.h5")
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: away.rename(path))
    input, _ = source.__getitems__(asked(2))
    assert np.array_equal(input.numpy(), wanted(root, [2])[0])


def test_what_cannot_be_read_is_named(root, monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    source, path = deepcam(root).train, root / "train" / "data-0002.h5"
    begins = int(np.load(root / "manifest" / "train.npz")["offsets"][2, 1])
    for harm, said in [
        (lambda: os.truncate(path, begins + 284), "climate/labels_0 ends 100 bytes early"),
        (path.unlink, "No such file or directory"),
    ]:
        harm()
        for read in (
            lambda: source.__getitems__(asked(1, 2)),
            lambda: list(source.stream([asked(1), asked(2)], CPU)),
        ):
            with pytest.raises(
                DataError,
                match=rf"data-0002.h5: climate/data and climate/labels_0 cannot be read \({said}\); copy it",
            ):
                read()
    with pytest.raises(DataError, match="resume the run, which fetches it again"):
        source.relocate(root).__getitems__(asked(2))


def test_what_h5py_cannot_read_is_named(root, monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    write_deepcam(root, *fields(N, seed=1), form="compressed")
    source, path = deepcam(root).train, root / "train" / "data-0002.h5"
    strike(path, "climate/data")
    with pytest.raises(
        DataError,
        match=r"data-0002.h5: climate/data and climate/labels_0 cannot be read \(.*\); copy it again",
    ):
        source.__getitems__(asked(2))
    with h5py.File(path, "r+") as file:
        del file["climate/data"]
    with pytest.raises(
        DataError, match="data-0002.h5: no longer holds dataset climate/data; was the data set changed?"
    ):
        source.__getitems__(asked(2))


def strike(path, name):
    """Damage the first chunk of a dataset."""
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)


def test_masks_out_of_range_are_named(root):
    with h5py.File(root / "train" / "data-0004.h5", "r+") as file:
        file["climate/labels_0"][3, 3] = 3
    with pytest.raises(
        DataError,
        match="data-0004.h5: climate/labels_0 holds 3.0, but classes are whole numbers from 0 to 2; mend",
    ):
        deepcam(root).train.__getitems__(asked(4))


def rewrite(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[f"climate/{name}"] = value


def absurd(root):
    with h5py.File(root / "train" / "data-0001.h5", "w") as file:
        file.create_dataset("climate/data", (10**9, 10**9, 16), "f4", chunks=(1, 1, 16))
        file["climate/labels_0"] = np.zeros((8, 12), np.float32)


def outside(root):
    with h5py.File(root / "train" / "data-0001.h5", "w") as file:
        file["climate/data"] = h5py.ExternalLink(str(root / "validation" / "data-0000.h5"), "/climate/data")


def dangling(root):
    (root / "train" / "data-9999.h5").symlink_to(root / "nowhere.h5")


INPUT, MASK = np.zeros((8, 12, 4), np.float32), np.zeros((8, 12), np.float32)
WRONG = {
    "no folder": (
        lambda root: (root / "train").rename(root / "gone"),
        r"train: cannot be listed \(No such file or directory\); data.path must name",
    ),
    "empty folder": (
        lambda root: [path.unlink() for path in (root / "train").iterdir()],
        "train: holds no .h5 files; data.path must name a folder",
    ),
    "no HDF5": (
        lambda root: (root / "train" / "data-0001.h5").write_text("nothing"),
        "data-0001.h5: cannot be read as HDF5 .*; copy it again",
    ),
    "truncated": (
        lambda root: os.truncate(root / "train" / "data-0001.h5", 900),
        "data-0001.h5: cannot be read as HDF5 .*; copy it again",
    ),
    "no dataset": (
        lambda root: rewrite(root / "train" / "data-0001.h5", data=INPUT),
        "data-0001.h5: holds no dataset climate/labels_0 of its own, but climate/data;",
    ),
    "another file's": (outside, "data-0001.h5: climate/data is a link to another file, .*data-0000.h5"),
    "words": (
        lambda root: rewrite(root / "train" / "data-0001.h5", data="words", labels_0=MASK),
        "climate/data holds object, but must hold numbers",
    ),
    "dangling link": (
        dangling,
        r"data-9999.h5: listed, but cannot be found \(No such file or directory\); copy it again, or "
        r"remove it",
    ),
    "absurd": (
        absurd,
        "data-0001.h5: says that a sample has 64,000,000,000,000,000,000 bytes; the file is damaged",
    ),
    "mixed shapes": (
        lambda root: rewrite(root / "train" / "data-0001.h5", data=INPUT[:4], labels_0=MASK[:4]),
        r"data-0001.h5: samples are of shape .*\(4, 12, 4\).*, but .*; all must be alike",
    ),
    "no mask's shape": (
        lambda root: [rewrite(path, data=INPUT, labels_0=MASK[0]) for path in (root / "train").iterdir()],
        r"but \(H, W, channels\) and \(H, W\) are read",
    ),
    "no stats": (
        lambda root: (root / "stats.h5").unlink(),
        "stats.h5: missing; make it: kakurenbo data stats ",
    ),
    "other stats": (
        lambda root: rewrite(root / "stats.h5", minval=np.zeros(16), maxval=np.ones(16)),
        "minval and maxval must be 4 numbers each",
    ),
    "lacking stats": (
        lambda root: rewrite(root / "stats.h5", minval=np.zeros(4)),
        "lacks climate/minval or climate/maxval; remove it and make it",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_is_one_line(case, root):
    harm, said = WRONG[case]
    harm(root)
    with pytest.raises(DataError, match=said) as found:
        deepcam(root)
    assert "\n" not in str(found.value)


def test_a_manifest_that_no_longer_fits_is_not_used(root):
    deepcam(root)
    path = root / "train" / "data-0003.h5"
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    with pytest.raises(
        DataError,
        match="manifest/train.npz: 1 of 7 files are of another size or date than it says, "
        "train/data-0003.h5 for one",
    ):
        deepcam(root)
    path.unlink()
    with pytest.raises(
        DataError,
        match="it names 7 files, of which 6 are among the 6 that are there; if the data was changed on "
        "purpose, remove",
    ):
        deepcam(root)
    (root / "manifest" / "train.npz").unlink()
    assert len(deepcam(root).train) == 6


@pytest.mark.parametrize("harm", ["torn", "a bit", "short"])
def test_a_damaged_manifest_is_named(root, harm):
    deepcam(root)
    path = root / "manifest" / "train.npz"
    content = bytearray(path.read_bytes())
    if harm == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "a bit":
        content[content.find("data-0001".encode("utf-32-le"))] ^= 1
        path.write_bytes(content)
    else:
        np.savez(path, **{**np.load(path), "sizes": np.load(path)["sizes"][:2]})
    with pytest.raises(DataError, match="manifest/train.npz: not a manifest that can be read; remove it"):
        deepcam(root)


def test_a_manifest_that_does_not_fit_and_cannot_be_removed_is_passed_over(root, monkeypatch):
    deepcam(root)
    (root / "manifest" / "train.npz").write_bytes(b"nothing")
    monkeypatch.setattr(os, "access", lambda *asked: False)  # a data folder that is somebody else's
    assert len(deepcam(root).train) == N


def test_a_manifest_of_another_reading_of_the_same_files_is_made_anew(tmp_path):
    for part in ("train", "validation"):
        for number in range(2):
            write_rows(
                tmp_path / part / f"{number}.h5",
                np.zeros((1, 8, 12), np.float32),
                np.zeros((1, 8), np.float32),
            )
    whole, rows = (
        manifest.find(tmp_path, "train", ("inputs", "labels"), single, None) for single in (True, False)
    )
    assert (whole.shapes, rows.shapes) == (((1, 8, 12), (1, 8)), ((8, 12), (8,)))


def test_nothing_in_a_manifest_is_run(root, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    (root / "manifest").mkdir()
    for content in (pickle.dumps(Harm()), b"nothing", b""):
        (root / "manifest" / "train.npz").write_bytes(content)
        with pytest.raises(DataError, match="manifest/train.npz: not a manifest that can be read; remove it"):
            deepcam(root)
    assert not (tmp_path / "harmed").exists()


def test_labels_that_are_no_classes_or_cannot_be_read_are_named(tmp_path):
    inputs = np.zeros((4, 1, 8, 8), np.uint8)
    write_rows(tmp_path / "validation" / "0.h5", inputs, np.arange(4.0))
    for labels, said in [([0, 1, 1.9, 1], "1.9"), ([0, 1, np.nan, 1], "nan"), ([0, 1, np.inf, 1], "inf")]:
        write_rows(tmp_path / "train" / "0.h5", inputs, np.array(labels))
        with pytest.raises(
            DataError, match=f"train/0.h5: labels holds {said}, but classes are whole numbers; mend the file"
        ):
            hdf5(tmp_path)
        (tmp_path / "manifest" / "train.npz").unlink()
    with h5py.File(tmp_path / "train" / "0.h5", "w") as file:
        file["inputs"] = inputs
        file.create_dataset("labels", data=np.arange(4), chunks=True, compression="gzip")
    strike(tmp_path / "train" / "0.h5", "labels")
    with pytest.raises(DataError, match=r"train/0.h5: labels cannot be read \(.*\); copy it again"):
        hdf5(tmp_path)


def test_labels_out_of_range_are_named(tmp_path):
    inputs, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 2, 1])
    write_rows(tmp_path / "train" / "0.h5", inputs, labels)
    write_rows(tmp_path / "validation" / "0.h5", inputs, labels + 1)
    with pytest.raises(
        DataError, match="validation/0.h5 and others: labels go from 1 to 3, but classes are 0 to 2"
    ):
        hdf5(tmp_path)
    write_rows(tmp_path / "train" / "1.h5", inputs, labels[:3])
    (tmp_path / "manifest" / "train.npz").unlink()
    with pytest.raises(
        DataError, match="1.h5: inputs has 4, labels has 3 rows, but all datasets must have as many"
    ):
        hdf5(tmp_path)
