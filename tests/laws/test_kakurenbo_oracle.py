"""KAKURENBO's plans equal those of a serial implementation, for all options and any ledger."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.ledgers import epochs, ledgers

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.methods.kakurenbo import Kakurenbo
from kakurenbo_hpc.selection.methods.random import Random

OPTIONS = {
    "loss": st.sampled_from(["last", "predicted"]),
    "max_fraction": st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.6, 0.9]),
    "fraction_decay": st.just([1.0, 0.8, 0.6, 0.4]),
    "fraction_epochs": st.sampled_from([[0], [0, 1], [0, 2, 3], [0, 1, 2, 4]]),
    "confidence": st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    "move_back": st.booleans(),
    "reduce_fraction": st.booleans(),
    "scale_lr": st.booleans(),
    "lr_fraction": st.sampled_from(["actual", "ceiling"]),
    "drop_top": st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    "refresh_every": st.integers(1, 3),
    "refresh_mode": st.sampled_from(["eval", "train"]),
    "refresh_augment": st.booleans(),
}
options = st.fixed_dictionaries(OPTIONS).filter(lambda o: o["max_fraction"] + o["drop_top"] < 1)


def test_the_options_drawn_here_are_all_there_are():
    assert Kakurenbo.model_fields.keys() - {"method"} == OPTIONS.keys()


@settings(max_examples=6 * settings.default.max_examples)  # so many options
@given(options, epochs, ledgers(Kakurenbo(method="kakurenbo", loss="predicted").columns))
def test_kakurenbo_is_what_the_page_says(options, epoch, ledger):
    method = Kakurenbo(method="kakurenbo", **options)
    plan, loss = method.plan(epoch, ledger, GlobalStats(SerialComm())), method.with_losses(epoch, ledger).loss
    expected = oracle.kakurenbo(
        options, epoch.number, epoch.total, loss, ledger.correct, ledger.confidence, ledger.seen
    )
    np.testing.assert_array_equal(plan.train, expected.train)
    assert (plan.refresh is None) == (expected.refresh is None)
    if plan.refresh is not None:
        np.testing.assert_array_equal(plan.refresh, expected.refresh)
    assert plan.weight is None
    for name in ("lr_scale", "max_fraction", "n_candidates", "n_moved_back"):
        assert getattr(plan, name) == getattr(expected, name), name
    assert (plan.refresh_mode, plan.refresh_augment) == (options["refresh_mode"], options["refresh_augment"])


@given(st.floats(0, 0.99), epochs, ledgers())
def test_random_hides_exactly_its_quota_whatever_the_losses_are(fraction, epoch, ledger):
    plan = Random(method="random", fraction=fraction).plan(epoch, ledger, GlobalStats(SerialComm()))
    assert np.count_nonzero(~plan.train) == oracle.random_quota(fraction, len(ledger))
