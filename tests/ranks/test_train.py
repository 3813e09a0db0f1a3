"""The main job on real ranks: what it hides, its order, what it leaves, how it resumes."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from support.batch_runs import metrics
from support.oracle import kakurenbo
from support.runs import ledger, lines, meet, parameters, same_parameters, train_here
from support.start_ranks import train

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE, UserError
from kakurenbo_hpc.training.model import build_model

pytestmark = pytest.mark.ranks(3, limit_s=300)
EPOCHS = 4
ALL = ["mpirun1", "mpirun2", "mpirun3", "torchrun2"]
JOB = ("digits_kakurenbo", [f"training.epochs={EPOCHS}"])


def run_under(name, run, comm, comm_of, *words):
    """Train, or resume, on the ranks that a name says: the first of these, or torchrun's. Collective."""
    if name == "torchrun2":
        if comm.rank == 0:
            job, sets = JOB
            done = train(2, job, "--set", *sets, "--run-dir", run, *words, starter="torchrun")
            assert done.returncode == 0, done.stderr[-3000:]
            print(done.stdout)
    else:
        assert train_here(*JOB, run, comm_of(int(name[-1])), resume="--resume" in words) in (DONE, None)
    meet(comm)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, module_comm, module_comm_of):
    """The same job on one, two and three ranks of mpirun, and on two of torchrun."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ALL:
        run_under(name, folder / name, module_comm, module_comm_of)
    return folder


def check_hidden(run):
    """Compare what every epoch hides and refreshes with the serial oracle."""
    options = yaml.safe_load((run / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(run, epoch)
        assert (rows["id"] == np.arange(1437)).all()
        known = [rows[name] for name in ("loss", "correct", "confidence")]
        want = kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0)
        assert (rows["train"] == want.train).all()
        assert (rows["refresh"] == (np.zeros(1437) if want.refresh is None else want.refresh)).all()


@pytest.mark.parametrize("name", ALL)
def test_hidden_ids_of_every_epoch_are_those_of_a_serial_oracle(runs, name):
    check_hidden(runs / name)


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
        hidden_fraction max_fraction n_forward n_forward_select n_backward n_nan n_skipped_steps lr lr_scale
        steps order_hash loss_histogram input_bytes seconds""".split()
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
        "label",
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


@pytest.mark.parametrize("name", ["mpirun1", "mpirun3", pytest.param("torchrun2", marks=pytest.mark.nightly)])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(runs, comm, comm_of, name, tmp_path, capsys):
    run = tmp_path / "run"
    without_last_checkpoint(runs / name, run, comm)
    with pytest.raises(UserError, match="--resume"):
        train_here(*JOB, run, comm)
    run_under(name, run, comm, comm_of, "--resume")
    if comm.rank == 0:
        assert f"resuming after epoch_{EPOCHS - 2:04d}" in capsys.readouterr().out
        assert same_parameters(runs / name, run, EPOCHS - 1)
        assert metrics(run) == metrics(runs / name)


def test_another_number_of_ranks_resumes_with_the_same_plan_and_order(runs, comm, comm_of, tmp_path):
    without_last_checkpoint(runs / "mpirun3", tmp_path / "run", comm)
    run_under("mpirun2", tmp_path / "run", comm, comm_of, "--resume")
    for key in ("n_hidden", "order_hash", "steps"):
        assert lines(tmp_path / "run")[-1][key] == lines(runs / "mpirun3")[-1][key]


@pytest.mark.nightly
@pytest.mark.ranks(4)
def test_four_ranks_hide_as_the_oracle_does_and_two_go_on_with_the_same_plan(comm, comm_of, tmp_path):
    """DDP may arrange its buckets otherwise than among three."""
    assert train_here(*JOB, tmp_path / "four", comm) == DONE
    comm.barrier()
    check_hidden(tmp_path / "four")
    without_last_checkpoint(tmp_path / "four", tmp_path / "two", comm)
    run_under("mpirun2", tmp_path / "two", comm, comm_of, "--resume")
    for key in ("n_hidden", "order_hash", "steps"):
        assert lines(tmp_path / "two")[-1][key] == lines(tmp_path / "four")[-1][key]


def test_loader_processes_change_nothing(runs, comm_of, tmp_path):
    job, sets = JOB
    if one := comm_of(1):
        assert train_here(job, [*sets, "data.workers=2"], tmp_path / "run", one) == DONE
        assert metrics(tmp_path / "run") == metrics(runs / "mpirun1")


def without_last_checkpoint(run, copy, comm):
    """Copy a run, as it was before its last checkpoint was complete. Collective."""
    if comm.rank == 0:
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    comm.barrier()
