"""A data file that disappears while ranks train: all end, its name and the rank are the last words, and the
run goes on when it is back.
"""

import subprocess

import pytest
import yaml
from ranks.programs.digit_files import write_digits
from support.batch_runs import metrics, until
from support.start_ranks import PROGRAMS, command, environment, start

EPOCHS = 25
JOB = {
    "name": "digit_files",
    "data": {"name": "digit_files"},
    "model": {"name": "small_cnn", "options": {"width": 4}},
    "training": {"epochs": EPOCHS, "global_batch": 30, "lr": 0.05},
    "selection": {"method": "everything"},
}


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_a_data_file_that_disappears_is_named_with_the_rank_that_misses_it(workers, tmp_path):
    run, file = tmp_path / "run", tmp_path / "data" / "train" / "00007.npy"
    write_digits(tmp_path / "data", 90, 30)
    job = tmp_path / "job.yaml"
    job.write_text(
        yaml.safe_dump({**JOB, "data": {**JOB["data"], "path": str(tmp_path / "data"), "workers": workers}})
    )
    run.mkdir()
    words = [PROGRAMS / "digit_files.py", "nothing", run, job]
    started = subprocess.Popen(
        [*command("mpirun", 2), *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: metrics(run) or started.poll() is not None, lambda: "no epoch has ended", every=0.01)
    file.rename(tmp_path / "moved")
    _, told = started.communicate(timeout=60)
    assert started.returncode not in (0, 2, 75), told
    said = [line for line in told.splitlines() if line.startswith("kakurenbo: rank ")]
    assert said and " of 2 on " in said[-1], told
    assert said[-1].endswith(
        f": DataError: {file}: cannot be read (No such file or directory); put it back, and add --resume "
        "to go on"
    )
    (tmp_path / "moved").rename(file)
    n_before = len(metrics(run))
    again = start(2, *words, "--resume")
    assert again.returncode == 0 and len(metrics(run)) == EPOCHS > n_before, again.stderr[-3000:]
