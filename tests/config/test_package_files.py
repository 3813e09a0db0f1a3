"""A job is found as a person names it, and a name that nobody knows is answered in one line."""

from pathlib import Path

import pytest

from kakurenbo_hpc.config.package_files import find_job, jobs_dir, launch_dir
from kakurenbo_hpc.errors import JobError

SHIPPED = jobs_dir() / "digits_kakurenbo.yaml"


def test_what_comes_with_the_package_is_there():
    assert SHIPPED.is_file()
    assert (launch_dir() / "machines" / "local.yaml").is_file()


@pytest.mark.parametrize(
    "name",
    ["digits_kakurenbo", "digits_kakurenbo.yaml", "jobs/digits_kakurenbo", "jobs/digits_kakurenbo.yaml"],
)
def test_a_shipped_job_is_found_by_its_name_from_anywhere(name, tmp_path, monkeypatch):
    (tmp_path / "digits_kakurenbo").mkdir()  # a run directory of that name is no job
    monkeypatch.chdir(tmp_path)
    assert find_job(name) == SHIPPED


def test_a_file_as_it_is_named_comes_before_a_shipped_job(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "digits_kakurenbo.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert find_job("jobs/digits_kakurenbo.yaml") == Path("jobs/digits_kakurenbo.yaml")


def test_a_dot_in_a_name_is_part_of_it_and_folders_count(tmp_path, monkeypatch):
    (tmp_path / "evidence").mkdir()
    job = tmp_path / "evidence" / "digits_lr0.1.yaml"
    job.touch()
    monkeypatch.setattr("kakurenbo_hpc.config.package_files.jobs_dir", lambda: tmp_path)
    assert find_job("evidence/digits_lr0.1") == find_job("jobs/evidence/digits_lr0.1.yaml") == job
    with pytest.raises(JobError):
        find_job("evidence/digits_lr0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits_kakurenb", "digits_kakurenb: no such job file, .*; did you mean digits_kakurenbo"),
        (
            "/none/digits_everythin.yaml",
            "/none/digits_everythin.yaml: no such job file, .*; did you mean digits_everything",
        ),
        ("/none/digits_kakurenbo.yaml", "no such job file"),
        ("", ": no such job file, .*; known: .*digits_kakurenbo"),
        (".", "no such job file"),
        ("jobs", "no such job file"),
        ("x" * 5000, "no such job file"),
    ],
)
def test_an_unknown_job_names_the_nearest(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=said) as raised:
        find_job(name)
    assert "\n" not in str(raised.value)
