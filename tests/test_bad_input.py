"""Every wrong word is answered in one line with exit code 2, without a traceback, and leaves nothing on disk."""

import sys

import pytest
from ranks import train

from kakurenbo_hpc import cli

GOOD = "digits_kakurenbo"

CASES = {
    "no job file": (["nope.yaml"], "nope.yaml: no such job file"),
    "a shipped job misspelt": (["digits_kakurembo"], "did you mean digits_kakurenbo"),
    "not YAML": (["broken.yaml"], "broken.yaml: not valid YAML"),
    "a list": (["list.yaml"], "list.yaml: found ['a'], but a mapping"),
    "an unknown key": ([GOOD, "--set", "training.epoch=5"], "training.epoch is no key that is known; did you mean epochs?"),
    "an unknown section": ([GOOD, "--set", "trainin.epochs=5"], "trainin is no key that is known; did you mean training?"),
    "a wrong type": ([GOOD, "--set", "training.epochs=five"], "training.epochs is 'five', but must be an integer"),
    "a percent": ([GOOD, "--set", "selection.max_fraction=30"], "is 30, but must be in [0, 1); write 0.3 for 30 percent"),
    "an unknown method": ([GOOD, "--set", "selection.method=kakurembo"], "did you mean kakurenbo?"),
    "another method's option": ([GOOD, "--set", "selection.prune_ratio=0.5"], "selection.prune_ratio is an option of infobatch, not of kakurenbo"),
    "unknown data": ([GOOD, "--set", "data.name=digit"], "did you mean digits?"),
    "an unknown augmentation": ([GOOD, "--set", "data.augmentation=[flop]"], "data.augmentation.0 is 'flop', but must be 'flip', 'crop'"),
    "a class that is not there": ([GOOD, "--set", "data.drop_classes=[12]"], "names class 12, but digits has classes 0 to 9; remove it"),
    "an unknown model": ([GOOD, "--set", "model.name=resnet81"], "model.name is 'resnet81', which nobody knows; did you mean resnet18"),
    "a model that does not fit": ([GOOD, "--set", "model.name=alexnet"], "cannot be built for inputs of shape (1, 8, 8)"),
    "a model's unknown option": ([GOOD, "--set", "model.options={wdth: 3}"], "cannot be built"),
    "an unknown optimizer": ([GOOD, "--set", "training.optimizer=sdg"], "training.optimizer is 'sdg', which nobody knows; did you mean sgd"),
    "both batch keys": ([GOOD, "--set", "training.batch_per_rank=5"], "exactly one of global_batch and batch_per_rank is needed, but both are"),
    "neither batch key": ([GOOD, "--set", "training.global_batch=null"], "exactly one of global_batch and batch_per_rank is needed, but neither is"),
    "a batch that does not divide": ([GOOD, "--set", "training.accumulate=7"], "not divisible by 1 ranks x 7 accumulated batches"),
    "synchronised statistics without GPUs": ([GOOD, "--set", "training.sync_batchnorm=true"], "set it to false"),
    "an override without a value": ([GOOD, "--set", "training.epochs"], "not of the form section.key=value"),
    "gamma that is not finite": (
        [GOOD, "--set", "selection={method: sample_importance, gamma: .nan}"], "selection.gamma is nan, but must be a finite number"),
    "no score file": (
        [GOOD, "--set", "selection={method: static, scores: none.h5}"], "none.h5: no such score file; write one with kakurenbo score"),
    "mixing and selecting": ([GOOD, "--set", "training.mixup=0.2"], "its loss belongs to two samples"),
    "nothing to resume": ([GOOD, "--resume"], "--resume was given, but no run is there"),
    "no such option": ([GOOD, "--fast"], "No such option: --fast"),
    "no job at all": ([], "Missing argument 'JOB'"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_code_2(case, tmp_path, monkeypatch, capsys):
    words, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- a")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["kakurenbo", "train", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    told = capsys.readouterr()
    assert left.value.code == 2
    (line,) = told.err.splitlines()
    assert line.startswith("kakurenbo: ") and message in line
    assert sorted(tmp_path.rglob("*")) == before, "nothing created or changed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([GOOD, "--set", "training.global_batch=50"], "training.global_batch is 50, not divisible by 3 ranks"),
        ([GOOD, "--set", "model.name=resnet81"], "did you mean resnet18"),
    ],
)
def test_several_ranks_say_it_once_and_leave_together(words, message, tmp_path):
    done = train(3, *words, "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    ours = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert len(ours) == 1 and message in ours[0] and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_directory_of_another_job_is_refused(tmp_path):
    short = ["--set", "training.epochs=2", "--run-dir", tmp_path / "run"]
    assert train(1, GOOD, *short).returncode == 0
    for words, message in [
        (["digits_everything", *short, "--resume"], "holds the run of another job (name was 'digits_kakurenbo', is 'digits_everything'"),
        ([GOOD, *short], "a run is there, checkpointed in epoch_0001; add --resume"),
    ]:
        done = train(1, *words)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_more_ranks_than_samples_is_refused(tmp_path, monkeypatch):
    from kakurenbo_hpc.data import DATA
    from kakurenbo_hpc.errors import DataError
    from kakurenbo_hpc.job import read_job
    from kakurenbo_hpc.places import find_job
    from kakurenbo_hpc.run import fitting_batch
    from kakurenbo_hpc.selection import METHODS

    job = read_job(find_job(GOOD), [], DATA, METHODS)
    with pytest.raises(DataError, match="digits has 1437 samples for 2000 ranks"):
        fitting_batch(job, 1437, 2000)
