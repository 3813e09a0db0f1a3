"""HTML page of a report: one file that makes no request; figures, sentences, tables, and all data as JSON."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from ..errors import REQUEUE, UserError
from ..rundir.atomic_io import write_whole
from ..rundir.metrics import finite
from .chart import MOST_RUNS, Chart, thinned
from .components import components
from .figures import FIGURES
from .records import Records, Run, printable
from .summary import differing_keys, flat, summarize, verdicts
from .text import HEADS, problems, summary_rows

SECTIONS = {
    "Accuracy": ("accuracy_over_seconds", "accuracy_over_steps", "accuracy_over_passes"),
    "Where the time went": ("stages", "time_parts", "ranks"),
    "What was hidden": (
        "ceiling_and_rate",
        "ceiling_rate_speedup",
        "loss_histogram",
        "loss_cdf",
        "hidden_per_class",
        "hidden_by_age",
        "loss_top_bottom",
        "samples",
        "selection_probability",
        "class_weights",
        "gradient_agreement",
        "gradient_bias",
    ),
    "Test set": ("confidence_percentiles",),
    "Input": ("samples_per_second", "input_rate", "accelerator_utilisation"),
    "Energy": ("energy",),
    "Scaling": ("scaling",),
    "Comparison": ("components", "speedup_over_tolerance", "pareto"),
}
OF_ALL_RUNS = ("components", "scaling")  # figures for which many runs are no crowd
# What the page keeps of every line of metrics.jsonl, as columns.
COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_iou",
    "n_samples",
    "n_candidates",
    "n_moved_back",
    "n_hidden",
    "hidden_fraction",
    "max_fraction",
    "n_forward",
    "n_backward",
    "n_nan",
    "n_skipped_steps",
    "lr",
    "lr_scale",
    "steps",
)
_MOST_FACTS = 40
_MOST_VERDICTS = 4  # that are not folded away
_TOLD_ELSEWHERE = ("changes", "warnings")  # of provenance
_STYLE = re.compile(r'style="([^"]*)"')
_FEW_LINES = 1000  # of more, the page keeps the columns below alone; --csv writes all
_MAIN_COLUMNS = ("epoch", "val_accuracy", "val_iou", "n_forward", "n_backward", "hidden_fraction", "steps")


def write_page(records: Records, out: Path) -> None:
    """Write the page."""
    write_whole(out, page(records))


def page(records: Records) -> str:
    """Return the page."""
    from .draw import svg

    shown, sections = chosen(records), []
    for title, figure_names in SECTIONS.items():
        charts = [
            chart
            for name in figure_names
            for chart in FIGURES[name](records if name in OF_ALL_RUNS else shown)
        ]
        if charts:
            sections.append((title, [(chart, svg(chart), *_table(chart)) for chart in charts]))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        resources.files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    names = ", ".join(group.name for group in records.groups)
    styles = _common_styles(drawing for _, figures in sections for _, drawing, *_ in figures)
    return template.render(
        styles=styles,
        drawn=lambda drawing: Markup(_STYLE.sub(lambda found: _as_class(found, styles), drawing)),
        title=records.title or printable(names, 80),
        leads=[chart.sentence for chart in components(records)],
        verdicts=verdicts(records),
        most_verdicts=_MOST_VERDICTS,
        heads=HEADS,
        summary=summary_rows(records),
        sections=sections,
        differences=job_differences(shown),
        provenance=provenance_rows(records),
        problems=problems(records),
        exits=exit_rows(records),
        # "<" would end the element that holds the data
        data=Markup(
            json.dumps(
                finite(data(records, is_brief=sum(len(run.lines) for run in records.runs) > _FEW_LINES)),
                allow_nan=False,
                separators=(",", ":"),
            ).replace("<", "\\u003c")
        ),
    )


def chosen(records: Records, most: int = MOST_RUNS) -> Records:
    """Return the groups that are drawn: all of a few, else the first and the most accurate."""
    if len(records.groups) <= most:
        return records
    first = [records.groups[0]]
    accuracies = {id(g): own.mean if (own := summarize(g).accuracy) else 0.0 for g in records.groups}
    best = sorted(records.groups[1:], key=lambda g: -accuracies[id(g)])[: most - 1]
    note = (
        f"Figures show {most} of {len(records.groups)}: {first[0].name}, "
        f"and the {most - 1} most accurate of the others."
    )
    if note not in records.notes:
        records.notes.append(note)
    return Records(first + best, records.notes, records.choices, records.title)


def data(records: Records, is_brief: bool = False) -> dict:
    """Return what runs recorded, as columns of their metrics; the JSON of the page."""
    return {
        "runs": [
            {
                "name": run.name,
                "group": group.name,
                "state": run.state,
                "metrics": _columns(run, is_brief),
            }
            for group in records.groups
            for run in group.runs
        ]
    }


def _columns(run: Run, is_brief: bool) -> dict[str, list]:
    columns = {
        key: [line.get(key) for line in run.lines]
        for key in (_MAIN_COLUMNS if is_brief else COLUMNS)
        if any(key in line for line in run.lines)
    }
    seconds = sorted(
        {key for line in run.lines if isinstance(line.get("seconds"), dict) for key in line["seconds"]}
    )
    if is_brief:
        seconds = [key for key in seconds if key == "total"]
    return columns | {
        f"seconds_{key}": [None if np.isnan(s) else round(float(s), 6) for s in run.column("seconds", key)]
        for key in seconds
    }


def write_csv(records: Records, folder: Path) -> list[Path]:
    """Write metrics of all runs, and each figure's numbers, as CSV files; return them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(run["group"], run["name"], run["metrics"]) for run in data(records)["runs"]]
    keys = list(dict.fromkeys(key for _, _, columns in rows for key in columns))
    lines = (
        [group, name, *values]
        for group, name, columns in rows
        for values in zip(*(columns.get(key, [None] * len(columns["epoch"])) for key in keys), strict=True)
        if columns
    )
    written = [_write_rows(folder / "metrics.csv", ["group", "run", *keys], lines)]
    for name in FIGURES:
        for chart in FIGURES[name](records):
            written.append(_write_rows(folder / f"{chart.name}.csv", *chart.rows()))
    return written


def figure(records: Records, name: str, form: str, out: Path | None) -> list[Path]:
    """Write one figure, a file for each run that has its own; return the files.

    Raises:
        UserError: there is no such figure, or the runs do not hold what it needs.
    """
    from .draw import save

    if name not in FIGURES:
        raise UserError(f"report: unknown figure {name}; known: {', '.join(FIGURES)}")
    charts = FIGURES[name](records)
    if not charts:
        raise UserError(
            f"report: figure {name} needs what none of these runs recorded; "
            "kakurenbo_hpc/report/README.md says what"
        )
    paths = [(out or Path(f"{name}.{form}")).with_suffix(f".{form}")]
    paths += [paths[0].with_name(f"{paths[0].stem}_{i}.{form}") for i in range(2, len(charts) + 1)]
    for chart, path in zip(charts, paths, strict=True):
        save(chart, path, form)
    return paths


def job_differences(records: Records) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the keys in which the groups' jobs differ."""
    groups = [g for g in records.groups if g.first.job]
    found = differing_keys([g.first.job for g in groups])
    rows = [[key, *(printable(value, 60) for value in values)] for key, values in found.items()]
    return ["", *(g.name for g in groups)], rows[:_MOST_FACTS]


def provenance_rows(records: Records) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of machine and versions of each group's run."""
    groups = [g for g in records.groups if g.first.provenance][:10]
    facts = [
        dict(flat({k: v for k, v in g.first.provenance.items() if k not in _TOLD_ELSEWHERE})) for g in groups
    ]
    keys = list(dict.fromkeys(key for fact in facts for key in fact))
    rows = [[key, *(printable(fact.get(key, "\u2013"), 80) for fact in facts)] for key in keys]
    return ["", *(g.name for g in groups)], rows


def exit_rows(records: Records) -> list[str]:
    """Return what happened to the runs: warnings at the start, interruptions, what was not finite."""
    told = []
    for run in records.runs:
        told += [f"{run.name}: {each}" for each in _said_before(run)]
        skipped, n_nan = (int(np.nansum(run.column(key))) for key in ("n_skipped_steps", "n_nan"))
        if not run.is_done:
            told.append(f"{run.name}: {run.state}.")
        if skipped or n_nan:
            told.append(f"{run.name}: {skipped} skipped steps, {n_nan} losses that were not finite.")
        exits = run.exits()
        n_requeued, n_resumed = (
            sum(line.get(key) == value for line in exits)
            for key, value in (("code", REQUEUE), ("event", "resumed"))
        )
        if n_requeued or n_resumed:
            told.append(
                f"{run.name}: left to be queued again {_times(n_requeued)}, resumed {_times(n_resumed)}."
            )
        told += [f"{run.name}: {_exit_in_words(line)}." for line in exits]
        if changes := run.provenance.get("changes"):
            told.append(f"{run.name}: resumed with a changed job: {printable(str(changes), 200)}.")
    return told


def _said_before(run: Run) -> list[str]:
    """Return what the doctor found wrong before a run, and what the run warned of at its start."""
    checks = run.preflight().get("checks")
    told = [
        f"the doctor's {check['check']} check ({check['result']}): {check['message']}."
        for check in (checks if isinstance(checks, list) else [])
        if isinstance(check, dict)
        and {"check", "result", "message"} <= check.keys()
        and check["result"] != "OK"
    ]
    warnings = run.provenance.get("warnings")
    told += [f"warned at the start: {text}." for text in (warnings if isinstance(warnings, list) else [])]
    return [printable(each, 400) for each in told]


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _exit_in_words(line: dict) -> str:
    """Return a line of the exit history as words."""
    rest = [
        f"{key.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in line.items()
        if key not in ("event", "time") and value not in (None, [], "")
    ]
    return printable(
        f"{line.get('event')} at {line.get('time')}" + "".join(f", {each}" for each in rest), 300
    )


def _common_styles(drawings: Iterable[str]) -> dict[str, str]:
    """Return a class for each style that drawings repeat: a third of their size."""
    counts = Counter(style for drawing in drawings for style in _STYLE.findall(drawing))
    return {style: f"s{i}" for i, style in enumerate(style for style, n in counts.items() if n > 4)}


def _as_class(found: re.Match, styles: Mapping[str, str]) -> str:
    return f'class="{styles[found.group(1)]}"' if found.group(1) in styles else found.group(0)


def _table(chart: Chart) -> tuple[list[str], list[list[str]], int]:
    head, rows = chart.rows()
    return head, [[_cell(value) for value in row] for row in thinned(rows)], len(rows)


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if np.isnan(value):
        return "\u2013"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"


def _write_rows(path: Path, head: Sequence, rows: Iterable[Sequence]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_no_formula(cell) for cell in row] for row in rows)
    return path


def _no_formula(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and re.match(r"[=+\-@\t]", cell) else cell
