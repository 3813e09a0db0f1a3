"""PDD and RHO-LOSS: worked examples of what they choose of a batch."""

import dataclasses

import numpy as np
import pytest
from support.method_examples import ledger, method, plan

from kakurenbo_hpc.core.batch import Candidates
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.selection.global_stats import GlobalStats


def candidates(n, first=0, loss=None, **extra):
    loss = np.zeros(n) if loss is None else loss
    columns = {name: np.asarray(column)[:n] for name, column in extra.items()}
    return Candidates(
        np.arange(first, first + n), np.zeros(n, np.int32), np.asarray(loss, np.float32), columns
    )


def chosen(one, batch, epoch=0, total=30, comm=None):
    choice, state = one.select(
        Epoch(epoch, total, 1), batch, one.init_state(), GlobalStats(comm or SerialComm())
    )
    assert (choice.weight == 1).all() and not state
    return choice.rows.tolist()


PROBABILITY = np.array([0.1, 0.8, 0.3, 0.5, 0.29, 0.31], np.float32)


def test_dbpd_trains_what_is_below_the_threshold_and_smrd_as_many():
    batch = candidates(6, probability=PROBABILITY)
    assert chosen(method("pdd", threshold=0.3), batch) == [0, 4], "0.3 in float32 is above 0.3"
    drawn = {tuple(chosen(method("pdd", variant="smrd", threshold=0.3), batch, epoch)) for epoch in range(29)}
    assert {len(rows) for rows in drawn} == {2} and len(drawn) > 5
    batch = candidates(3, probability=[np.nan, 0.9, 0.9])
    assert chosen(method("pdd"), batch) == [0]


def test_dbpd_at_threshold_0_trains_what_is_predicted_wrongly():
    assert chosen(
        method("pdd", threshold=0.0), candidates(4, correct=np.array([True, False, False, True]))
    ) == [
        1,
        2,
    ]


@pytest.mark.parametrize(("epoch", "n"), [(0, 32), (1, 31), (10, 28), (100, 11), (200, 4)])
def test_srd_trains_a_share_that_falls_by_epoch(epoch, n):
    one = method("pdd", variant="srd")
    assert len(chosen(one, candidates(32), epoch, total=300)) == n
    assert not one.selection_pass(32).forward and not one.columns


def test_pdd_counts_and_draws_over_the_batch_of_all_ranks():
    probability = np.random.default_rng(0).random(40).astype(np.float32)
    for variant in ("smrd", "srd"):
        one, found = method("pdd", variant=variant, gamma=0.5), []
        for cuts in ([0, 40], [0, 7, 7, 30, 40]):

            def of_rank(comm):
                a, b = cuts[comm.rank : comm.rank + 2]  # noqa: B023
                rows = chosen(one, candidates(b - a, a, probability=probability[a:b]), 1, comm=comm)  # noqa: B023
                return [a + row for row in rows]

            found.append(sum(run_in_threads(len(cuts) - 1, of_rank), []))
        assert found[0] == found[1] and len(found[0]) == (
            20 if variant == "srd" else (probability < 0.3).sum()
        )


def test_pdd_revises_everything_in_the_last_epochs():
    levels = [method("pdd").selection_level(Epoch(e, 4, 0)) for e in range(4)]
    assert levels == ["batch", "batch", "batch", "epoch"]
    assert method("pdd", revision_from=0).selection_level(Epoch(0, 4, 0)) == "epoch"


def rho(kept, **options):
    return method("rho_loss", scores=["any.h5"], kept=kept, **options)


def test_rho_loss_trains_the_largest_reducible_losses():
    irreducible = np.array([1.8, 0.1, 0.9, 0.5], np.float32)
    batch = candidates(4, loss=[2, 0.5, 1, 3], irreducible=irreducible)
    assert chosen(rho(0.5), batch) == [1, 3] and chosen(rho(0.25), batch) == [3]
    assert chosen(rho(0.5), candidates(4, loss=[2, 0.5, 1, 3], irreducible=np.zeros(4))) == [0, 3], "the loss"
    assert chosen(rho(0.5), candidates(4, loss=irreducible, irreducible=irreducible)) == [0, 1], "ids decide"
    assert chosen(rho(0.01), batch) == [3], "at least one"
    assert chosen(rho(0.5), candidates(4, loss=[2, np.nan, 1, 3], irreducible=irreducible)) == [1, 3]


def test_rho_loss_compares_all_ranks_candidates_where_it_is_told_to():
    loss = np.arange(20, dtype=np.float32)

    def of_rank(comm):
        batch = candidates(5, 5 * comm.rank, loss[5 * comm.rank :][:5], irreducible=np.zeros(5))
        return chosen(rho(0.2, scope="global"), batch, comm=comm), chosen(rho(0.2), batch, comm=comm)

    assert run_in_threads(4, of_rank) == [([], [4]), ([], [4]), ([], [4]), ([1, 2, 3, 4], [4])]


def test_rho_loss_trains_only_what_has_a_score():
    one = rho(0.1)
    rows = ledger(one, [1] * 4)
    rows = dataclasses.replace(rows, extra={"irreducible": np.array([0.1, np.nan, 0.3, np.nan], np.float32)})
    assert plan(one, rows).train.tolist() == [True, False, True, False]
    assert one.selection_pass(32).global_batch == 320
