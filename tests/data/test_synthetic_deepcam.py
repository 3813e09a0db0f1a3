"""``kakurenbo data make deepcam`` and ``data stats``: the public layout, the same bytes on any road, and what
was there is kept.
"""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import psutil
import pytest
from support.data_messages import refused, told

from kakurenbo_hpc.data.tools import output_folder as folders
from kakurenbo_hpc.data.tools.synthetic_climate import draw
from kakurenbo_hpc.data.tools.synthetic_deepcam import SyntheticSpec, make, path_of

SMALL = SyntheticSpec(samples=9, validation=4, height=32, width=48, seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "deepcam"
    assert make(folder, SMALL, processes=2) == 13
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(folder, asked):
    words = [
        f"--{name}={getattr(asked, name)}" for name in ("samples", "validation", "height", "width", "seed")
    ]
    return ["data", "make", "deepcam", str(folder), *words]


def test_files_are_laid_out_as_the_public_ones(made):
    train, validation = (
        sorted(path.name for path in (made / split).iterdir()) for split in ("train", "validation")
    )
    assert train[0] == "data-2000-01-01-00-1_0.h5" and train[8] == "data-2000-01-02-00-1_0.h5"
    assert (len(train), len(validation)) == (9, 4) and not set(train) & set(validation)
    for number, name in enumerate(train):
        sample = draw(3, "train", number, 32, 48)
        with h5py.File(made / "train" / name) as file:
            fields, mask = file["climate/data"], file["climate/labels_0"]
            for dataset, shape in [(fields, (32, 48, 16)), (mask, (32, 48))]:
                assert (dataset.shape, dataset.dtype, dataset.chunks) == (shape, np.dtype("<f4"), None)
                assert dataset.id.get_offset() % 4 == 0
            assert (fields[...] == sample.fields).all() and (mask[...] == sample.mask).all()
            assert dict(file["climate"].attrs) == {"hard": sample.hard, "mislabelled": sample.mislabelled}


def test_stats_are_the_extremes_of_the_training_files(made):
    fields = np.stack([draw(3, "train", number, 32, 48).fields for number in range(9)])
    with h5py.File(made / "stats.h5") as file:
        assert file["climate/minval"].dtype == file["climate/maxval"].dtype == np.float32
        assert (file["climate/minval"][...] == fields.min((0, 1, 2))).all()
        assert (file["climate/maxval"][...] == fields.max((0, 1, 2))).all()


def test_the_command_makes_the_same_bytes_and_a_second_time_nothing(made, tmp_path, monkeypatch, capsys):
    assert told(command(tmp_path, SMALL), monkeypatch, capsys).endswith(
        "9 + 4 samples of 32 x 48, 13 of them made now\n"
    )
    assert content(tmp_path) == content(made)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.h5")}
    assert told(command(tmp_path, SMALL), monkeypatch, capsys).endswith(", 0 of them made now\n")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.h5")}
    assert content(tmp_path) == content(made)


def test_one_process_makes_what_two_make(made, tmp_path):
    make(tmp_path, SMALL, processes=1)
    assert content(tmp_path) == content(made)


def test_a_torn_file_is_made_again(made, tmp_path):
    make(tmp_path, SMALL, processes=1)
    os.truncate(path_of(tmp_path, "train", 5), 5000)
    path_of(tmp_path, "validation", 1).write_bytes(b"")
    path_of(tmp_path, "train", 2).unlink()
    make(tmp_path, SMALL, processes=1)
    assert content(tmp_path) == content(made)


STANDS_STILL = """
import time
from kakurenbo_hpc import cli
from kakurenbo_hpc.data.tools import synthetic_deepcam as made_deepcam

draw = made_deepcam.draw
def slow(seed, split, number, *size):
    return (number < 5 or time.sleep(600)) and draw(seed, split, number, *size)


made_deepcam.draw = slow
if __name__ == "__main__":  # processes that make samples take in what is above
    cli.main()
"""


def test_a_making_that_is_killed_leaves_whole_files_and_no_process_and_goes_on(tmp_path):
    many = SyntheticSpec(samples=20, validation=1, height=32, width=48, seed=3)
    (tmp_path / "stands_still.py").write_text(STANDS_STILL)
    started = subprocess.Popen(
        [sys.executable, tmp_path / "stands_still.py", *command(tmp_path / "killed", many)]
    )
    while len(list(tmp_path.glob("killed/train/*.h5"))) < 5:
        assert started.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert workers and not psutil.wait_procs(workers, timeout=30)[1]
    left = content(tmp_path / "killed")
    assert sum(name.endswith(".h5") for name in left) == 5 and "stats.h5" not in left
    make(tmp_path / "killed", many)
    whole = content(tmp_path / "killed")
    assert len(whole) == 23
    assert all(whole[name] == left[name] for name in left if name.endswith(".h5"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            {"seed": 4},
            '{folder}: holds another set, {{"samples": 9, "validation": 4, "height": 32, "width": 48, '
            '"seed": 3, ',
        ),
        ({"samples": 8}, "{folder}: holds another set, "),
        ({"height": -64}, "Invalid value for '--height'"),
        ({"samples": 0}, "Invalid value for '--samples'"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_changes_nothing(made, harm, said, monkeypatch, capsys):
    before = content(made)
    asked = SyntheticSpec(**{**SMALL.__dict__, **harm})
    line = refused(command(made, asked), monkeypatch, capsys)
    assert said.format(folder=made) in line
    assert content(made) == before


def test_folders_that_are_not_ours_are_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("seven years")
    assert "thesis: not empty, and nothing that was begun here" in refused(
        command(tmp_path / "thesis", SMALL), monkeypatch, capsys
    )
    assert "chapter: cannot be written to (File exists)" in refused(
        command(tmp_path / "thesis/chapter", SMALL), monkeypatch, capsys
    )
    below_a_file = tmp_path / "thesis/chapter/deeper"
    assert "deeper: cannot be written to (Not a directory)" in refused(
        command(below_a_file, SMALL), monkeypatch, capsys
    )
    assert list(tmp_path.rglob("*")) == [tmp_path / "thesis", tmp_path / "thesis" / "chapter"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "free_bytes", lambda folder: (7, 1_000_000))
    line = refused(command(tmp_path / "new", SMALL), monkeypatch, capsys)
    assert "new: 1.411 MB are to be written there, but 1 MB are free" in line
    assert not (tmp_path / "new").exists()


def test_stats_are_computed_where_they_are_missing_and_replaced_only_if_told_so(
    made, tmp_path, monkeypatch, capsys
):
    make(tmp_path, SMALL, processes=1)
    assert "stats.h5: exists; add --replace" in refused(["data", "stats", str(tmp_path)], monkeypatch, capsys)
    (tmp_path / "stats.h5").unlink()
    assert (
        told(["data", "stats", str(tmp_path)], monkeypatch, capsys)
        == f"{tmp_path}/stats.h5: computed from 9 files\n"
    )
    assert content(tmp_path) == content(made)
    path_of(tmp_path, "train", 0).unlink()
    path_of(tmp_path, "train", 1).rename(
        tmp_path / "train" / "other.hdf5"
    )  # whatever data.name deepcam reads
    assert "from 8 files" in told(["data", "stats", str(tmp_path), "--replace"], monkeypatch, capsys)


def other_channels(file):
    del file["climate/data"]
    file["climate/data"] = np.zeros((32, 48, 15), np.float32)


def not_finite(file):
    file["climate/data"][3, 4, 5] = np.nan


def no_dataset(file):
    del file["climate/data"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (other_channels, "climate/data has 15 channels, but data-2000-01-01-00-1_0.h5 has 16"),
        (not_finite, "climate/data holds values that are not finite"),
        (no_dataset, "has no dataset climate/data"),
    ],
)
def test_stats_name_the_file_that_is_not_as_it_should_be(tmp_path, harm, said, monkeypatch, capsys):
    make(tmp_path, SMALL, processes=1)
    path = path_of(tmp_path, "train", 4)
    with h5py.File(path, "r+") as file:
        harm(file)
    assert f"{path}: {said}" in refused(["data", "stats", str(tmp_path), "--replace"], monkeypatch, capsys)


def test_stats_of_a_torn_file_or_of_none(tmp_path, monkeypatch, capsys):
    assert "train: found no .h5 files there" in refused(["data", "stats", str(tmp_path)], monkeypatch, capsys)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-0.h5").write_bytes(b"torn")
    assert "data-0.h5: cannot be read (" in refused(["data", "stats", str(tmp_path)], monkeypatch, capsys)
    assert not (tmp_path / "stats.h5").exists()
