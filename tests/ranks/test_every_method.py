"""Every name in the table runs from a job on real ranks, and a resumed run is the run that was not
interrupted.
"""

import json

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.start_ranks import PROGRAMS, start

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.batch_level import BatchMethod
from kakurenbo_hpc.training.model import build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    done = start(2, PROGRAMS / "every_method.py", folder, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def lines(run):
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_from_a_job_by_name(folder, method):
    for run in folder.glob(f"{method}_[0-9]"):
        told = lines(run)
        assert max(line["val_accuracy"] for line in told) > 0.15, "ten classes"
        assert all(line["n_backward"] > 0 and line["steps"] > 0 for line in told)


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if issubclass(method, BatchMethod)]
)
def test_a_batch_level_method_counts_passes_and_splits_its_seconds(folder, method):
    for run in folder.glob(f"{method}_[0-9]"):
        for line in lines(run):
            assert 1437 <= line["n_forward"] <= 1437 + line["n_backward"] or line["n_hidden"] > 0
            parts = [
                line["seconds"][part]
                for part in ("selection_forward", "training_forward", "backward", "other")
            ]
            assert sum(parts) == pytest.approx(line["seconds"]["train"], rel=0.01)


def scores(folder, name):
    with h5py.File(folder / f"{name}.h5") as file:
        assert (file["id"][:] == np.arange(1437)).all()
        return file["score"][:], dict(file.attrs), file["label"][:] if "label" in file else None


def test_scores_are_written_for_every_sample_with_what_they_cost(folder):
    el2n, about, label = scores(folder, "el2n")
    assert (0 <= el2n).all() and (el2n <= 2**0.5).all() and len(np.unique(el2n)) > 1000
    assert about["n_forward"] == 2 * 1437 and about["n_backward"] == 1437 and about["seconds"] > 0
    source = open_data(DATASETS["digits"](name="digits"), seed=1, comm=SerialComm()).train
    assert (
        label
        == source.__getitems__(ReadRequest(np.arange(1437), np.zeros(1437, np.int32), 0, False))[1].numpy()
    ).all()
    forgotten, _, _ = scores(folder, "forgetting")
    assert set(np.unique(forgotten)) <= {0, 1, 4}, (
        "in three epochs a sample is forgotten once, or was never learned: 4"
    )
    assert 0 < (forgotten == 0).mean() < 1


def test_gradient_norms_of_an_untrained_network_are_those_of_one_pass_a_sample(folder):
    exact, about, _ = scores(folder, "grand")
    last_layer, cheaper, _ = scores(folder, "grand_last_layer")
    assert about["n_backward"] == 1437 and cheaper["n_backward"] == 0
    assert (exact > last_layer).all(), "the last layer is a part of the network"
    model = build_model(Model(name="small_cnn"), 10, (1, 8, 8), seed=1).eval()
    source = open_data(DATASETS["digits"](name="digits"), seed=1, comm=SerialComm()).train
    input, target = source.__getitems__(ReadRequest(np.arange(20), np.zeros(20, np.int32), 0, augment=False))
    for i in range(20):
        model.zero_grad()
        F.cross_entropy(model(input[i : i + 1]), target[i : i + 1]).backward()
        assert exact[i] == pytest.approx(
            torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item(), rel=1e-4
        )


def test_selective_backprop_trains_about_its_selectivity(folder):
    told = lines(folder / "selective_backprop_0")
    assert 0.2 < sum(line["n_backward"] for line in told) / (4 * 1437) < 0.5, "s is 0.33"
    assert all(line["n_forward"] == 1437 + line["n_backward"] for line in told)


def test_a_stale_epoch_does_not_even_load_what_is_not_chosen(folder):
    prime, selection, stale, _ = lines(folder / "selective_backprop_1")
    assert prime["n_forward"] == prime["n_backward"] == 1437
    assert selection["n_forward"] == 1437 + selection["n_backward"]
    assert stale["n_forward"] == stale["n_backward"] < 1437 and stale["seconds"]["selection_forward"] == 0


def test_a_kept_graph_saves_forward_passes(folder):
    told = lines(folder / "selective_backprop_2")
    assert sum(line["n_forward"] for line in told) < sum(1437 + line["n_backward"] for line in told)
