"""Every comparison that comes with the package can be run: its jobs are checked whole, at both sizes."""

import re

import pytest
from support.comparisons import read_comparison
from support.paper_jobs import COMPARISONS

from kakurenbo_hpc.compare.spec import BASELINE
from kakurenbo_hpc.config.augmentation_options import parse_step
from kakurenbo_hpc.config.job import Model, Record
from kakurenbo_hpc.config.package_files import find_job, jobs_dir
from kakurenbo_hpc.config.training_options import Training
from kakurenbo_hpc.report.figures import FIGURES

FILES = sorted((jobs_dir() / "evidence").glob("*.yaml"))
NAMED = """kak_t3 kak_t5 kak_f5 info_t1 info_t3 info_t4 info_f3a info_f3b info_t6 sb_t1 sb_f11 sb_f12 sb_f13
si_t1 si_f5 si_f8 si_f10 si_f20 si_f21 si_f22 si_controls si_t2"""


def test_every_figure_that_can_be_compared_here_has_its_file():
    assert {path.stem for path in FILES} >= set(NAMED.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_a_comparison_says_what_it_shows_and_its_jobs_are_right(path, quick):
    comparison, entries = read_comparison(path, quick)
    assert comparison.name == path.stem and comparison.shows
    assert BASELINE in entries and set(comparison.contenders) < set(entries)
    assert quick or len(comparison.seeds) >= 3
    for name in comparison.contenders:
        selection = entries[name].job.selection
        assert selection.method != "infobatch" or selection.exact_share, "the authors' code prunes so"
        # Sample importance compares in steps, so that what leaves samples out repeats the others.
        as_long = selection.method != "static" or selection.budget == "steps"
        assert as_long or not path.stem.startswith("si_"), name


def test_the_five_augmentations_of_an_image_differ_as_in_the_paper():
    _, entries = read_comparison(jobs_dir() / "evidence" / "si_t2.yaml")
    for entry in entries.values():
        names = [[step.name for step in map(parse_step, steps)] for steps in entry.job.data.repeats]
        assert names == [["crop"]] * 2 + [["auto_augment"], ["rand_augment"], ["trivial_augment_wide"]]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_table_of_a_paper_is_a_comparison_of_its_jobs(path):
    comparison, entries = read_comparison(path)
    assert comparison.name == f"{path.parent.name}_{path.stem}" and comparison.shows
    for name, contender in comparison.contenders.items():
        job, baseline = entries[name].job, entries[contender.against].job
        assert (
            contender.job is None
            or job.selection.method == BASELINE
            or (job.data, baseline.selection.method) == (baseline.data, BASELINE)
        ), f"{name} is measured against another data set"


README = (jobs_dir() / "evidence" / "README.md").read_text(encoding="utf-8")
JOB = {"record": Record, "training": Training, "model": Model}
N_FIGURES = {
    "KAKURENBO": 6,
    "InfoBatch": 5,
    "Selective-Backprop": 18,
    "Sample Importance in SGD Training": 23,
}


def test_every_figure_of_the_papers_has_its_line():
    sections = dict(part.split("\n", 1) for part in README.split("\n## ")[1:])
    for paper, n in N_FIGURES.items():
        cells = re.findall(r"^\| ([^|]+) \|", sections[paper], re.MULTILINE)
        assert {int(number) for cell in cells for number in re.findall(r"F(\d+)", cell)} == set(
            range(1, n + 1)
        )


def test_what_the_lines_of_the_figures_name_is_there():
    lines = [line for line in README.splitlines() if line.startswith("|")]
    assert len(lines) > 60
    for line in lines:
        commands = " ".join(re.findall(r"`([^`]+)`", line))
        figures = re.findall(r"(?:\bR|--figure) (\w+)", commands)
        assert set(figures) <= FIGURES.keys(), line
        for name in re.findall(r"\bE (\w+)", commands):
            assert (jobs_dir() / "evidence" / f"{name}.yaml").exists() or "is not written" in line, line
        for name in re.findall(r"(?:\bP|kakurenbo (?:train|launch|submit)) (\S+)", commands):
            assert find_job(name)
        for script in re.findall(r"scripts/\w+\.py", commands):
            assert (jobs_dir().parent / script).exists()
        for key in re.findall(r"--set ([\w.]+)=", commands):
            section, name = key.split(".")
            assert section == "data" or name in JOB[section].model_fields, line


def test_the_figures_of_comparisons_are_known():
    assert all(set(read_comparison(path)[0].pictures) <= FIGURES.keys() for path in FILES)
