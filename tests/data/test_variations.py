"""Variations of a data set: counts against formulas, wrong labels that are wrong, clean validation data."""

import numpy as np
import pytest
import torch
from support.data_read import atoms, images, random_states, read

from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.config.options import checked
from kakurenbo_hpc.data import DATASETS, augmentation, variations
from kakurenbo_hpc.data.dataset import Dataset, DatasetSplits
from kakurenbo_hpc.errors import DataError, JobError

PLAIN = atoms()
TRUE = PLAIN.train.labels()


def test_without_an_option_nothing_is_changed():
    digits = DATASETS["digits"](name="digits")
    data = digits.open()
    assert variations.vary(data, digits) is data


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_exactly_the_share_of_labels_is_another_classs(share):
    noisy = atoms(label_noise=share).train
    assert (noisy.labels() != TRUE).sum() == round(share * len(TRUE))
    assert noisy.labels().min() >= 0 and noisy.labels().max() <= 9
    assert torch.equal(images(noisy, np.arange(50)), images(PLAIN.train, np.arange(50)))
    assert np.array_equal(read(noisy, np.arange(300))[1], noisy.labels())


def test_a_wrong_label_is_any_other_class_alike():
    data = atoms(label_noise=1.0, instances=3000)
    moved = (data.train.labels() - np.arange(30000) % 10) % 10
    counts = np.bincount(moved, minlength=10)
    assert counts[0] == 0 and np.all(abs(counts[1:] - 30000 / 9) < 5 * np.sqrt(30000 / 9))


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
def test_class_counts_fall_exponentially_to_the_ratio(ratio):
    counts = np.bincount(atoms(instances=500, imbalance=ratio).train.labels())
    assert counts.tolist() == [round(500 * ratio ** (c / 9)) for c in range(10)]
    assert counts[-1] == 500 * ratio


def test_a_class_never_dies_out():
    assert np.bincount(atoms(instances=5, imbalance=0.001).train.labels()).min() == 1


def test_which_samples_stay_is_a_draw():
    def kept(seed):
        thinned = atoms(imbalance=0.1, seed=seed)
        same = images(thinned.train, np.arange(len(thinned.train))).flatten(1)
        every = images(atoms(seed=seed).train, np.arange(300)).flatten(1)
        return {int((every == image).all(1).nonzero()[0]) for image in same}

    assert kept(0) != kept(1)


def test_repeats_are_ids_of_their_own_with_augmentations_of_their_own():
    data = atoms(repeats=3, augmentation=["crop"])
    assert len(data.train) == 900 and np.bincount(data.train.labels()).tolist() == [90] * 10
    parts = [np.arange(300) + 300 * time for time in range(3)]
    plain = [images(data.train, part, augment=False) for part in parts]
    assert torch.equal(plain[0], plain[1]) and torch.equal(plain[0], plain[2])
    moved = [images(data.train, part) for part in parts]
    assert (moved[0] != moved[1]).flatten(1).any(1).float().mean() > 0.7


def test_drawn_classes_are_repeated_the_same_for_every_run():
    datas = [atoms(repeats=5, repeats_classes=0.2, seed=seed, run_seed=seed + 1) for seed in range(8)]
    repeated = []
    for data in datas:
        counts = np.bincount(data.train.labels())
        assert sorted(counts.tolist()) == [30] * 8 + [150] * 2
        assert np.array_equal(data.train.labels()[:300], TRUE), "the first 300 ids are what they were"
        repeated.append(tuple(np.flatnonzero(counts == 150)))
    assert len(set(repeated)) > 3
    again = atoms(repeats=5, repeats_classes=0.2, run_seed=9)
    assert np.array_equal(again.train.labels(), datas[0].train.labels())


def test_each_copy_of_a_sample_may_have_an_augmentation_list_of_its_own():
    lists = [[], ["flip"], ["crop", "flip"], ["cutout"], ["trivial_augment_wide"]]
    data = atoms(repeats=lists, repeats_classes=0.5, augmentation=["shift"])
    n_each = np.bincount(data.train.labels())
    assert sorted(n_each.tolist()) == [30] * 5 + [150] * 5
    ids = np.arange(len(data.train))
    found = images(data.train, ids)
    plain = atoms(repeats=5, repeats_classes=0.5).train
    is_repeated = n_each[data.train.labels()] == 150
    first = np.flatnonzero(is_repeated & (ids < 300))
    numbers = {number: 300 + 150 * (number - 1) + np.arange(150) for number in range(1, 5)} | {0: first}
    assert torch.equal(found[first], images(plain, first)), "no step at all"
    for number, steps in enumerate(lists):
        rows = numbers[number]
        alike = atoms(repeats=5, repeats_classes=0.5, augmentation=steps).train
        assert torch.equal(found[rows], images(alike, rows)), steps
    rest = np.flatnonzero(~is_repeated)
    shifted = atoms(repeats=5, repeats_classes=0.5, augmentation=["shift"]).train
    assert torch.equal(found[rest], images(shifted, rest)), "classes that are not repeated"
    seen = images(data.train, ids, augment=False)
    assert torch.equal(seen, images(plain, ids, augment=False))


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ([["flip"]], "repeats"),
        ([["flip", "flip"], []], "repeats[0] holds flip twice; keep one"),
        ([[], ["flop"]], "there is no step 'flop'"),
        ([[], [{"normalize": "cifar10"}]], "repeats[1] has another normalize than augmentation"),
        ([[{"random_resized_crop": 16}], []], "repeats[0] has another random_resized_crop than augmentation"),
    ],
)
def test_lists_that_do_not_fit_are_refused(lists, said):
    with pytest.raises(JobError) as caught:
        checked(DATASETS["visual_atoms"], {"name": "visual_atoms", "repeats": lists}, "data")
    assert said in str(caught.value)


def test_a_repeated_sample_keeps_its_wrong_label():
    labels = atoms(repeats=2, label_noise=0.3).train.labels()
    assert np.array_equal(labels[:300], labels[300:]) and (labels[:300] != TRUE).sum() == 90


def test_dropped_classes_are_left_out_everywhere_and_the_rest_renumbered():
    data = atoms(drop_classes=[0, 5])
    left = [1, 2, 3, 4, 6, 7, 8, 9]
    assert data.n_classes == 8
    for part, whole in ((data.train, PLAIN.train), (data.validation, PLAIN.validation)):
        stays = np.flatnonzero(np.isin(whole.labels(), left))
        assert len(part) == len(stays)
        assert np.array_equal(np.asarray(left)[part.labels()], whole.labels()[stays])
        assert torch.equal(images(part, np.arange(len(part))), images(whole, stays))


def test_validation_data_keeps_clean_labels_and_no_repeats():
    data = atoms(label_noise=0.5, imbalance=0.1, repeats=4)
    assert np.array_equal(data.validation.labels(), PLAIN.validation.labels())
    assert torch.equal(images(data.validation, np.arange(40)), images(PLAIN.validation, np.arange(40)))


def test_variations_hang_on_the_data_sets_seed_alone_and_are_in_the_fingerprint():
    options = {"label_noise": 0.2, "imbalance": 0.2, "repeats": 2, "drop_classes": [3]}
    before = random_states()
    one, same, other = atoms(**options), atoms(**options, run_seed=7), atoms(**options, seed=1)
    assert random_states() == before
    assert np.array_equal(one.train.labels(), same.train.labels()) and one.fingerprint == same.fingerprint
    assert not np.array_equal(one.train.labels(), other.train.labels())
    different = [
        atoms(**{**options, **change}).fingerprint
        for change in ({"label_noise": 0.3}, {"repeats": 3}, {"drop_classes": [4]})
    ]
    assert len({PLAIN.fingerprint, one.fingerprint, other.fingerprint, *different}) == 6


class Told(Dataset):
    """Tells nothing but which sample was read, how often told apart; as a segmentation set, it has no class
    for a sample.
    """

    def __len__(self):
        return 4

    def __getitems__(self, request):
        return torch.from_numpy(np.stack([request.id, request.copy], 1)), torch.zeros(
            len(request.id), 2, 2, dtype=torch.int64
        )


class Masks(DataOptions):
    def open(self, directory=None):
        return MASKS


MASKS = DatasetSplits(train=Told(), validation=Told(), n_classes=3, shape=(2, 2, 2), fingerprint="masks")


def test_samples_without_a_class_can_be_repeated_too_each_time_another_copy():
    data = variations.vary(MASKS, Masks(name="masks", repeats=3))
    input, target = read(data.train, np.arange(12), copy=2)
    assert input[:, 0].tolist() == [0, 1, 2, 3] * 3 and target.shape == (12, 2, 2)
    copies = {copy: read(data.train, np.arange(12), copy=copy)[0][:, 1].reshape(3, 4) for copy in (0, 1, 2)}
    told = [tuple(row.tolist()) for copy in copies.values() for row in copy]
    assert len(set(told)) == 9 and told[0] == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "options",
    [{"label_noise": 0.1}, {"imbalance": 0.1}, {"drop_classes": [1]}, {"repeats": 2, "repeats_classes": 0.5}],
    ids=lambda options: [*options][-1],
)
def test_what_needs_classes_is_refused_where_there_are_none(options):
    name, value = [*options.items()][-1]
    with pytest.raises(DataError) as caught:
        variations.vary(MASKS, Masks(name="masks", **options))
    assert str(caught.value) == f"data.{name} is {value}, but masks has no class for each sample; remove it"


def test_augmentation_of_samples_without_a_class_is_refused():
    with pytest.raises(DataError, match="masks does not hold images with a class each"):
        augmentation.augment(MASKS, Masks(name="masks", augmentation=["flip"]), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"drop_classes": [10]},
            "data.drop_classes names class 10, but visual_atoms has classes 0 to 9; remove it",
        ),
        (
            {"drop_classes": [*range(10)]},
            "data.drop_classes leaves 0 of the 10 classes of visual_atoms; leave at least 2",
        ),
        (
            {"drop_classes": [*range(9)]},
            "data.drop_classes leaves 1 of the 10 classes of visual_atoms; leave at least 2",
        ),
    ],
)
def test_classes_that_cannot_be_dropped(options, message):
    with pytest.raises(DataError) as caught:
        atoms(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": 1.5}, "data.label_noise is 1.5, but must be less than or equal to 1"),
        ({"imbalance": 0.0}, "data.imbalance is 0.0, but must be greater than 0"),
        ({"repeats": 0}, "data.repeats is 0, but must be greater than or equal to 1"),
        ({"repeats_classes": 0.5}, "repeats_classes is 0.5, but repeats is 1"),
        ({"drop_classes": [-1]}, "data.drop_classes.0 is -1, but must be greater than or equal to 0"),
        ({"drop_classes": [2, 2]}, "drop_classes holds 2 twice; keep one"),
        ({"augmentation": ["flip", "flip"]}, "augmentation holds flip twice; keep one"),
        (
            {"augmentation": ["flop"]},
            "data.augmentation.0 is 'flop', but there is no step 'flop'; did you mean flip?",
        ),
        ({"seed": -1}, "data.seed is -1, but must be greater than or equal to 0"),
        ({"pixels": 4}, "data.pixels is 4, but must be greater than or equal to 8"),
        ({"classes": 1}, "data.classes is 1, but must be greater than or equal to 2"),
        ({"channels": 2}, "data.channels is 2, but must be 1 or 3"),
        ({"difficulty": 2.0}, "data.difficulty is 2.0, but must be less than or equal to 1"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_opened(options, message):
    with pytest.raises(JobError) as caught:
        checked(DATASETS["visual_atoms"], {"name": "visual_atoms", **options}, "job.yaml", "data.")
    assert message in str(caught.value)
