"""Every name in the table runs from a job on real ranks, and a resumed run is the run that was not interrupted."""

import json

import pytest
from ranks import PROGRAMS, start

from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.batch_level import BatchMethod


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


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if issubclass(method, BatchMethod)])
def test_a_batch_level_method_counts_passes_and_splits_its_seconds(folder, method):
    for run in folder.glob(f"{method}_[0-9]"):
        for line in lines(run):
            assert 1437 <= line["n_forward"] <= 1437 + line["n_backward"] or line["n_hidden"] > 0
            parts = [line["seconds"][part] for part in ("selection_forward", "training_forward", "backward", "other")]
            assert sum(parts) == pytest.approx(line["seconds"]["train"], rel=0.01)


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
