"""Made weather: what it is made of, how much of it is easy, hard or wrong, and that it can be told from the
background.
"""

import numpy as np
import pytest

from kakurenbo_hpc.data.tools.synthetic_climate import CHANNELS, CYCLONES, FILAMENTS, HARD, MISLABELLED, draw

NAMES = [channel.name for channel in CHANNELS]


@pytest.fixture(scope="module")
def samples():
    return [draw(1, "train", number, 64, 96) for number in range(500)]


def test_a_sample_depends_on_seed_split_and_number_and_nothing_else():
    one = draw(1, "train", 7, 48, 72)
    assert (
        one.fields.shape == (48, 72, 16) and one.fields.dtype == np.float32 and np.isfinite(one.fields).all()
    )
    np.random.seed(5)
    again = draw(1, "train", 7, 48, 72)
    assert (one.fields == again.fields).all() and (one.mask == again.mask).all()
    for other in [(2, "train", 7), (1, "validation", 7), (1, "train", 8)]:
        assert (draw(*other, 48, 72).fields != one.fields).any(-1).mean() > 0.9


def test_classes_are_as_frequent_as_in_the_public_set(samples):
    # 500 samples hold some 75 cyclones and 475 filaments, each of its own size: three standard errors are 40
    # % and 5 %.
    masks = [sample.mask for sample in samples]
    shares = np.bincount(np.ravel(masks), minlength=3) / np.size(masks)
    assert shares[1] == pytest.approx(CYCLONES, rel=0.4) and shares[2] == pytest.approx(FILAMENTS, rel=0.05)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 47), (96, 160), (96, 64)])
def test_any_size_has_both_classes_in_the_same_share(height, width):
    masks = [draw(3, "train", number, height, width).mask for number in range(100)]
    shares = np.bincount(np.ravel(masks), minlength=3) / np.size(masks)
    assert shares[1] > 0 and shares[2] == pytest.approx(FILAMENTS, rel=0.25)


def test_some_samples_are_hard_and_some_mislabelled_but_none_to_validate_on(samples):
    for share, found in [(HARD, [s.hard for s in samples]), (MISLABELLED, [s.mislabelled for s in samples])]:
        assert np.mean(found) == pytest.approx(share, abs=4 * np.sqrt(share / 500))
    validation = [draw(1, "validation", number, 16, 24) for number in range(300)]
    assert not any(s.mislabelled for s in validation) and any(s.hard for s in validation)


def standing_out(sample, class_, name):
    """Return how far a class stands out of the rest of its rows in one field, in standard deviations of the
    rest.
    """
    field = sample.fields[..., NAMES.index(name)]
    field = field - field.mean(1, keepdims=True)
    return (field[sample.mask == class_].mean() - field[sample.mask == 0].mean()) / field[
        sample.mask == 0
    ].std()


@pytest.mark.parametrize(
    ("class_", "name", "least"),
    [(1, "PSL", -5), (1, "PRECT", 4), (1, "T200", 2), (2, "TMQ", 3), (2, "PRECT", 3), (2, "U850", 2)],
)
def test_each_class_stands_out_in_several_fields_and_less_where_it_is_hard_or_mislabelled(
    samples, class_, name, least
):
    def median(chosen):
        return np.median(
            [standing_out(s, class_, name) for s in chosen if (s.mask == class_).any()]
        ) * np.sign(least)

    easy = median(s for s in samples if not (s.hard or s.mislabelled))
    assert easy > abs(least)
    assert median(s for s in samples if s.hard and not s.mislabelled) < easy / 2
    if class_ == 2:
        assert median(s for s in samples if s.mislabelled and not s.hard) < easy / 2


def test_whirls_turn_against_the_clock_in_the_north_and_with_it_in_the_south(samples):
    turns = {"north": [], "south": []}
    for sample in samples:
        rows, columns = np.nonzero(sample.mask == 1)
        if (
            len(rows)
            and not (sample.hard or sample.mislabelled)
            and np.ptp(columns) < 10
            and np.ptp(rows) < 10
        ):
            wind = sample.fields[rows, columns][:, [NAMES.index("U850"), NAMES.index("V850")]]
            turn = (columns - columns.mean()) * wind[:, 1] - (rows - rows.mean()) * wind[:, 0]
            turns["north" if rows.mean() > 32 else "south"].append(turn.mean())
    assert min(map(len, turns.values())) > 10
    assert np.mean(np.array(turns["north"]) > 0) > 0.95 and np.mean(np.array(turns["south"]) < 0) > 0.95
