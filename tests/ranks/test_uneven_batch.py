"""A global batch that ranks do not divide: whole in every step, by parts that differ by at most one."""

from collections import defaultdict

import pytest
from support.runs import meet, train_here

from kakurenbo_hpc.training.learner import Learner

JOB = ["training.epochs=1", "training.warmup_epochs=0", "training.global_batch=50", "record.ledger=false"]


@pytest.mark.ranks(3)
@pytest.mark.parametrize("method", ["everything", "selective_backprop"])
def test_each_step_trains_the_whole_batch(method, comm, tmp_path, monkeypatch):
    learn, parts = Learner.step, []

    def step(learner, batch):
        micro_batch = batch.micro_batch
        parts.append((micro_batch.step, len(micro_batch.id) * micro_batch.counts, micro_batch.n_global))
        return learn(learner, batch)

    monkeypatch.setattr(Learner, "step", step)
    train_here("digits_everything", [*JOB, f"selection={{method: {method}}}"], tmp_path / "run", comm)
    meet(comm)
    steps = defaultdict(list)
    for number, n, n_global in (part for of_rank in comm.gather(parts) for part in of_rank):
        steps[number].append((n, n_global))
    sizes = [[n for n, _ in of_ranks] for of_ranks in steps.values()]
    assert all({n_global for _, n_global in of} == {sum(n for n, _ in of)} for of in steps.values())
    if method == "everything":
        assert all(max(of_ranks) - min(of_ranks) <= 1 for of_ranks in sizes)
        assert {sum(of_ranks) for of_ranks in sizes} == {49, 50}
    else:  # ranks whose queues still hold something at the end of the epoch train that
        assert sizes[0] == [16, 17, 17]
        whole = [of_ranks for of_ranks in sizes if sum(of_ranks) == 50]
        assert len(whole) > 5 and all(of_ranks == [16, 17, 17] for of_ranks in sizes[: len(whole)])
