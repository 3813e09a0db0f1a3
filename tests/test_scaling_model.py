"""The cost model of scaling: its counts are those of ranks, whose results are those of one rank."""

from pathlib import Path

import pytest

from kakurenbo_hpc.distributed.comm_threads import run_in_threads

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
N = 20_000


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import bench_scaling
        import scaling_model
        import scaling_ranks

        yield bench_scaling, scaling_model, scaling_ranks


@pytest.fixture(scope="module")
def alone(scripts):
    _, _, ranks = scripts
    return run_in_threads(1, lambda comm: ranks.plan_epoch(N, comm))[0]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_counts_of_the_model_are_those_of_ranks_and_results_those_of_one(scripts, alone, n_ranks):
    bench, _, ranks = scripts
    run = run_in_threads(n_ranks, lambda comm: ranks.plan_epoch(N, comm))[0]
    assert run["digest"] == alone["digest"] and run["balance"] <= 1
    assert bench.compare_counts(run, bench.plan_bytes(alone))
    run["stages"]["deal"]["calls"][1][1] += 8  # a comparison that cannot fail proves nothing
    assert not bench.compare_counts(run, bench.plan_bytes(alone))


def test_a_simulated_rank_makes_the_calls_of_a_real_one(scripts):
    from counted_comm import Counted, Simulated

    _, model, ranks = scripts
    n_ranks, rows = 4096, 50
    counted = Counted(Simulated(7, n_ranks))
    ledger = ranks.made_ledger(rows * n_ranks, 7 * rows, 8 * rows)
    plan = ranks.Plan(train=ledger.id % 5 > 0, refresh=ledger.id % 5 == 0)
    ranks.deal_all(ledger, plan, counted)
    expected = model.count_epoch(rows * n_ranks, 40 * n_ranks, n_ranks, [])["deal"]
    assert [(call.kind, call.n_bytes * n_ranks) for call in counted.calls] == [call[:2] for call in expected]


def test_an_exchange_of_65536_ranks_takes_512_messages_and_no_copy_of_all_samples(scripts):
    _, model, _ = scripts
    grown = {what: now for what, _, now in model.limits(65536, 10**10)}
    assert grown["messages of an exchange, a rank"] == "1,020"
    assert grown["ids of 10,000,000,000 samples in the packed order"] == "34 bits, 30 of the hash"
    assert grown["samples of a distributed sort, on every rank"] == "8.4 MB"
    assert grown["ranks that are home of no sample"] == "0"
    network = model.Network("any", 1e-6, 1e9, "")
    direct, hops = (
        model.network_seconds(model.Call("exchange", 0), 65536, network, two_hops_from)
        for two_hops_from in (10**6, 0)
    )
    assert direct > 100 * 1e-6 * 1024 and hops < direct / 50


def test_slow_ranks_and_gradients_that_nothing_hides_cost_what_they_should(scripts):
    _, model, _ = scripts
    network = model.Network("any", 0.0, 1e9, "")
    work = model.Training(samples_per_s=100, batch_per_rank=10, gradient_bytes=1e8, overlap=1.0, hidden=0.0)
    seconds, exposed = model.training_seconds(1000, 10, network, work)
    assert exposed == pytest.approx(10 * (0.2 - 0.1 * 2 / 3)) and seconds == pytest.approx(1.0 + exposed)
    slow = model.Training(**{**vars(work), "slow_rank": 2.0, "gradient_bytes": 0.0})
    assert model.training_seconds(1000, 10, network, slow) == (pytest.approx(2.0), 0.0)
    assert model.hidden_imbalance(10**6, 1, 0.3) == 1 < model.hidden_imbalance(10**6, 1000, 0.3) < 1.1


def test_what_does_not_fit_is_refused_with_the_memory_needed(scripts):
    bench, _, _ = scripts
    with pytest.raises(SystemExit, match=r"samples on 16 ranks need .* GB, but .* GB are free; give smaller"):
        bench.check_memory([10**11], [1, 16])
