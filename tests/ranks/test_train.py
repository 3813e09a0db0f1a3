"""The main job on real ranks: what it hides, its order, what it leaves, how it resumes."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from support.oracle import kakurenbo
from support.start_ranks import train

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.training.model import build_model

EPOCHS = 4
JOB = ("digits_kakurenbo", "--set", f"training.epochs={EPOCHS}")


def lines(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def without_seconds(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(run)]


def ledger(run, epoch):
    with h5py.File(run / "ledger" / f"epoch_{epoch:04d}.h5") as file:
        return {name: file[name][:] for name in file}


def parameters(run, epoch=EPOCHS - 1):
    return torch.load(run / "checkpoints" / f"epoch_{epoch:04d}" / "learner.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same job on 1 to 4 ranks of mpirun, and on 2 of torchrun."""
    folder = tmp_path_factory.mktemp("runs")
    for starter, n in [("mpirun", 1), ("mpirun", 2), ("mpirun", 3), ("mpirun", 4), ("torchrun", 2)]:
        done = train(n, *JOB, "--run-dir", folder / f"{starter}{n}", starter=starter)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


ALL = ["mpirun1", "mpirun2", "mpirun3", "mpirun4", "torchrun2"]


@pytest.mark.parametrize("name", ALL)
def test_hidden_ids_of_every_epoch_are_those_of_a_serial_oracle(runs, name):
    options = yaml.safe_load((runs / name / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(runs / name, epoch)
        assert (rows["id"] == np.arange(1437)).all()
        known = [rows[name] for name in ("loss", "correct", "confidence")]
        want = kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0)
        assert (rows["train"] == want.train).all()
        assert (rows["refresh"] == (np.zeros(1437) if want.refresh is None else want.refresh)).all()


@pytest.mark.parametrize("name", ALL)
def test_samples_are_hidden_from_the_second_epoch_on(runs, name):
    told = lines(runs / name)
    assert told[0]["n_hidden"] == 0
    assert all(line["n_hidden"] > 0 for line in told[1:])
    assert all(line["n_backward"] == 1437 - line["n_hidden"] for line in told)
    assert [line["n_forward"] for line in told] == [1437] * (EPOCHS - 1) + [1437 - told[-1]["n_hidden"]], (
        "no last refresh"
    )


def test_the_order_is_the_same_on_any_number_of_ranks_when_the_hidden_set_is(runs):
    by_epoch = [{} for _ in range(EPOCHS)]
    for name in ALL:
        for epoch, line in enumerate(lines(runs / name)):
            hidden = (ledger(runs / name, epoch)["train"] == 0).tobytes()
            by_epoch[epoch].setdefault(hidden, set()).add(line["order_hash"])
    assert len(by_epoch[0]) == 1, "nothing is hidden in the first epoch"
    assert all(len(hashes) == 1 for epoch in by_epoch for hashes in epoch.values())
    assert len({line["order_hash"] for line in lines(runs / "mpirun1")}) == EPOCHS, "another order each epoch"


def test_the_first_epoch_is_the_same_to_rounding_on_any_number_of_ranks(runs):
    losses = [lines(runs / name)[0]["train_loss"] for name in ALL]
    assert np.ptp(losses) < 1e-4 * losses[0]


def test_a_run_directory_holds_what_is_promised(runs):
    run = runs / "mpirun2"
    told = lines(run)
    assert [line["epoch"] for line in told] == list(range(EPOCHS))
    promised = """epoch train_loss val_loss val_accuracy n_samples n_candidates n_moved_back n_hidden
        hidden_fraction max_fraction n_forward n_backward n_nan n_skipped_steps lr lr_scale steps order_hash
        loss_histogram seconds""".split()
    assert all(list(line) == promised for line in told)
    for line in told:
        histogram = line["loss_histogram"]
        assert sum(histogram["counts"]) == 1437 and len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert {"plan", "train", "refresh", "evaluate", "checkpoint", "total"} < set(line["seconds"])
        assert line["n_moved_back"] == line["n_candidates"] - line["n_hidden"]
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["ranks"] == 2 and provenance["libraries"]["torch"]
    assert yaml.safe_load((run / "job.yaml").read_text())["training"]["global_batch"] == 60
    best = (run / "checkpoints" / "best").read_text().strip()
    there = {path.name for path in (run / "checkpoints").iterdir()} - {"best"}
    assert there == {best, *(f"epoch_{epoch:04d}" for epoch in (EPOCHS - 2, EPOCHS - 1))}
    assert set(ledger(run, 1)) == {
        "id",
        "loss",
        "correct",
        "confidence",
        "seen_epoch",
        "train",
        "weight",
        "refresh",
    }


@pytest.mark.parametrize("name", ALL)
def test_every_validation_sample_is_evaluated_once(runs, name):
    for line in lines(runs / name):
        n_right = line["val_accuracy"] * 360
        assert n_right == pytest.approx(round(n_right), abs=1e-9)


@pytest.mark.parametrize("name", ["mpirun1", "mpirun3"])
def test_the_refresh_tells_what_the_trained_network_makes_of_the_same_augmented_sample(runs, name):
    epoch = EPOCHS - 2  # its checkpoint is still there, and its refresh stands in the next epoch's ledger
    hidden = np.flatnonzero(ledger(runs / name, epoch)["refresh"])
    model = build_model(Model(name="small_cnn"), 10, (1, 8, 8), seed=0).eval()
    model.load_state_dict(parameters(runs / name, epoch))
    source = open_data(DATASETS["digits"](name="digits"), seed=1, comm=SerialComm()).train
    input, target = source.__getitems__(
        ReadRequest(hidden, np.zeros(len(hidden), np.int32), epoch, augment=True)
    )
    with torch.no_grad():
        want = F.cross_entropy(model(input), target, reduction="none").numpy()
    after = ledger(runs / name, epoch + 1)
    assert len(hidden) > 100 and (after["seen_epoch"] == epoch).all()
    np.testing.assert_allclose(after["loss"][hidden], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mpirun1", "mpirun3", "torchrun2"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(runs, name, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / name, run)
    shutil.rmtree(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    refused = train(1, *JOB, "--run-dir", run)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    done = train(int(name[-1]), *JOB, "--run-dir", run, "--resume", starter=name[:-1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming after epoch_{EPOCHS - 2:04d}" in done.stdout
    before, after = parameters(runs / name), parameters(run)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert without_seconds(run) == without_seconds(runs / name)


def test_another_number_of_ranks_resumes_with_the_same_plan_and_order(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "mpirun4", run)
    shutil.rmtree(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    done = train(2, *JOB, "--run-dir", run, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    for key in ("n_hidden", "order_hash", "steps"):
        assert lines(run)[-1][key] == lines(runs / "mpirun4")[-1][key]


def test_loader_processes_change_nothing(runs, tmp_path):
    done = train(1, *JOB, "--run-dir", tmp_path / "run", "--set", "data.workers=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert without_seconds(tmp_path / "run") == without_seconds(runs / "mpirun1")
