"""A run that is left inside an epoch and taken up on other ranks, which do not divide its batch."""

import json

import pytest
import torch
from support.batch_runs import metrics
from support.runs import meet, train_here

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.rundir.checkpoint.shards import MidEpoch, RankState, load_mid_epoch, write_shards
from kakurenbo_hpc.training.learner import Learner

JOB = (
    "digits_kakurenbo",
    [
        "training.epochs=3",
        "training.global_batch=110",
        "selection={method: kakurenbo, confidence: 0.2, fraction_epochs: [0]}",
        "model.options={width: 4, norm: batch}",
    ],
)


@pytest.fixture
def train(comm, comm_of, tmp_path, monkeypatch):
    """Trains on the first n ranks until after a step of the second epoch, -1 for to the end. Collective.

    What each rank trains in each step is a line of JSON a batch, in a file by the name of this part.
    """
    part, done, learn = {}, {"step": -1}, Learner.step

    def step(learner, batch):
        micro_batch, epoch = batch.micro_batch, learner._epoch
        with open(tmp_path / f"{part['name']}_{comm.rank}.jsonl", "a") as file:
            ids = micro_batch.id.tolist() if micro_batch.counts else []
            file.write(json.dumps([epoch, micro_batch.step, ids]) + "\n")
        done["step"] = micro_batch.step if epoch == 1 else -1
        return learn(learner, batch)

    def should_stop(preemption):
        preemption.why = "the drill" if done["step"] == part["leaves_after"] >= 0 else ""
        return bool(preemption.why)

    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(Preemption, "should_stop", should_stop)
    monkeypatch.setattr(Preemption, "should_stop_now", should_stop)

    def train(name, n, leaves_after, run):
        part.update(name=name, leaves_after=leaves_after)
        done["step"], resume = -1, comm.broadcast(run.exists())
        job, sets = JOB
        parts = f"training.accumulate={2 if name == 'fewer' else 1}"
        code = train_here(job, [*sets, parts], run, comm_of(n), resume=resume)
        assert code in (None, DONE if leaves_after < 0 else REQUEUE)
        meet(comm)

    return train


def trained(folder, part, epoch):
    """Return what all ranks together trained in each step: step -> ids, sorted."""
    found = {}
    for path in folder.glob(f"{part}_*.jsonl"):
        for of, step, ids in map(json.loads, path.read_text().splitlines()):
            if of == epoch:
                found.setdefault(step, []).extend(ids)
    return {step: sorted(ids) for step, ids in sorted(found.items())}


def check_left_and_taken_up(train, tmp_path, n_whole, n_fewer, n_then):
    """Compare a run on n_whole ranks with one that is left there, then on fewer, and ends on others."""
    train("whole", n_whole, -1, tmp_path / "all")
    train("first", n_whole, 3, tmp_path / "run")
    train("fewer", n_fewer, 6, tmp_path / "run")
    train("then", n_then, -1, tmp_path / "run")
    whole, *others = (trained(tmp_path, part, epoch=1) for part in ("whole", "first", "fewer", "then"))
    assert [list(steps) for steps in others] == [[0, 1, 2, 3], [4, 5, 6], list(range(7, len(whole)))]
    assert others[0] | others[1] | others[2] == whole
    assert trained(tmp_path, "fewer", epoch=0) == {}

    lines, want = metrics(tmp_path / "run"), metrics(tmp_path / "all")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[0] == want[0]
    for name in ("n_hidden", "n_backward", "steps", "order_hash"):
        assert lines[1][name] == want[1][name]
    assert want[1]["n_hidden"] > 0, "so that the plan is put to the test"
    assert lines[2]["val_accuracy"] == pytest.approx(want[2]["val_accuracy"], abs=0.1)


@pytest.mark.ranks(3)
def test_no_sample_of_the_interrupted_epoch_is_trained_twice_or_missed(train, tmp_path):
    check_left_and_taken_up(train, tmp_path, 3, 1, 2)


@pytest.mark.nightly
@pytest.mark.ranks(4)
def test_no_sample_is_trained_twice_or_missed_from_four_ranks_on(train, tmp_path):
    check_left_and_taken_up(train, tmp_path, 4, 2, 3)


@pytest.mark.unit
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
