"""Every comparison that comes with the package can be run: its jobs are checked whole, at both sizes."""

import functools
import re
import shlex

import pytest
from support.comparisons import read_comparison
from support.paper_jobs import COMPARISONS
from typer.main import get_command

from kakurenbo_hpc.cli.app import app
from kakurenbo_hpc.cli.arguments import read_job
from kakurenbo_hpc.cluster.machine import read_machine
from kakurenbo_hpc.compare.spec import BASELINE
from kakurenbo_hpc.config.augmentation_options import parse_step
from kakurenbo_hpc.config.package_files import find_job, jobs_dir
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


# What the README's short forms stand for; E is as it says itself.
SHORT = {
    r"^E (\w+)": README.split("```")[1].strip().replace("NAME", r"\1"),
    r"^R (\w+)": r"kakurenbo report evidence/NAME --figure \1",
    r"^P (\S+)": r"kakurenbo compare \1",
}
LINES = [line for line in README.splitlines() if re.match(r"\| (?!\|)", line)]


def _commands(line):
    """Return the command lines of a line of the tables, as lists of words."""
    written = [text.strip() for part in re.findall(r"`([^`]+)`", line) for text in part.split(";")]
    for short, whole in SHORT.items():
        written = [re.sub(short, whole, text) for text in written]
    return [shlex.split(text) for text in written if text.startswith(("kakurenbo ", "mpirun ", "python "))]


def _parse(words):
    """Return a command's name and what its options and arguments are, as click reads them."""
    command, name, context = get_command(app), "kakurenbo", None
    while hasattr(command, "commands"):
        context = type(command).context_class(command, info_name=name, parent=context)
        name, command, words = command.resolve_command(context, words)
    return name, command.make_context(name, list(words), parent=context).params


@functools.cache
def _pictures(file, overrides=()):
    return set(read_comparison(find_job(file), overrides=overrides)[0].pictures)


def _check(words):
    """Check a command line as far as it can be without running it; return the figure that it asks for."""
    if words[0] == "python":
        script = (jobs_dir().parent / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in words if word.startswith("--"))
        return None
    name, values = _parse(words[words.index("kakurenbo") + 1 :])
    if name == "compare":
        _pictures(values["file"], tuple(values["overrides"] or ()))
    elif name in ("train", "launch", "submit"):
        read_job(values["job"], values["overrides"])
        read_machine(values.get("machine", "local"))
    elif name == "report":
        assert values["figure"] in (None, *FIGURES)
        return values["figure"]
    else:
        assert name in ("gradients", "score")
    return None


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_a_line_of_the_figures_has_commands_that_run_or_says_why_not(line):
    commands = _commands(line)
    assert commands or re.search(r"\| (none: |the same; )", line)
    figures = {_check(words) for words in commands} - {None}
    compared = re.findall(r"`E (\w+)", line)
    if len(compared) == 1 and figures and "mpirun" not in line and "record.images" not in line:
        drawn = _pictures(f"evidence/{compared[0]}")
        assert figures <= drawn, "the comparison draws it beside its table"


def test_the_figures_of_comparisons_are_known():
    assert all(set(read_comparison(path)[0].pictures) <= FIGURES.keys() for path in FILES)
