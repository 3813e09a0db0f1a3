"""A package of somebody else's adds a method, a data set, a model, a scheduler and a launcher, without a
fork.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.start_ranks import environment, train

STRANGER = Path(__file__).parent / "support" / "stranger"
JOB = {
    "name": "strange",
    "data": {"name": "stripes", "samples": 60},
    "model": {"name": "one_layer"},
    "training": {"epochs": 2, "global_batch": 12, "lr": 0.1},
    "selection": {"method": "every_other"},
}
MACHINE = {"name": "theirs", "scheduler": "grid", "starter": "by_hand", "ranks_per_node": 1}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Install the package as pip does, into a folder of its own."""
    source = tmp_path_factory.mktemp("source") / "stranger"
    subprocess.run(["cp", "-r", STRANGER, source], check=True)
    folder = tmp_path_factory.mktemp("packages")
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run([*words, "--target", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installed(packages, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(packages))


def written(folder, name, values):
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def kakurenbo(*words, cwd=None):
    command = [sys.executable, "-m", "kakurenbo_hpc.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd)


def hidden(run):
    return [json.loads(line)["n_hidden"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def python(code, *words):
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


@pytest.mark.parametrize(
    "n_ranks",
    [pytest.param(1, marks=pytest.mark.unit), pytest.param(2, marks=pytest.mark.nightly)],
)
def test_its_method_data_and_model_train_by_name(n_ranks, installed, tmp_path):
    job = written(tmp_path, "job.yaml", JOB)
    done = train(n_ranks, job, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert hidden(tmp_path / "run") == [30, 30]


def test_a_module_beside_the_job_file_trains_on_two_ranks_and_resumes_from_anywhere(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thirds.py").write_text((STRANGER / "stranger" / "every_other.py").read_text())
    values = JOB | {
        "data": {"name": "digits"},
        "model": {"name": "small_cnn"},
        "selection": {"method": "thirds:EveryOther", "parts": 3},
    }
    job = written(tmp_path / "mine", "job.yaml", values)
    done = train(2, job, "--run-dir", tmp_path / "run", "--set", "training.epochs=1")
    assert done.returncode == 0, done.stderr
    resolved = written(tmp_path, "again.yaml", yaml.safe_load((tmp_path / "run" / "job.yaml").read_text()))
    words = ["--run-dir", tmp_path / "run", "--set", "training.epochs=2", "--resume", "--allow-changes"]
    done = train(2, resolved, *words)
    assert done.returncode == 0, done.stderr
    assert len(hidden(tmp_path / "run")) == 2


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": {"method": "every_other", "part": 3}}, "selection.part"),
        ({"selection": {"method": "every_other", "parts": "3"}}, "selection.parts is '3'"),
        ({"selection": {"method": "every_otter"}}, "every_other"),
        ({"data": {"name": "stripes", "sample": 3}}, "data.sample"),
        ({"selection": {"method": "nowhere.at_all:Mine"}}, "no module nowhere on the Python path"),
    ],
)
def test_its_keys_are_checked_as_everywhere(change, message, installed, tmp_path):
    done = kakurenbo("train", written(tmp_path, "job.yaml", JOB | change), "--run-dir", tmp_path / "run")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.unit
def test_its_scheduler_and_launcher_make_a_script_and_a_command_line(installed, tmp_path):
    job, machine = written(tmp_path, "job.yaml", JOB), written(tmp_path, "machine.yaml", MACHINE)
    done = kakurenbo("submit", job, "--machine", machine, "--walltime", "1h", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "#GRID --name strange" in done.stdout and "gridsub script.sh" in done.stderr
    done = kakurenbo("launch", job, "--machine", machine, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "kakurenbo_hpc.cli train" in done.stdout, done.stderr


CHECK = """
import sys
from importlib import import_module
from kakurenbo_hpc import testing

if __name__ == "__main__":
    check, path = sys.argv[1:]
    module, _, name = path.partition(":")
    try:
        getattr(testing, check)(getattr(import_module(module), name))
    except testing.LawBroken as broken:
        print(broken)
"""


@pytest.mark.unit
@pytest.mark.parametrize(
    ("check", "path", "law"),
    [
        ("check_method", "stranger.every_other:EveryOther", None),
        (
            "check_method",
            "stranger.every_other:LocalMedian",
            "the plan is the same for any split of the rows",
        ),
        ("check_method", "stranger.every_other:Unkeyed", "a plan depends on epoch and ledger alone"),
        ("check_method", "stranger.every_other:HidesNan", "a NaN loss counts as +inf"),
        ("check_method", "stranger.every_other:Overweight", "weights and learning rate are finite"),
        ("check_method", "stranger.every_other:Shy", "no plan hides more than max_hidden_fraction"),
        ("check_dataset", "stranger.stripes:Stripes", None),
        (
            "check_dataset",
            "stranger.stripes:Shuffled",
            "a sample of train is the same in any batch and order",
        ),
        ("check_scheduler", "stranger.grid:Grid", None),
        ("check_scheduler", "stranger.grid:Careless", "no name, path or value runs as a command"),
        ("check_scheduler", "stranger.grid:Forgetful", "a run that leaves with 75 is queued again"),
    ],
)
def test_the_laws_hold_or_the_one_that_does_not_is_named(check, path, law, installed, tmp_path):
    program = tmp_path / "check.py"
    program.write_text(CHECK)
    done = subprocess.run(
        [sys.executable, program, check, path], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(law) if law else done.stdout == "", done.stdout


@pytest.mark.unit
def test_nothing_of_it_is_imported_before_it_is_named(installed):
    code = """
import sys
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.selection import METHODS
assert METHODS.origins()["every_other"] == "stranger" and "stripes" in DATASETS
print("stranger" in sys.modules)
"""
    done = python(code)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.unit
def test_a_dataset_of_a_stranger_is_read_by_loader_processes(installed, tmp_path):
    values = JOB | {"data": JOB["data"] | {"workers": 1}}
    done = kakurenbo("train", written(tmp_path, "job.yaml", values), "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.unit
def test_a_package_of_the_same_name_as_ours_changes_nothing(tmp_path, monkeypatch):
    info = tmp_path / "bold-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bold\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kakurenbo_hpc.methods]\nkakurenbo = nowhere:Mine\n")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    done = python("from kakurenbo_hpc.selection import METHODS; print(METHODS['kakurenbo'].__module__)")
    assert done.stdout.strip() == "kakurenbo_hpc.selection.methods.kakurenbo", done.stderr
