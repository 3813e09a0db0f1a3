"""A run that is left inside an epoch and taken up on more or on fewer ranks."""

import json
from pathlib import Path

import pytest
import torch
from support.batch_runs import metrics
from support.start_ranks import start

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.rundir.checkpoint.shards import MidEpoch, RankState, load_mid_epoch, write_shards

ON_OTHER_RANKS = Path(__file__).parent / "programs" / "on_other_ranks.py"


def trained(folder, part, epoch):
    """Return what all ranks together trained in each step: step -> ids, sorted."""
    found = {}
    for path in folder.glob(f"{part}_*.jsonl"):
        for of, step, ids in map(json.loads, path.read_text().splitlines()):
            if of == epoch:
                found.setdefault(step, []).extend(ids)
    return {step: sorted(ids) for step, ids in sorted(found.items())}


def test_no_sample_of_the_interrupted_epoch_is_trained_twice_or_missed(tmp_path):
    parts = {"whole": (4, -1, 0), "on four": (4, 3, 75), "on two": (2, 6, 75), "on three": (3, -1, 0)}
    for part, (n, leaves_after, code) in parts.items():
        ended = start(n, ON_OTHER_RANKS, tmp_path / ("all" if part == "whole" else "run"), part, leaves_after)
        assert ended.returncode == code, ended.stderr[-2000:]
    whole, *others = (trained(tmp_path, part, epoch=1) for part in parts)
    assert [list(steps) for steps in others] == [[0, 1, 2, 3], [4, 5, 6], list(range(7, len(whole)))]
    assert others[0] | others[1] | others[2] == whole
    assert trained(tmp_path, "on two", epoch=0) == {}

    lines, want = metrics(tmp_path / "run"), metrics(tmp_path / "all")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[0] == want[0]
    for name in ("n_hidden", "n_backward", "steps", "order_hash"):
        assert lines[1][name] == want[1][name]
    assert want[1]["n_hidden"] > 0, "so that the plan is put to the test"
    assert lines[2]["val_accuracy"] == pytest.approx(want[2]["val_accuracy"], abs=0.1)


def test_statistics_of_other_ranks_are_their_mean(tmp_path):
    """What each new rank loads are shares whose mean over them is the mean over those that left."""
    torch.manual_seed(0)
    buffers = [{"mean": torch.randn(3)} for _ in range(4)]
    for rank, mine in enumerate(buffers):
        ledger = Ledger.unseen(8, 2 * rank, 2 * rank + 2)
        write_shards(tmp_path, rank, RankState(None, ledger, {}, MidEpoch([], mine)))
    want = torch.stack([mine["mean"].double() for mine in buffers]).mean(0)
    for n in (1, 2, 3, 5, 8):
        shares = [
            load_mid_epoch(tmp_path, {"steps": [], "ranks": 4}, rank, n, torch.device("cpu")).buffers["mean"]
            for rank in range(n)
        ]
        torch.testing.assert_close(torch.stack(shares).mean(0), want)
    same = [
        load_mid_epoch(tmp_path, {"steps": [], "ranks": 4}, rank, 4, torch.device("cpu")).buffers["mean"]
        for rank in range(4)
    ]
    assert all(torch.equal(a, b["mean"]) for a, b in zip(same, buffers, strict=True))
