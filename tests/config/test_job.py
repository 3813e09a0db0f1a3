"""A job file is checked whole before anything starts, and every wrong word is answered in one line."""

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.config.job import check_job, read_job
from kakurenbo_hpc.config.options import Count, Options, Positive, expand_path
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.config.yaml import dump_yaml, load_yaml, set_value
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection import METHODS


class Shapes(DataOptions):
    def open(self, directory=None):
        raise AssertionError("a job is read without opening its data")


class Squares(Shapes):
    side: Count = 8


class Circles(Shapes):
    radius: Positive = 1.0


DATA: dict[str, type[Options]] = {"squares": Squares, "circles": Circles}

SHORTEST = {
    "name": "tiny",
    "data": {"name": "squares"},
    "model": {"name": "small_cnn"},
    "training": {"epochs": 3, "global_batch": 8, "lr": 0.1},
    "selection": {"method": "everything"},
}

# Every key that a job may have, none of them at its default.
LONGEST = {
    "name": "long",
    "seed": 7,
    "data": {
        "name": "squares",
        "workers": 2,
        "seed": 3,
        "label_noise": 0.2,
        "imbalance": 0.01,
        "repeats": 5,
        "repeats_classes": 0.2,
        "drop_classes": [4, 5],
        "holdout": 0.1,
        "augmentation": [{"crop": {"padding": 4}}, "flip", {"normalize": "cifar10"}],
        "evaluation": [{"normalize": "cifar10"}],
        "placement": "local",
        "exchange": 0.1,
        "side": 4,
    },
    "model": {
        "name": "resnet50",
        "options": {"zero_init_residual": True, "layers": [3, 4], "head": {"bias": None}},
        "batchnorm_momentum": 0.01,
        "weights_from": "runs/before",
        "skip": ["fc"],
    },
    "training": {
        "epochs": 90,
        "global_batch": None,
        "batch_per_rank": 64,
        "iterations": 0,
        "accumulate": 2,
        "optimizer": "lamb",
        "lr": 0.0125,
        "lr_scaling": "ranks",
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 5e-5,
        "schedule": "multistep",
        "warmup_epochs": 5.0,
        "warmup_steps": 0,  # instead of warmup_epochs
        "min_lr": 1e-6,
        "decay_epochs": 2.4,
        "milestones": [30.0, 60.0, 80.0],
        "milestone_steps": [],
        "decay_rate": 0.97,
        "criterion": "cross_entropy",
        "focal_gamma": 1.5,
        "class_weights": [1.0, 0.5],
        "label_smoothing": 0.1,
        "mixup": 0.0,  # only with the method that trains everything
        "cutmix": 0.0,
        "precision": "bf16",
        "sync_batchnorm": False,  # not with Horovod
        "correct_iou": 0.6,
        "skipped_steps": 5,
        "ema": 0.999,
        "ema_every": 2,
        "ema_style": "torchvision",
        "channels_last": True,
        "compile": True,
        "optimizer_options": {"dampening": 0.1},
        "decay_norms": True,
        "clip_norm": 1.0,
        "schedule_by": "epoch",
        "onecycle": {
            "pct_start": 0.3,
            "div_factor": 25.0,
            "final_div_factor": 1e4,
            "cycle_momentum": False,
            "base_momentum": 0.85,
            "max_momentum": 0.95,
        },
    },
    "selection": {
        "method": "kakurenbo",
        "max_fraction": 0.4,
        "fraction_decay": [1.0, 0.5],
        "fraction_epochs": [0, 30],
        "loss": "last",
        "confidence": 0.6,
        "move_back": False,
        "reduce_fraction": False,
        "scale_lr": False,
        "lr_fraction": "ceiling",
        "drop_top": 0.02,
        "refresh_every": 2,
        "refresh_mode": "train",
        "refresh_augment": False,
    },
    "world": {
        "gradients": "horovod",
        "compression": "fp16",
        "bucket_mib": None,
        "static_graph": False,
        "gradient_predivide_factor": 4.0,
    },
    "record": {
        "ledger": True,
        "weights_at": [10],
        "test": True,
        "evaluate_every": 0,
        "images": 32,
        "rank_seconds": True,
        "tensorboard": True,
        "checkpoint_every": 5,
        "checkpoint_seconds": 600.0,
        "keep": 1,
        "hang_timeout": 60.0,
    },
}


def job(**sections):
    """Return the shortest job, with these keys of its sections changed: ``training={"lr": 1}``, or
    ``seed=3``.
    """
    values = copy.deepcopy(SHORTEST)
    for name, change in sections.items():
        values[name] = {**values[name], **change} if isinstance(change, dict) and name in values else change
    return values


def check(values):
    return check_job(values, "job.yaml", DATA, METHODS)


def complaint(values):
    with pytest.raises(JobError) as caught:
        check(values)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    """Write a job file and return its path."""

    def write(content):
        path = tmp_path / "job.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def read(path, *overrides):
    return read_job(path, overrides, DATA, METHODS)


def complaint_about_file(path, *overrides):
    with pytest.raises(JobError) as caught:
        read(path, *overrides)
    return str(caught.value)


# What a job may say.


def test_every_promised_key_is_read_and_told_again(file):
    assert read(file(LONGEST)).as_dict() == LONGEST
    sections = {
        name: check(LONGEST).as_dict()[name].keys()
        for name in ("data", "model", "training", "world", "record", "selection")
    }
    for name, section in sections.items():
        assert section == LONGEST[name].keys(), f"section {name} has a key that this test does not know"


def test_a_resolved_job_holds_every_default_and_is_the_same_job():
    resolved = check(SHORTEST).as_dict()
    assert (
        resolved["seed"] == 0
        and resolved["training"]["schedule"] == "cosine"
        and resolved["data"]["side"] == 8
    )
    assert resolved["record"]["checkpoint_every"] == 1 and resolved["selection"] == {"method": "everything"}
    assert check(resolved) == check(SHORTEST)
    assert yaml.safe_load(yaml.safe_dump(resolved)) == resolved


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_chosen_by_its_name(method):
    required = {
        name: "scores.h5" for name, field in METHODS[method].model_fields.items() if field.is_required()
    }
    values = job(training={"epochs": 21}, selection=required | {"method": method})
    chosen = check(values).selection
    assert type(chosen) is METHODS[method] and chosen.method == method


def test_numbers_are_read_as_people_write_them(file):
    text = yaml.safe_dump(job(training={"lr": "LR"}))
    for written, meant in [
        ("1e-3", 1e-3),
        ("5E+2", 500.0),
        ("1.e1", 10.0),
        (".5e-1", 0.05),
        ("1", 1),
        ("2.5e-4", 2.5e-4),
    ]:
        assert read(file(text.replace("LR", written))).training.lr == meant


def test_a_job_is_never_changed_after_it_was_checked():
    with pytest.raises(ValueError, match="frozen"):
        check(SHORTEST).training.lr = 5


# --set


def test_set_overrides_a_key_adds_one_and_makes_a_section(file):
    read_back = read(
        file(SHORTEST),
        "training.lr=1e-3",
        "data.side=3",
        "record.ledger=true",
        "seed=5",
        "model.options.a.b=[1, x]",
    )
    assert (read_back.training.lr, read_back.data.side, read_back.record.ledger, read_back.seed) == (
        0.001,
        3,
        True,
        5,
    )
    assert read_back.model.options == {"a": {"b": [1, "x"]}}


def test_the_last_set_wins_and_its_value_may_hold_an_equals_sign(file):
    assert read(file(SHORTEST), "name=one", "name=a=b").name == "a=b"


@pytest.mark.parametrize("override", ["training.lr", "=3", ".lr=3", "training.=3", ""])
def test_a_set_of_another_form_is_answered_with_an_example(file, override):
    said = complaint_about_file(file(SHORTEST), override)
    assert said == f"--set {override}: not of the form section.key=value; for example --set training.epochs=5"


def test_a_set_below_a_value_or_with_a_broken_value_says_so(file):
    path = file(SHORTEST)
    assert "--set name.x=1: name is not a section; name a key that holds a value" == complaint_about_file(
        path, "name.x=1"
    )
    assert "--set name=[: the value is not valid YAML; quote it" == complaint_about_file(path, "name=[")
    assert (
        complaint_about_file(path, "training.lrr=1") == f"{path}: unknown key training.lrr; did you mean lr?"
    )


# What a job may not say: the whole message, since people read it whole.


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (job(seeed=1), "unknown key seeed; did you mean seed?"),
        (job(training={"epoch": 1}), "unknown key training.epoch; did you mean epochs?"),
        (job(data={"sides": 1}), "unknown key data.sides; did you mean side?"),
        (
            job(selection={"method": "kakurenbo", "max_fracton": 0.1}),
            "unknown key selection.max_fracton; did you mean max_fraction",
        ),
        (job(record={"legder": True}), "unknown key record.legder; did you mean ledger?"),
        (job(training={"float": 1}), "unknown key training.float; known: "),
        (
            {**SHORTEST, "int": 1},
            "unknown key int; known: base, code, data, model, name, record, seed, selection, training",
        ),
        (
            {**SHORTEST, 1: 2},
            "unknown key 1; known: base, code, data, model, name, record, seed, selection, training",
        ),
        ({**SHORTEST, "a\nb": 1}, "unknown key a\\nb; known: "),
        (
            job(selection={"method": "kakurembo"}),
            "unknown selection.method 'kakurembo'; did you mean kakurenbo?",
        ),
        (job(data={"name": "sqares"}), "unknown data.name 'sqares'; did you mean squares?"),
        (job(data={"name": "moons"}), "unknown data.name 'moons'; known: circles, squares"),
        (job(data={"name": ["squares"]}), "unknown data.name ['squares']; "),
        (job(selection={"method": None}), "selection.method is missing; known: "),
        (job(data=None), "section data is missing or no mapping; write data: {name: ...}"),
        (job(selection=[1]), "section selection is missing or no mapping; write selection: {method: ...}"),
        (job(training=None), "training is None, but must be a"),
        (job(model={"name": 3}), "model.name is 3, but must be a string"),
        (job(training={"lr": "fast"}), "training.lr is 'fast', but must be a number"),
        (job(training={"lr": True}), "training.lr is True, but must be a number"),
        (job(training={"lr": 0}), "training.lr is 0, but must be greater than 0"),
        (job(training={"lr": float("inf")}), "training.lr is inf, but must be a finite number"),
        (
            job(training={"weight_decay": float("nan")}),
            "training.weight_decay is nan, but must be a finite number",
        ),
        (job(training={"epochs": "3"}), "training.epochs is '3', but must be an integer"),
        (job(training={"epochs": 3.0}), "training.epochs is 3.0, but must be an integer"),
        (job(training={"epochs": -1}), "training.epochs is -1, but must be greater than or equal to 0"),
        (
            job(training={"epochs": 0}),
            "training: exactly one of epochs and iterations is needed, but neither is given",
        ),
        (
            job(training={"iterations": 9}),
            "training: exactly one of epochs and iterations is needed, but both are given",
        ),
        (
            job(training={"schedule": "cosin"}),
            "training.schedule is 'cosin', but must be 'constant', 'cosine', ",
        ),
        (job(training={"nesterov": 1}), "training.nesterov is 1, but must be a boolean"),
        (job(training={"milestones": [1, "x"]}), "training.milestones.1 is 'x', but must be a number"),
        (job(seed=-1), "seed is -1, but must be greater than or equal to 0"),
        (job(seed=2**31), f"seed is {2**31}, but must be less than {2**31}"),
        (
            job(name="a/b"),
            "name is 'a/b', but must be usable as a folder name: 1 to 100 characters, no '/', no leading dot",
        ),
        (job(name=".."), "name is '..', but must be usable as a folder name"),
        (job(name="a\n"), "name is 'a\\n', but must be usable as a folder name"),
        (job(name=""), "name is '', but must be usable as a folder name"),
        (
            job(selection={"method": "kakurenbo", "confidence": 70}),
            "selection.confidence is 70, but must be less than or equal to 1",
        ),
        (
            job(selection={"method": "kakurenbo", "max_fraction": 30}),
            "selection.max_fraction is 30, but must be in [0, 1); write 0.3 for 30 percent",
        ),
        (
            job(selection={"method": "kakurenbo", "max_fraction": 1.0}),
            "selection.max_fraction is 1.0, but must be in [0, 1)",
        ),
        (
            job(selection={"method": "kakurenbo", "max_fraction": -0.1}),
            "selection.max_fraction is -0.1, but must be in [0, 1)",
        ),
        (
            job(selection={"method": "random", "move_back": True}),
            "selection.move_back is an option of kakurenbo, not of random; remove it",
        ),
        (
            job(data={"name": "squares", "radius": 1.0}),
            "data.radius is an option of circles, not of squares; remove it",
        ),
        (
            job(selection={"method": "kakurenbo", "fraction_decay": [1.0, 0.9, 0.8, 0.7, 0.6]}),
            "selection: fraction_decay has 5 factors, but by default only 4 have an epoch",
        ),
        (
            job(selection={"method": "kakurenbo", "fraction_epochs": [30, 60, 80]}),
            "selection: fraction_epochs is [30, 60, 80], but must begin with 0, rise, and be no longer "
            "than fraction_decay",
        ),
        (
            job(selection={"method": "kakurenbo", "max_fraction": 0.9, "drop_top": 0.1}),
            "selection: max_fraction and drop_top together must be below 1; something has to be trained",
        ),
        (
            job(training={"batch_per_rank": 4}),
            "training: exactly one of global_batch and batch_per_rank is needed, but both are given",
        ),
        (
            job(training={"global_batch": None}),
            "training: exactly one of global_batch and batch_per_rank is needed, but neither is given",
        ),
        (
            job(training={"warmup_epochs": 0.5, "warmup_steps": 4}),
            "training: warmup_epochs and warmup_steps are both given; choose one",
        ),
        (
            job(training={"schedule": "onecycle", "warmup_steps": 4}),
            "training: schedule is onecycle, which has a rise and a lowest",
        ),
        (
            job(training={"schedule": "onecycle", "schedule_by": "epoch"}),
            "training: schedule is onecycle, which moves at each step; remove schedule_by",
        ),
        (
            job(model={"name": "resnet50", "skip": ["fc"]}),
            "model: skip is given, but weights_from is not; give it, or remove skip",
        ),
        (
            job(training={"onecycle": {"pct_start": 0.4}}),
            "training: onecycle is given, but schedule is ",
        ),
        (
            job(training={"ema": 0.0, "ema_every": 2}),
            "training: ema_every or ema_style is given, but ema is 0",
        ),
        (
            job(training={"schedule": "multistep"}),
            "training: schedule is multistep, but milestones is empty; list the epochs",
        ),
        (
            job(training={"schedule": "step"}),
            "training: schedule is step, but decay_epochs is missing; give the epochs",
        ),
        (job(training={"warmup_epochs": 3}), "training: warmup_epochs is 3, but must be less than epochs, 3"),
        (job(world={"gradients": "nccl"}), "world.gradients is 'nccl', but must be 'ddp' or 'horovod'"),
        (
            job(world={"gradients": "horovod", "compression": "bf16"}),
            "world: compression is bf16, which DDP alone knows, but gradients is horovod; set it to fp16",
        ),
        (
            job(world={"gradients": "horovod", "bucket_mib": 5.0}),
            "world: bucket_mib is 5.0, which DDP alone knows, but gradients is horovod; remove it",
        ),
        (
            job(world={"gradient_predivide_factor": 2.0}),
            "world: gradient_predivide_factor is 2.0, which Horovod alone knows",
        ),
        (
            job(training={"sync_batchnorm": True}, world={"gradients": "horovod"}),
            "training.sync_batchnorm is true, but world.gradients is horovod; set it to false, or "
            "gradients to ddp",
        ),
    ],
)
def test_every_wrong_word_is_answered(values, said):
    assert complaint(values).startswith("job.yaml: " + said)


@pytest.mark.parametrize(
    ("section", "key"),
    [(None, "name"), (None, "model"), (None, "training"), ("model", "name"), ("training", "lr")],
)
def test_what_has_no_default_must_be_there(section, key):
    values = copy.deepcopy(SHORTEST)
    del (values[section] if section else values)[key]
    assert complaint(values) == f"job.yaml: {f'{section}.{key}' if section else key} is missing; add it"


def test_the_batch_has_a_sample_for_each_rank_and_accumulated_batch():
    training = check(job(training={"global_batch": 24, "accumulate": 2})).training
    assert training.batch(1) == training.batch(5) == training.batch(12) == 24
    with pytest.raises(ValueError) as caught:
        training.batch(13)
    assert str(caught.value) == (
        "training.global_batch is 24, too small for 13 ranks x 2 accumulated batches; use at least 26, or "
        "training.batch_per_rank"
    )
    per_rank = check(job(training={"global_batch": None, "batch_per_rank": 3, "accumulate": 2})).training
    assert [per_rank.batch(n) for n in (1, 5)] == [6, 30]


@pytest.mark.parametrize(
    ("batch", "accumulate", "n_ranks", "n_usual", "on_these"),
    [
        (2048, 1, 56, 64, 2),  # 36 or 37 samples at once would be more than 32
        (2048, 1, 32, 64, 2),
        (2048, 3, 56, 64, 4),
        (60, 1, 3, 4, 2),
        (60, 1, 6, 7, 2),
        (50, 1, 3, 3, 1),
        (7, 1, 1, 7, 7),
    ],
)
def test_on_fewer_ranks_no_more_samples_are_trained_on_at_once(batch, accumulate, n_ranks, n_usual, on_these):
    training = check(job(training={"global_batch": batch, "accumulate": accumulate})).training
    assert training.accumulate_on(n_ranks, n_usual) == on_these
    assert -(-batch // (n_ranks * on_these)) <= -(-batch // (n_usual * accumulate))


def test_the_rate_grows_with_the_ranks_only_where_the_job_says_so():
    assert check(job(training={"lr": 0.1})).training.peak_lr(32) == 0.1
    assert check(job(training={"lr": 0.1, "lr_scaling": "ranks"})).training.peak_lr(32) == pytest.approx(3.2)


# Files that are no jobs.


def test_a_key_given_twice_is_an_error_that_tells_the_line(file):
    text = yaml.safe_dump(SHORTEST, sort_keys=False) + "seed: 1\nseed: 2\n"
    said = complaint_about_file(file(text))
    assert f"key seed stands twice, line {len(text.splitlines())}; keep one" in said
    nested = complaint_about_file(file("training:\n  lr: 1\n  lr: 2\n"))
    assert "key lr stands twice, line 3; keep one" in nested


def test_a_key_given_twice_after_a_merge_is_told_with_its_own_line(file):
    said = complaint_about_file(file("base: &base {a: 1}\nsub:\n  <<: *base\n  b: 1\n  c: 1\n  b: 2\n"))
    assert "key b stands twice, line 6; keep one" in said


def test_a_file_that_is_not_there_is_answered_with_its_neighbour(tmp_path):
    (tmp_path / "digits.yaml").touch()
    wanted = tmp_path / "digit.yaml"
    assert complaint_about_file(wanted) == f"{wanted}: no such file; did you mean {tmp_path / 'digits.yaml'}?"
    nowhere = tmp_path / "x" / "y.yaml"
    assert complaint_about_file(nowhere) == f"{nowhere}: no such file"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found None, but a mapping of sections is needed"),
        (b"- 1\n", "found [1], but a mapping of sections is needed"),
        (b"a: [1\n", "not valid YAML ("),
        (b"\xff\xfe\xfa", "cannot be read (not UTF-8 text)"),
        (b"a: \x07\n", "not valid YAML ("),
        (b"[" * 100_000, "nested too deeply"),
        (b"seed: !!int ''\n", "not valid YAML ("),
        (b"seed: !!float ''\n", "not valid YAML ("),
        (b"seed: !!bool maybe\n", "not valid YAML ("),
        (b"seed: !!timestamp noon\n", "not valid YAML ("),
        (b"seed: !!map [a]\n", "not valid YAML ("),
        (b"[a]: 1\n", "not valid YAML ("),
        (b"seed: " + b"1" * 5000, "not valid YAML ("),
        (b"data: {name: 0x" + b"F" * 5000 + b"}", "unknown data.name "),
        (
            b"{data: {name: squares}, selection: {method: random, fraction: 0x" + b"F" * 5000 + b"}}",
            "selection.fraction is ",
        ),
    ],
)
def test_a_file_that_is_no_job_is_answered_in_one_line(tmp_path, content, found):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    said = complaint_about_file(path)
    assert said.startswith(f"{path}: ") and found in said and "\n" not in said


def test_a_folder_is_no_job(tmp_path):
    assert complaint_about_file(tmp_path) == f"{tmp_path}: cannot be read (Is a directory); give a YAML file"


def test_yaml_that_would_run_something_runs_nothing(tmp_path, file):
    trace = tmp_path / "was_here"
    for tag in (f"!!python/object/apply:os.mkdir [{trace}]", f"!!python/object/new:os.mkdir [{trace}]"):
        assert "not valid YAML" in complaint_about_file(file(f"name: {tag}\n"))
        assert "not valid YAML" in complaint_about_file(file(SHORTEST), f"name={tag}")
    assert not trace.exists()


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, b"\xff", {1: 2}, {"a"}, object()])
def test_options_of_a_model_are_plain_values_so_that_the_resolved_job_says_the_same(value):
    assert complaint(job(model={"options": {"a": value}})).startswith("job.yaml: model.options")


def test_options_of_a_model_that_hold_themselves_are_an_error(file):
    text = yaml.safe_dump(SHORTEST).replace(
        "name: small_cnn", "name: small_cnn\n  options: &itself {a: *itself}"
    )
    assert ": model.options" in complaint_about_file(file(text))


# Whatever stands in a job, the answer is a job or a JobError of one line.

keys = st.one_of(
    st.sampled_from(
        ["name", "seed", "training", "lr", "method", "options", "int", "float", "str", "none", "max_fraction"]
    ),
    st.text(max_size=5),
    st.sampled_from([1, None, True, 2.5]),
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([-1, 30, 10**400]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.dates(), st.binary(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def almost_jobs(draw):
    """A job, with one to three keys of it changed, added or taken away, anywhere."""
    changed = copy.deepcopy(draw(st.sampled_from([SHORTEST, LONGEST])))
    for _ in range(draw(st.integers(1, 3))):
        section = draw(
            st.sampled_from([None, *(name for name, value in changed.items() if isinstance(value, dict))])
        )
        target = changed[section] if section else changed
        key = draw(st.one_of(st.sampled_from(sorted(target, key=str)), keys)) if target else draw(keys)
        if draw(st.booleans()):
            target[key] = draw(values)
        else:
            target.pop(key, None)
    return changed


def answer(ask):
    """Return the job, or None where it was refused; anything but a JobError of one printable line is a
    failure.
    """
    try:
        return ask()
    except JobError as problem:
        assert str(problem).splitlines() == [str(problem)], "more than one line"
        str(problem).encode()
        return None


@given(almost_jobs())
def test_no_value_anywhere_raises_anything_but_a_job_error(values):
    accepted = answer(lambda: check(values))
    if accepted is not None:
        assert check(accepted.as_dict()) == accepted


@given(
    st.one_of(
        values.map(lambda v: v if isinstance(v, dict) else {"a": v}),
        st.dictionaries(keys, values, max_size=4),
    )
)
def test_no_mapping_raises_anything_but_a_job_error(values):
    answer(lambda: check(values))


@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from(list("ab:-[]{}&*!|>'\"%@#?<=. \n\t1e_0x~,")), max_size=25).map("".join),
    )
)
def test_no_text_raises_anything_but_a_job_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    answer(lambda: read(path))


@given(st.text(max_size=20), values)
def test_no_override_raises_anything_but_a_job_error(tmp_path_factory, text, value):
    path = tmp_path_factory.getbasetemp() / "short.yaml"
    path.write_text(yaml.safe_dump(SHORTEST), encoding="utf-8")
    for override in (text, f"training.lr={text}", f"{text}={value!r}", f"model.options.{text}={text}"):
        answer(lambda: read(path, override))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_two_samples_and_choosing_by_the_loss_is_an_error(name):
    assert check(job(training={name: 0.2})).training
    message = complaint(job(training={name: 0.2}, selection={"method": "infobatch"}))
    assert message.startswith(f"job.yaml: training.{name} is 0.2 with selection.method infobatch")
    assert "belongs to two samples" in message


@pytest.mark.parametrize("smooth", ["label_smoothing", "mixup"])
def test_focal_loss_has_hard_targets(smooth):
    assert "criterion is focal" in complaint(job(training={"criterion": "focal", smooth: 0.1}))


@pytest.mark.parametrize(
    "number", ["010", "-07", "00", "089", "1:30", "12:30:45", "1:30.5", "[1, 010]", "{a: 1:30}"]
)
def test_a_number_that_two_versions_of_yaml_read_differently_is_refused(number):
    with pytest.raises(yaml.YAMLError, match="plain decimal number, or quote it"):
        load_yaml(f"a: {number}")
    with pytest.raises(JobError, match=f"^--set seed={re.escape(number)}: .*, or quote it"):
        set_value({}, f"seed={number}")


def test_text_that_looks_like_a_number_comes_back_as_text():
    values = {
        "a": "089",
        "b": "1e5",
        "c": "1:30",
        "d": [1e-5, 0, 0.5, "010", None, True, "no"],
        "e": "2024-01-01",
    }
    assert load_yaml(dump_yaml(values)) == values


def test_a_number_for_a_text_is_told_to_be_quoted():
    with pytest.raises(JobError, match="name is 12, but must be a string; quote it"):
        check_job(SHORTEST | {"name": 12}, "j.yaml", DATA, METHODS)


def test_home_and_variables_of_a_path_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    assert (
        expand_path("~/x") == "/home/me/x" and expand_path("$SCRATCH/x/${HOME}") == "/scratch/me/x//home/me"
    )
    assert expand_path("./~") == "./~" and expand_path("a~b$") == "a~b$"
    for unknown in ("~nobody_at_all/x", "$NOT_SET_HERE/x", "a/${NOT_SET_HERE}"):
        with pytest.raises(ValueError, match="not known here"):
            expand_path(unknown)


def test_a_job_changes_the_job_that_it_is_based_on(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: digits_kakurenbo\nname: mine\ntraining: {lr: 0.2}\nselection: {max_fraction: 0.1}\n"
    )
    (tmp_path / "other.yaml").write_text("base: mine.yaml\nname: other\nselection: {method: everything}\n")
    shipped, mine, other = (
        read_job(find_job(job), [], DATASETS, METHODS).as_dict()
        for job in ("digits_kakurenbo", tmp_path / "mine.yaml", tmp_path / "other.yaml")
    )
    assert mine["training"] == shipped["training"] | {"lr": 0.2} == other["training"]
    assert mine["selection"] == shipped["selection"] | {"max_fraction": 0.1}
    assert (other["selection"], other["name"]) == ({"method": "everything"}, "other")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("mine.yaml", r"mine.yaml: is the base of 5 jobs, one upon the other; use at most that many"),
        ("digits_kakurenb", "no job of that name comes with the package; did you mean digits_kakurenbo"),
        ("[a]", r"mine.yaml: base is \['a'\], but must be the name or the path of a job"),
    ],
)
def test_a_base_that_cannot_be_is_told(tmp_path, base, message):
    (tmp_path / "mine.yaml").write_text(f"base: {base}\nname: mine\n")
    with pytest.raises(JobError, match=message):
        read(tmp_path / "mine.yaml")


def test_no_part_of_a_batch_is_empty_on_fewer_ranks():
    training = check(job(training={"global_batch": 4})).training
    assert [training.accumulate_on(n, 4) for n in (1, 2, 3, 4)] == [4, 2, 1, 1]
