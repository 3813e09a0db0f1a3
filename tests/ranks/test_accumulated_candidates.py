"""Candidates of batch-level methods where a step is made of several micro-batches."""

import json

import pytest
import torch
from support.runs import lines, parameters, train_here

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.training.learner import Learner

SMALL = [
    "data={name: visual_atoms, classes: 2, instances: 24, validation: 5, pixels: 16}",
    "model.options={width: 2}",
    "training={epochs: 2, global_batch: 8, lr: 0.01}",
]
COUNTS = ("n_forward", "n_backward", "n_hidden", "steps", "order_hash")


@pytest.mark.ranks(2)
@pytest.mark.parametrize("method", ["selective_backprop", "kath18, presample: 2, force: true"])
def test_candidates_pass_in_accumulated_parts_and_all_else_stays(
    comm, comm_of, tmp_path, monkeypatch, method
):
    folder, sizes, forward_only = comm.broadcast(tmp_path), [], Learner.forward_only

    def pass_forward(self, batch, *words, **more):
        sizes.append(len(batch.input))
        return forward_only(self, batch, *words, **more)

    monkeypatch.setattr(Learner, "forward_only", pass_forward)
    for n_ranks in (1, 2):
        if (ranks := comm_of(n_ranks)) is None:
            continue
        largest = []
        for accumulate in (1, 2):
            sizes.clear()
            sets = [*SMALL, f"selection={{method: {method}}}", f"training.accumulate={accumulate}"]
            assert train_here("digits_everything", sets, folder / f"{n_ranks}_{accumulate}", ranks) == 0
            largest.append(max(sizes))
        assert largest[1] == largest[0] // 2 > 0
        if comm.rank:
            continue
        one, two = folder / f"{n_ranks}_1", folder / f"{n_ranks}_2"
        for mine, other in zip(lines(one), lines(two), strict=True):
            assert [mine[name] for name in COUNTS] == [other[name] for name in COUNTS]
        others = parameters(two, 1)
        for name, value in parameters(one, 1).items():
            assert torch.allclose(value, others[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.unit
def test_whole_candidate_batches_are_told_of_where_their_graphs_are_kept(tmp_path):
    sets = [
        *SMALL,
        "selection={method: selective_backprop, reuse_forward: true}",
        "training.accumulate=2",
        "training.epochs=1",
    ]
    assert train_here("digits_everything", sets, tmp_path / "run", SerialComm()) == 0
    (said,) = json.loads((tmp_path / "run/provenance.json").read_text())["warnings"]
    assert said.startswith("training.accumulate is 2, but selection.reuse_forward is true")
