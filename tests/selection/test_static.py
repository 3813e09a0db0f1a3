"""Static pruning on examples: ten samples with scores 0 to 9."""

import numpy as np
import pytest
from support.method_examples import hidden, ledger, method, plan, refusal

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.selection.score_file import ScoreInfo, write_scores

SCORE = np.arange(10.0)
LABEL = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.fixture
def file(tmp_path):
    about = ScoreInfo(
        "el2n", "10 models, 20 epochs", "ten", "f00d", n=10, seconds=1.5, n_forward=10, n_backward=20
    )

    def write(score=SCORE, label=None, name="scores.h5"):
        write_scores(tmp_path / name, about, score, SerialComm(), label)
        return str(tmp_path / name)

    return write


def static(path, epoch=0, fingerprint="f00d", **options):
    m = method("static", scores=path, **options)
    rows = ledger(m, [1] * 10, unseen=range(10)).with_columns(m.init_columns(range(10), 10, fingerprint))
    return plan(m, rows, epoch)


def test_the_highest_or_the_lowest_scores_stay(file):
    assert hidden(static(file())) == [0, 1, 2]
    assert hidden(static(file(), keep="lowest", fraction=0.2)) == [8, 9]


def test_the_choice_holds_for_the_whole_run(file):
    path = file()
    assert all(hidden(static(path, epoch)) == [0, 1, 2] for epoch in range(5))


def test_ties_are_hidden_by_id_and_a_nan_stays(file):
    assert hidden(static(file(np.zeros(10)))) == [0, 1, 2]
    for keep, whom in (("highest", [1, 2, 3]), ("lowest", [7, 8, 9])):
        assert hidden(static(file([np.nan, *range(1, 10)]), keep=keep)) == whom


def test_several_files_count_by_their_mean(file):
    paths = [file(SCORE, name="a.h5"), file(9 - SCORE + (SCORE == 4), name="b.h5")]
    assert 4 not in hidden(static(paths, fraction=0.9))


def test_class_balance_hides_the_share_of_every_class(file):
    path = file(label=np.array(LABEL))
    assert hidden(static(path, fraction=0.5, class_balance=True)) == [0, 1, 4, 5, 6]
    assert hidden(static(path, fraction=0.5, class_balance=True, keep="lowest")) == [2, 3, 7, 8, 9]
    assert hidden(static(path, fraction=0.3, class_balance=True)) == [0, 4]  # floor(1.2), floor(1.8)


def test_with_a_budget_of_steps_an_epoch_is_as_long_as_one_over_everything(file):
    path = file()
    epochs = [static(path, e, fraction=0.6, budget="steps").train for e in range(4)]
    assert all(times.sum() == 10 and not np.any(times[:6]) for times in epochs)
    assert np.sum(epochs, axis=0).tolist() == [0] * 6 + [10] * 4


def test_class_balance_without_labels_is_an_error(file):
    with pytest.raises(
        DataError, match=r"has no labels, which class_balance needs; score again, or set class_balance: false"
    ):
        static(file(), class_balance=True)


def test_a_wrong_option_is_one_line():
    assert refusal("static") == "job.yaml: selection.scores is missing; add it"
    assert "selection.scores is [], but must name a score file; write one with kakurenbo score" in refusal(
        "static", scores=[]
    )
    assert "selection.keep is 'hard', but must be 'highest' or 'lowest'" in refusal(
        "static", scores="a.h5", keep="hard"
    )
    assert "selection.budget is 'seconds', but must be 'epochs' or 'steps'" in refusal(
        "static", scores="a", budget="seconds"
    )


@pytest.fixture
def subset(tmp_path):
    def write(place, places="class", fraction=-1.0, weight=None, weighted=None):
        weighted = weight is not None if weighted is None else weighted
        about = ScoreInfo("herding", "", "ten", "f00d", 10, 1.5, 10, 20, places, fraction, weighted)
        path, place = tmp_path / "subset.h5", np.array(place)
        write_scores(path, about, 10.0 - place, SerialComm(), np.array(LABEL), place, weight)
        return str(path)

    return write


def test_an_order_serves_every_fraction(subset):
    path = subset([3, 1, 0, 2, 5, 4, 3, 2, 1, 0])
    assert hidden(static(path, fraction=0.5, class_balance=True)) == [0, 3, 4, 5, 6]
    assert hidden(static(path, fraction=0.25, class_balance=True)) == [0, 4]
    assert hidden(static(subset([*range(9, -1, -1)], "all"), fraction=0.3)) == [0, 1, 2]


def test_weights_of_a_subset_have_mean_one_over_what_is_kept(subset):
    weight = np.array([0, 0, 3, 1, 0, 0, 0, 2, 4, 2.0])
    path = subset([-1, -1, 0, 1, -1, -1, -1, 0, 1, 2], fraction=0.5, weight=weight)
    found = static(path, fraction=0.5, class_balance=True)
    assert hidden(found) == [0, 1, 4, 5, 6]
    assert found.weight[found.train].tolist() == pytest.approx((weight[found.train] / 2.4).tolist())
    assert static(subset([*range(10)], "all"), fraction=0.3).weight is None


@pytest.mark.parametrize("budget", ["epochs", "steps"])
def test_weights_may_have_mean_one_over_each_batch(subset, budget):
    weight = np.array([0, 0, 3, 1, 0, 0, 0, 2, 4, 2.0])
    path = subset([-1, -1, 0, 1, -1, -1, -1, 0, 1, 2], fraction=0.5, weight=weight)
    options = {"fraction": 0.5, "class_balance": True, "budget": budget}
    assert not static(path, **options).weighs_by_batch
    assert static(path, normalise="batch", **options).weighs_by_batch


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ({"fraction": 0.5}, {"fraction": 0.3}, "chose for fraction 0.5, but selection.fraction is 0.3"),
        ({}, {"class_balance": False}, "chose within classes; set selection.class_balance: true"),
        ({"places": "all"}, {}, "chose among all samples; set selection.class_balance: false"),
        ({}, {"keep": "lowest"}, "herding says who stays; remove selection.keep: lowest"),
        ({"weight": np.ones(10), "weighted": False}, {}, "has weights, but herding gives none"),
        ({"weighted": True}, {}, "weight of its 10 samples is missing; score again"),
    ],
)
def test_a_subset_is_taken_as_it_was_chosen(subset, file, options, said):
    path = subset([0, 1, 2, 3, 0, 1, 2, 3, 4, 5], **file)
    with pytest.raises(DataError, match=said):
        static(path, **{"class_balance": True, "fraction": 0.3, **options})


def test_subsets_have_no_mean(subset, file):
    path = subset([0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
    with pytest.raises(DataError, match="subsets have no mean; give one file"):
        static([file(label=np.array(LABEL), name="a.h5"), path], class_balance=True)
