"""Schaul's two priorities on examples: each sample's share of the draws."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal


def shares(name, loss, unseen=(), **options):
    """The weights that a plan draws by, the last of them 1."""
    m, seen = method(name, **options), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "kakurenbo_hpc.selection.global_stats.GlobalStats.draw",
            lambda self, weight, *_: seen.append(weight),
        )
        plan(m, ledger(m, loss, unseen))
    return (seen[0] / seen[0][-1]).tolist()


def test_prop_takes_the_loss_plus_epsilon_to_the_alpha():
    assert shares("prop", [0, 3, 8], alpha=0.5, epsilon=1.0) == pytest.approx([1 / 3, 2 / 3, 1])
    assert shares("prop", [0, 3, 8], alpha=0.0) == [1, 1, 1]
    assert method("prop").alpha == 0.6 and method("prop").epsilon == 0.01


def test_rank_takes_one_over_the_rank_to_the_alpha_the_largest_loss_first():
    assert shares("rank", [3, 8, 0, 9], alpha=1.0) == pytest.approx([1 / 3, 1 / 2, 1 / 4, 1])
    assert shares("rank", [3, 8, 0, 9], alpha=0.0) == [1, 1, 1, 1]
    assert method("rank").alpha == 0.7


def test_equal_losses_rank_by_id():
    assert shares("rank", [5, 5, 5], alpha=1.0) == pytest.approx([3, 1.5, 1])


def test_who_is_not_known_has_the_largest_weight_and_takes_no_rank():
    assert shares("rank", [np.nan, 8, 9, 4, 9], unseen=[2], alpha=1.0) == pytest.approx([1, 0.5, 1, 1 / 3, 1])
    assert shares("prop", [np.inf, 0, 3, 8], unseen=[2], alpha=0.5, epsilon=1.0) == pytest.approx(
        [1, 1 / 3, 1, 1]
    )


@pytest.mark.parametrize("name", ["prop", "rank"])
def test_before_anything_was_seen_every_sample_is_trained_once(name):
    m = method(name)
    assert hidden(plan(m, ledger(m, [1] * 50, unseen=range(50)), 0)) == []
    assert plan(m, ledger(m, [1] * 50)).train.sum() == 50


def test_a_wrong_option_is_one_line():
    assert "selection.alpha is -1.0, but must be greater than or equal to 0" in refusal("prop", alpha=-1.0)
    assert "selection.epsilon is 0.0, but must be greater than 0" in refusal("prop", epsilon=0.0)
    assert "unknown key selection.epsilon" in refusal("rank", epsilon=0.1)
