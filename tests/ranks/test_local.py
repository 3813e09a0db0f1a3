"""Placement local on real ranks: what is trained, where samples lie, what a killed rank leaves, and how the
run goes on.
"""

import json
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
import yaml
from ranks.programs.digit_files import write_digits
from support.oracle import kakurenbo
from support.start_ranks import PROGRAMS, start

EPOCHS, N, N_VALIDATION = 4, 400, 100
JOB = {
    "name": "digit_files",
    "seed": 1,
    "data": {"name": "digit_files", "placement": "local", "exchange": 0.1},
    "model": {"name": "small_cnn"},
    "training": {"epochs": EPOCHS, "global_batch": 30, "lr": 0.05, "warmup_epochs": 1},
    "selection": {"method": "kakurenbo", "max_fraction": 0.3},
    "record": {"ledger": True},
}


def train(n, folder, name, data, *words, harm="nothing"):
    """Train on the digits in this folder, with run directory and scratch folder in another."""
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, "data": {**JOB["data"], "path": str(data)}}))
    words = ["--scratch", folder / f"scratch_{name}", *words]
    return start(n, PROGRAMS / "digit_files.py", harm, folder / name, folder / "job.yaml", *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of the same job: local on 2 and 3 ranks, and shared on 3."""
    folder = tmp_path_factory.mktemp("local")
    write_digits(folder / "data", N, N_VALIDATION)
    for n, name, *words in [(2, "local2"), (3, "local3"), (3, "shared3", "--set", "data.placement=shared")]:
        done = train(n, folder, name, folder / "data", *words)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def ledger(run, epoch):
    with h5py.File(run / "ledger" / f"epoch_{epoch:04d}.h5") as file:
        return {name: file[name][:] for name in file}


def lines(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def results(run):
    """Return what an epoch's line says of the training, without how long it took."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "exchange")} for line in lines(run)]


def trained(run):
    """Return, for each rank, the (epoch, id) that it trained, in order."""
    files = sorted(run.glob("trained_*"))
    return [[tuple(map(int, line.split())) for line in file.read_text().splitlines()] for file in files]


def stored(scratch):
    """Return, for each rank, the ids of the training samples in its store."""
    stores = sorted((scratch / "kakurenbo").glob("digit_files-*/rank_*"))
    return [sorted(int(path.stem) for path in (store / "train").glob("*.npy")) for store in stores]


def parameters(run):
    return torch.load(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}" / "learner.pt", weights_only=True)[
        "model"
    ]


def refused(done):
    assert done.returncode == 2, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    return line


@pytest.mark.parametrize("name", ["local2", "local3", "shared3"])
def test_from_the_same_ledger_all_plan_the_same(folder, name):
    options = yaml.safe_load((folder / name / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(folder / name, epoch)
        known = [rows[column] for column in ("loss", "correct", "confidence")]
        want = kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0)
        assert (rows["train"] == want.train).all()
    assert np.count_nonzero(rows["train"] == 0) > 50, "there was something to hide"


@pytest.mark.parametrize("name", ["local2", "local3", "shared3"])
def test_every_visible_sample_is_trained_once_in_as_many_steps(folder, name):
    times = Counter(entry for rank in trained(folder / name) for entry in rank)
    for epoch, line in enumerate(lines(folder / name)):
        (visible,) = np.nonzero(ledger(folder / name, epoch)["train"])
        assert {id: n for (when, id), n in times.items() if when == epoch} == dict.fromkeys(
            visible.tolist(), 1
        )
        assert line["steps"] == -(-len(visible) // 30) and line["n_backward"] == len(visible)


@pytest.mark.parametrize("name", ["local2", "local3"])
def test_every_rank_trains_what_the_ledger_places_there_and_as_much_as_the_others(folder, name):
    ranks = trained(folder / name)
    for epoch in range(EPOCHS):
        rows = ledger(folder / name, epoch)
        here = [sorted(id for when, id in entries if when == epoch) for entries in ranks]
        assert here == [
            np.flatnonzero((rows["place"] == rank) & (rows["train"] > 0)).tolist()
            for rank in range(len(ranks))
        ]
        assert max(map(len, here)) - min(map(len, here)) <= 1


@pytest.mark.parametrize("name", ["local2", "local3"])
def test_every_sample_lies_in_one_place_and_that_is_the_ledgers(folder, name):
    place = ledger(folder / name, EPOCHS - 1)["place"]
    stores = stored(folder / f"scratch_{name}")
    assert stores == [np.flatnonzero(place == rank).tolist() for rank in range(len(stores))]
    for path in (folder / f"scratch_{name}").rglob("*.npy"):
        assert path.read_bytes() == (folder / "data" / path.parent.name / path.name).read_bytes()
    assert not list((folder / f"scratch_{name}").rglob("*.part"))


def test_what_moved_is_told(folder):
    for line, before, after in zip(lines(folder / "local3"), [None, *range(EPOCHS - 1)], range(EPOCHS)):
        place = np.arange(N) % 3 if before is None else ledger(folder / "local3", before)["place"]
        n_moved = np.count_nonzero(place != ledger(folder / "local3", after)["place"])
        size = (folder / "data" / "train" / "00000.npy").stat().st_size
        assert line["exchange"]["n_moved"] == n_moved >= 3 * (line["n_backward"] // 3 // 10)
        assert line["exchange"]["bytes_moved"] == n_moved * size and line["exchange"]["waited"] > 0
    assert "exchange" not in lines(folder / "shared3")[0]


@pytest.mark.parametrize("harm", ["killed", "killed_later"])
def test_a_run_whose_rank_was_killed_between_exchange_and_checkpoint_goes_on_as_if_it_had_not(
    folder, tmp_path, harm
):
    died = train(3, tmp_path, "run", folder / "data", harm=harm)
    assert died.returncode not in (0, 2)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch*")) == [
        "epoch_0000",
        "epoch_0001",
    ]
    for path in (tmp_path / "run").glob("trained_*"):
        path.unlink()
    next((tmp_path / "scratch_run").rglob("rank_0002/train/*.npy")).unlink()  # a node's disk forgets

    done = train(3, tmp_path, "run", folder / "data", "--resume")
    assert done.returncode == 0 and "resuming after epoch_0001" in done.stdout, done.stderr[-3000:]
    uninterrupted = folder / "local3"
    assert results(tmp_path / "run") == results(uninterrupted)
    before, after = parameters(uninterrupted), parameters(tmp_path / "run")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert stored(tmp_path / "scratch_run") == stored(folder / "scratch_local3")
    later = [[entry for entry in rank if entry[0] >= 2] for rank in trained(uninterrupted)]
    assert trained(tmp_path / "run") == later


def test_a_run_that_was_left_in_the_middle_of_an_epoch_is_taken_up_as_if_it_had_not(folder, tmp_path):
    left = train(3, tmp_path, "run", folder / "data", harm="left")
    assert left.returncode == 75 and "leaving in epoch 3" in left.stdout, left.stderr[-3000:]
    said = refused(train(2, tmp_path, "run", folder / "data", "--resume"))
    lies = (
        "taken inside an epoch whose samples are on the disks of 3 ranks, but this run has 2; resume on 3 "
        "ranks, "
        "or remove this checkpoint"
    )
    assert "checkpoints/epoch_0002_inside_" in said and lies in said
    done = train(3, tmp_path, "run", folder / "data", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert results(tmp_path / "run") == results(folder / "local3")
    before, after = parameters(folder / "local3"), parameters(tmp_path / "run")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert trained(tmp_path / "run") == trained(folder / "local3"), "no step was done twice"


def test_on_another_number_of_ranks_places_are_dealt_anew(folder, tmp_path):
    shutil.copytree(folder / "local3", tmp_path / "local3")
    shutil.rmtree(tmp_path / "local3" / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    done = train(2, tmp_path, "local3", folder / "data", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    place = ledger(tmp_path / "local3", EPOCHS - 1)["place"]
    assert stored(tmp_path / "scratch_local3") == [
        np.flatnonzero(place == rank).tolist() for rank in range(2)
    ]
    assert lines(tmp_path / "local3")[-1]["n_hidden"] == lines(folder / "local3")[-1]["n_hidden"]


def test_what_was_staged_before_is_not_copied_again(folder, tmp_path):
    done = train(2, tmp_path, "run", folder / "data", harm="staged")
    size = sum(path.stat().st_size for path in (folder / "data").rglob("*.npy"))
    [folder_of_ranks] = (tmp_path / "scratch_run" / "kakurenbo").iterdir()
    assert f"{folder_of_ranks}: {size / 1000:.4g} kB copied for 2 ranks" in done.stdout, done.stderr
    assert stored(tmp_path / "scratch_run") == [list(range(rank, N, 2)) for rank in range(2)]
    done = train(2, tmp_path, "run", folder / "data", harm="staged")
    assert "0 bytes copied" in done.stdout


# Bad input.


def test_a_data_set_without_files_is_refused():
    done = start(
        1,
        "-m",
        "kakurenbo_hpc.cli",
        "train",
        "digits_everything",
        "--set",
        "data.placement=local",
        "--scratch",
        "/tmp",
    )
    assert (
        "samples of digits are not files of their own, which data.placement: local needs; set it to shared"
        in refused(done)
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no scratch folder is named; give --scratch DIR"),
        (["--scratch", "$NOBODY_SET_THIS/x"], "scratch is $NOBODY_SET_THIS/x, but"),
        (["--scratch", "/proc/version"], "cannot be written to (Not a directory)"),
    ],
)
def test_a_scratch_folder_that_is_none_is_refused(folder, tmp_path, words, said):
    done = start(1, PROGRAMS / "digit_files.py", "nothing", tmp_path / "run", folder / "job.yaml", *words)
    assert said in refused(done)


def test_a_store_of_another_data_set_is_left_alone(folder, tmp_path):
    write_digits(tmp_path / "other", 50, 20)
    shutil.copytree(folder / "scratch_local2", tmp_path / "scratch_run")
    done = train(2, tmp_path, "run", tmp_path / "other", harm="staged")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(map(len, stored(tmp_path / "scratch_run"))) == sorted(
        [25, 25, *map(len, stored(folder / "scratch_local2"))]
    )


def test_a_folder_of_nobody_is_left_alone(folder, tmp_path):
    [theirs] = (folder / "scratch_local2" / "kakurenbo").iterdir()
    theirs = tmp_path / "scratch_run" / "kakurenbo" / theirs.name / "rank_0000" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("seven years")
    assert "not empty, and not staged by kakurenbo" in refused(train(1, tmp_path, "run", folder / "data"))
    assert theirs.read_text() == "seven years"
