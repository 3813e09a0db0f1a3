"""Comparisons and scores go through launch and submit: what is started, and what is refused before."""

import sys

import pytest
import yaml

from kakurenbo_hpc import cli
from kakurenbo_hpc.compare.entries import list_entries
from kakurenbo_hpc.compare.spec import read_comparison

TINY = {
    "name": "tiny",
    "job": "digits_everything",
    "set": {"training": {"epochs": 3, "warmup_epochs": 0}},
    "contenders": {
        "kakurenbo": {"selection": {"method": "kakurenbo", "max_fraction": 0.5}},
        "el2n": {"scores": {"method": "el2n", "epochs": 1}, "selection": {"fraction": 0.4}},
    },
    "seeds": [1, 2],
    "quick": {"seeds": [1]},
}
SUBMIT = ["--machine", "machine.yaml", "--walltime", "1h"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command line, in a folder with a comparison, and an sbatch that logs its arguments."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/sh\necho "$@" >> "$HERE/told"\nwc -l < "$HERE/told"\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.chdir(tmp_path)
    machine = {"name": "here", "scheduler": "slurm", "starter": "mpirun", "ranks_per_node": 2}
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump(machine))
    (tmp_path / "gpus.yaml").write_text("name: here\nstarter: mpirun\ngpus_per_node: 2\n")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({**TINY, "set": {"data": {"placement": "local"}}}))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kakurenbo", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code, *capsys.readouterr())

    return call


def test_a_comparison_is_one_array_and_a_last_job_that_reads_the_same_runs(call, tmp_path):
    sets = ["--set", "training.lr=0.01", "--out", "out", "--force", "--limit", 1]
    code, out, err = call("submit", "compare", "tiny.yaml", *SUBMIT, *sets)
    assert code == 0, err
    array, last = (tmp_path / "told").read_text().splitlines()
    assert array == "--parsable --array=0-3%1 script.sh"
    assert last == "--parsable --dependency=afterany:1 --kill-on-invalid-dep=yes script.sh"
    batch = tmp_path / "out" / "tiny" / "batch"
    script = (batch / "script.sh").read_text()
    assert 'launch compare "$run/batch/job.yaml" --machine' in script and f"--out {tmp_path}/out" in script
    entries = list_entries(*read_comparison(batch / "job.yaml"), "resolved")
    submitted = {path.parents[1].name for path in (tmp_path / "out").glob("runs/*/batch/jobs.txt")}
    named = {entries[name].named(seed, 2).name for name in ("everything", "kakurenbo") for seed in (1, 2)}
    assert submitted == named and entries["el2n"].scores.epochs == 1
    assert entries["everything"].job.training.lr == 0.01

    (tmp_path / "told").unlink()  # a run that is done is not submitted again, nor is one that is in the queue
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 'RUNNING|None|0:02|N/A|1_0'\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    code, _, err = call("submit", "compare", "tiny.yaml", *SUBMIT, *sets)
    assert code == 2 and "job 1_0 is running; wait, or end it" in err
    for run in (tmp_path / "out" / "runs").iterdir():
        (run / "metrics.jsonl").write_text("{}\n" * 3)
    (batch / "jobs.txt").unlink()
    assert call("submit", "compare", "tiny.yaml", *SUBMIT, *sets)[0] == 0
    assert (tmp_path / "told").read_text() == "--parsable script.sh\n"


def test_scores_are_a_job(call, tmp_path):
    words = ["digits_everything", *SUBMIT, "--epochs", 2, "--set", "data.placement=local", "--force"]
    code, out, err = call("submit", "score", "el2n", *words)
    assert code == 0, err
    batch = tmp_path / "runs" / "digits_everything_el2n" / "batch"
    script = (batch / "script.sh").read_text()
    assert 'launch score el2n "$run/batch/job.yaml" --machine "$run/batch/machine.yaml"' in script
    assert f"--nodes 1 --out {tmp_path}/scores.h5 --epochs 2\n" in script


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["compare", "tiny.yaml", "--ranks", 2, "--quick", "--set", "seed=3"],
            "compare tiny.yaml --out compare --set seed=3 --quick",
        ),
        (
            ["score", "grand", "digits_everything", "--ranks", 2, "--last-layer"],
            "--out {}/scores.h5 --last-layer",
        ),
    ],
)
def test_launch_starts_ranks_of_it(words, line, call, tmp_path):
    code, out, _ = call("launch", *words, "--dry-run")
    assert code == 0 and f" -m kakurenbo_hpc.cli {words[0]} " in out and line.format(tmp_path) in out
    assert "mpirun -n 2 " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch", "compare", "tiny.yaml", "--ranks", 61], "training.global_batch is 60, too small for 61"),
        (["submit", "compare", "tiny.yaml", *SUBMIT, "--nodes", 31], "60, too small for 62 ranks"),
        (["launch", "score", "el2n", "digits_everything", "--ranks", 61], "60, too small for 61 ranks"),
        (["submit", "score", "el2n", "digits_everything", *SUBMIT, "--nodes", 31], "60, too small for 62"),
        (
            ["launch", "compare", "local.yaml", "--ranks", 2],
            "data.placement is local, but local has no scratch",
        ),
        (["submit", "compare", "local.yaml", *SUBMIT], "data.placement is local, but here has no scratch"),
        (
            ["launch", "compare", "tiny.yaml", "--ranks", 6000, "--set", "training.global_batch=6000"],
            "cores may be used here; start at most 8 ranks a core",
        ),
        (
            ["launch", "score", "el2n", "digits_everything", "--ranks", 6000]
            + ["--set", "training.global_batch=6000"],
            "cores may be used here; start at most 8 ranks a core",
        ),
        (
            ["launch", "compare", "tiny.yaml", "--machine", "gpus.yaml", "--ranks", 2],
            "gpus_per_node is 2, but 0 GPUs are visible here to 2 ranks",
        ),
        (
            ["launch", "score", "el2n", "digits_everything", "--ranks", 2000, "--oversubscribe"]
            + ["--set", "training.global_batch=2000"],
            "digits has 1437 samples for 2000 ranks; use at most one rank a sample",
        ),
        (
            ["submit", "score", "el3n", "digits_everything", *SUBMIT],
            "score el3n: no such scoring method; did",
        ),
        (
            ["launch", "score", "el3n", "digits_everything"],
            "score el3n: no such scoring method; did you mean",
        ),
        (["launch", "compare", "tinny.yaml"], "tinny.yaml: no such job file"),
        (["submit", "compare", "tiny.yaml", "--quick", "--methods", "x", *SUBMIT], "choose one"),
        (["submit", "compare", "tiny.yaml"], "Missing option '--machine'"),
        (["submit", "compare", *SUBMIT], "kakurenbo submit compare --help"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_started(words, message, call, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    assert sorted(tmp_path.rglob("*")) == before
