"""Every key is explained in one place: on the command line, as JSON Schema, in the READMEs."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from kakurenbo_hpc.cli import app
from kakurenbo_hpc.config.package_files import jobs_dir
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.explain.keys import comparison_keys, job_keys, machine_keys, own_keys
from kakurenbo_hpc.explain.schema import KINDS, schema
from kakurenbo_hpc.explain.text import explain
from kakurenbo_hpc.selection import METHODS

ROOT = Path(__file__).parents[2]
JOBS = [path for path in sorted(jobs_dir().rglob("*.yaml")) if "\ncontenders:" not in path.read_text()]
COMPARISONS = [path for path in sorted(jobs_dir().rglob("*.yaml")) if path not in JOBS]
MACHINES = sorted((ROOT / "launch" / "machines").glob("*.yaml"))


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)), standalone_mode=False)


def every_key():
    yield from job_keys()
    yield from machine_keys()
    yield from comparison_keys()
    for name in METHODS.own:
        yield from own_keys(METHODS[name], "method", "selection.")
    for name in DATASETS.own:
        yield from own_keys(DATASETS[name], "name", "data.")


def test_every_key_has_a_description():
    assert not [key.name for key in every_key() if not key.description]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("selection.max_fraction", ["number", "default 0.3", "fraction", "[kakurenbo]"]),
        ("selection.kakurenbo", ["Nguyen", "selection.drop_top", "DropTop"]),
        ("data.deepcam", ["data.path", "stats.h5"]),
        ("training.lr", ["required", "number above 0"]),
        ("machine.grace_s", ["seconds", "default 180"]),
        ("record", ["record.keep", "record.hang_timeout"]),
        ("comparison.seeds", ["list of integer"]),
    ],
)
def test_a_key_is_explained(name, words):
    text = explain(name)
    assert not [word for word in words if word not in text], text


def test_the_tree_holds_every_key_of_job_and_machine():
    tree = explain(None)
    assert not [key.name for key in [*job_keys(), *machine_keys()] if key.name not in tree]


def test_an_unknown_key_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown key training.learning_rate; did you mean"):
        explain("training.learning_rate")


@pytest.mark.parametrize(
    ("kind", "paths"), [("job", JOBS), ("machine", MACHINES), ("comparison", COMPARISONS)]
)
def test_the_shipped_files_fit_their_schema(kind, paths):
    validator = jsonschema.Draft7Validator(schema(kind))
    assert len(paths) > 2
    for path in paths:
        found = list(validator.iter_errors(yaml.safe_load(path.read_text())))
        assert not found, f"{path}: {found[0].message}"


@pytest.mark.parametrize(
    "change",
    [
        {"frobnicate": 1},
        {"training": {"epochs": "ten", "lr": 0.1}},
        {"selection": {"method": "kakurenbo", "max_fractoin": 0.3}},
        {"data": {"name": "digits", "pixels": 8}},
        {"data": {}},
        {"selection": {"max_fraction": 0.3}},
        {"base": "digits_kakurenbo", "training": {"lr": -0.1}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(change):
    job = yaml.safe_load((jobs_dir() / "digits_kakurenbo.yaml").read_text())
    assert list(jsonschema.Draft7Validator(schema("job")).iter_errors(job | change))


def test_nothing_generated_is_stale():
    command = [sys.executable, ROOT / "scripts" / "make_docs", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_printed(kind):
    assert json.loads(run("schema", kind).stdout)["title"] == f"kakurenbo {kind}"


def test_methods_and_data_sets_are_listed_with_their_origin():
    assert "kakurenbo_hpc  KAKURENBO" in run("methods").stdout and "visual_atoms" in run("datasets").stdout


def test_models_are_listed_by_a_word():
    found = run("models", "resnet50").stdout
    assert "resnet50" in found and "timm" in found and "small_cnn" not in found
    assert "\ntorchvision/resnet50 " in found, "timm has one of that name, too"


@pytest.mark.parametrize(("kind", "name"), [("job", "digits_kakurenbo"), ("machine", "slurm_v100")])
def test_a_new_file_is_a_copy_whose_schema_is_found(kind, name, tmp_path):
    out = tmp_path / "deep" / "mine.yaml"
    out.parent.mkdir()
    assert run("new", kind, name, "--out", out).exit_code == 0
    first, *rest = out.read_text().splitlines()
    assert (out.parent / first.partition("$schema=")[2]).resolve() == jobs_dir() / "schema" / f"{kind}.json"
    folder = jobs_dir() if kind == "job" else ROOT / "launch" / "machines"
    assert rest == (folder / f"{name}.yaml").read_text().splitlines()[1:]
    with pytest.raises(UserError, match="is there already"):
        raise run("new", kind, name, "--out", out).exception
