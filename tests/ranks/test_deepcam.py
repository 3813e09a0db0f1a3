"""The DeepCAM job on made data, on real ranks: from files that all share, and from stores of their own."""

import json
import shutil

import h5py
import numpy as np
import pytest
import yaml
from support.oracle import kakurenbo
from support.start_ranks import start, train

EPOCHS, N = 3, 24
SET = {
    "training.epochs": EPOCHS,
    "training.global_batch": 6,
    "training.warmup_steps": 0,
    "training.correct_iou": 0.3,  # so that there is something to hide after one epoch
    "selection.confidence": 0.0,
    "record.ledger": "true",
}


def words(folder, name, placement):
    settings = SET | {"data.path": folder / "data", "data.placement": placement}
    job = ["deepcam_small", *(word for pair in settings.items() for word in ("--set", "{}={}".format(*pair)))]
    return [*job, "--run-dir", folder / name, "--scratch", folder / "scratch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepcam")
    size = ["--samples", N, "--validation", 8, "--height", 32, "--width", 48]
    done = start(1, "-m", "kakurenbo_hpc.cli", "data", "make", "deepcam", folder / "data", *size)
    assert done.returncode == 0, done.stderr
    for placement in ("shared", "local"):
        done = train(2, *words(folder, placement, placement))
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def lines(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def ledger(run, epoch):
    with h5py.File(run / "ledger" / f"epoch_{epoch:04d}.h5") as file:
        return {name: file[name][:] for name in file}


@pytest.mark.parametrize("placement", ["shared", "local"])
def test_samples_are_hidden_and_both_ious_told(folder, placement):
    told = lines(folder / placement)
    assert len(told) == EPOCHS and sum(line["n_hidden"] for line in told) > 0
    assert all(0 < line[name] <= 1 for line in told for name in ("val_iou", "val_iou_corpus"))
    assert all(line["n_backward"] == N - line["n_hidden"] for line in told)


@pytest.mark.parametrize("placement", ["shared", "local"])
def test_both_placements_plan_as_one_serial_sort_does(folder, placement):
    options = yaml.safe_load((folder / placement / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(folder / placement, epoch)
        known = [rows[column] for column in ("loss", "correct", "confidence")]
        assert (
            rows["train"] == kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0).train
        ).all()
        assert epoch == 0 or (np.isfinite(rows["loss"]) & (rows["seen_epoch"] == epoch - 1)).all(), (
            "all are trained or refreshed"
        )


def test_each_file_lies_in_one_store_as_it_is_on_the_shared_file_system(folder):
    place = ledger(folder / "local", EPOCHS - 1)["place"]
    names = sorted(path.name for path in (folder / "data" / "train").iterdir())
    for rank in (0, 1):
        [store] = (folder / "scratch" / "kakurenbo").glob(f"deepcam-*/rank_{rank:04d}")
        assert sorted(path.name for path in (store / "train").iterdir()) == [
            names[id] for id in np.flatnonzero(place == rank)
        ]
        for path in store.rglob("*.h5"):
            assert path.read_bytes() == (folder / "data" / path.parent.name / path.name).read_bytes()


@pytest.mark.parametrize("what", ["a wrong mask", "no stats", "no data"])
def test_what_is_wrong_is_said_once_or_with_its_rank(folder, tmp_path, what):
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("manifest"))
    if what == "a wrong mask":
        path = sorted((tmp_path / "data" / "train").iterdir())[5]
        with h5py.File(path, "r+") as file:
            file["climate/labels_0"][...] = 7
    elif what == "no stats":
        (tmp_path / "data" / "stats.h5").unlink()
    else:
        shutil.rmtree(tmp_path / "data")
    done = train(2, *words(tmp_path, "run", "shared"))
    [line] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    if what == "a wrong mask":  # found while it is trained, by one rank
        assert done.returncode == 2 and "rank " in line
        assert line.endswith(f"{path}: climate/labels_0 holds 7.0, but classes are 0 to 2; mend the file"), (
            line
        )
    else:
        assert done.returncode == 2 and not (tmp_path / "run").exists()
        assert (
            "kakurenbo data stats" if what == "no stats" else "must name a folder with train/*.h5 in it"
        ) in line
