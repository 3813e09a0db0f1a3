"""The page: its numbers, its drawings, hostile names, and a real browser."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report.made_runs import add_ledger, add_records, line, make_run

from kakurenbo_hpc.report.page import COLUMNS, chosen, data, figure, page, write_csv
from kakurenbo_hpc.report.records import read_records

pytest.importorskip("matplotlib")
from kakurenbo_hpc.report.draw import svg  # noqa: E402, needs matplotlib
from kakurenbo_hpc.report.figures import FIGURES  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x^2$ \\frac _hidden",
    "_underscore",
    "long" * 60,
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "</script><b>",
    "\x07bell\x1b[31m",
    "{{ 7 * 7 }} & 'quotes'",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    make_run(folder / "all", epochs=6)
    run = make_run(folder / "less", "kakurenbo", epochs=6, ranks=4)
    for epoch in (1, 2):
        loss = np.geomspace(0.01, 3, 200)
        add_ledger(run, epoch, loss=loss, seen_epoch=np.arange(200) % (epoch + 1), train=np.arange(200) % 2)
    return folder


@pytest.fixture(scope="module")
def text(pair):
    return page(read_records([pair]))


def _data(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*)</script>', text).group(1))


def test_the_numbers_of_the_page_are_those_of_the_metrics_files(pair, text):
    for run in _data(text)["runs"]:
        lines = [json.loads(each) for each in (pair / run["name"] / "metrics.jsonl").read_text().splitlines()]
        for key, column in run["metrics"].items():
            if key in COLUMNS:
                assert column == [each[key] for each in lines]
            else:
                assert column == [each["seconds"][key.removeprefix("seconds_")] for each in lines]
    assert "<td>87.50%</td>" not in text and "<td>91.67%</td>" in text
    table = re.search(r'<figure id="accuracy_over_steps".*?</figure>', text, re.DOTALL).group(0)
    assert re.findall(r'<th scope="row">(\d+)</th><td>([\d.]+)</td>', table)[0] == ("20", "0.5")


def test_csv_files_hold_every_line_of_the_metrics(pair, tmp_path):
    write_csv(read_records([pair]), tmp_path)
    with open(tmp_path / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["epoch"]) for row in rows] == [
        (r, f"{e}") for r in ("all", "less") for e in range(6)
    ]
    assert float(rows[-1]["seconds_train"]) == 1.75
    assert {"loss_histogram.csv", "stages.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_the_page_makes_no_request_and_text_stays_text(text):
    assert "default-src 'none'" in text
    assert (
        not re.search(r'(src|href)="(?!#|data:)', text) and "@import" not in text and "url(http" not in text
    )
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert re.search(r"<text[^>]*>epoch</text>", text)


@pytest.mark.parametrize("name", ["accuracy_over_steps", "stages", "loss_histogram"])
def test_the_structure_of_a_drawing_is_as_before(pair, name):
    """What is drawn and written, in order; not where, which differs from one matplotlib to the next."""
    drawn = svg(FIGURES[name](read_records([pair]))[-1])
    found = re.findall(
        r'<g class="((?:line2d|patch|FillBetween|legend)\w*)"|<text[^>]*>([^<]*)</text>', drawn
    )
    structure = "".join(f"{kind or 'text: ' + words}\n" for kind, words in found)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(structure)
    assert structure == golden.read_text()


def test_of_many_runs_the_first_and_the_most_accurate_are_drawn(tmp_path):
    make_run(tmp_path / "all", epochs=1, lines=[line(0, accuracy=0.2)])
    for number in range(12):
        lines = [line(0, 0.1, accuracy=0.3 + 0.05 * number)]
        make_run(tmp_path / f"run{number}", "kakurenbo", epochs=1, lines=lines, data=f"{number}")
    records = read_records([tmp_path])
    names = [group.name for group in chosen(records).groups]
    assert names == ["all", *(f"run{number}" for number in range(11, 2, -1))]
    assert records.notes == ["Figures show 10 of 13: all, and the 9 most accurate of the others."]
    assert set(data(records, is_brief=True)["runs"][0]["metrics"]) > {
        "epoch",
        "val_accuracy",
        "seconds_total",
    }


@pytest.mark.parametrize(("form", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_figure_alone_is_a_file(pair, tmp_path, form, magic):
    paths = figure(read_records([pair]), "stages", form, tmp_path / f"mine.{form}")
    assert [path.name for path in paths] == [f"mine.{form}", f"mine_2.{form}"]
    assert all(path.read_bytes().startswith(magic) for path in paths)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(HOSTILE):
        run = make_run(
            folder / f"{number}", "everything" if number == 0 else "kakurenbo", epochs=2, data=name
        )
        run.rename(folder / name.replace("/", "\N{DIVISION SLASH}"))
    add_records(folder / HOSTILE[4])
    torn = make_run(folder / "torn", "kakurenbo", epochs=5, lines=[line(0), line(1, 0.2)])
    (torn / "metrics.jsonl").write_text((torn / "metrics.jsonl").read_text()[:-30])
    return page(read_records([folder]))


def test_hostile_names_are_shown_and_do_nothing(hostile):
    outside = re.sub(r'<script type="application/json".*?</script>', "", hostile)
    assert "<script" not in outside and "<img" not in outside and "{{ 7 * 7 }}" in outside
    assert "<b>cat" not in outside and "<i>USR1" not in outside and "&lt;b&gt;cat" in outside
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", hostile)
    assert _data(hostile)["runs"][0]["name"].startswith("<script>")
    assert "the last line is cut in the middle" in hostile


def _comparison(folder):
    curve = {name: [20.0, 40.0] for name in ("steps", "forward", "backward")}
    seeds = [curve | {"accuracy": [0.5, best], "seconds": [1.0, 2.5]} for best in (0.8, 0.9)]
    kept = {"curves": {"everything": seeds, "less": seeds}, "contenders": {}, "ranks": 2}
    (folder / "comparison.json").write_text(json.dumps(kept))


def _sweep(folder):
    for ranks in (1, 2, 4):
        make_run(folder / f"ranks_{ranks:04d}", "kakurenbo", epochs=2, ranks=ranks)


def _dead(folder):
    run = make_run(folder / "dead", "kakurenbo", epochs=9, lines=[line(0), line(1, 0.2)])
    add_ledger(run, 0, loss=np.ones(9), seen_epoch=np.arange(9), train=np.ones(9))  # of an older format
    add_records(run, epochs=2)


@pytest.fixture(scope="module")
def pages(text, hostile, tmp_path_factory):
    made = {"pair": text, "hostile": hostile}
    for write in (_comparison, _sweep, _dead):
        folder = tmp_path_factory.mktemp("made")
        write(folder)
        made[write.__name__.strip("_")] = page(read_records([folder]))
    return made


def test_each_kind_of_page_has_its_figures(pages):
    n_figures = {name: len(re.findall("<figure id", made)) for name, made in pages.items()}
    assert min(n_figures.values()) >= 5 and n_figures["dead"] > n_figures["comparison"]
    for name, figures in {
        "comparison": ("accuracy_over_seconds", "pareto"),
        "sweep": ("scaling", "scaling_efficiency", "scaling_stages"),
        "dead": ("samples", "ranks_compute", "hidden_per_class"),
    }.items():
        assert all(f'<figure id="{figure}"' in pages[name] for figure in figures)
    assert "dead: ended early, 2 of 9 epochs." in pages["dead"]


WIDTHS = (1280, 400)
_PROBE = """
const found = {};
const frames = [...document.querySelectorAll("iframe")];
const look = frame => {
  const inside = frame.contentDocument, width = parseInt(frame.style.width);
  const boxes = [...inside.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect());
  const isSeen = box => box.width > 200 && box.height > 100 && box.left >= 0 && box.right <= width;
  const seen = boxes.filter(isSeen).length;
  inside.querySelectorAll("figure summary").forEach(each => each.click());
  const tables = [...inside.querySelectorAll("figure .scroll")].filter(e => e.offsetHeight > 20).length;
  found[frame.id] = {figures: boxes.length, seen, tables, wide: inside.documentElement.scrollWidth};
  if (Object.keys(found).length == frames.length) document.title = JSON.stringify(found);
};
for (const frame of frames) {
  const inside = frame.contentDocument;
  const isLoaded = inside.readyState == "complete" && inside.querySelector("figure");
  if (isLoaded) look(frame); else frame.onload = () => look(frame);
}
"""


@pytest.fixture(scope="module")
def browsed(pages, tmp_path_factory):
    """What Chromium finds in all pages at each width, and what its console says, in one session."""
    browser = shutil.which("chromium")
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing; .ci/run installs it")
        pytest.skip("needs chromium")
    folder = tmp_path_factory.mktemp("browser")
    frame = '<iframe id="{}-{}" style="width:{}px;height:2000px;border:0" srcdoc="{}"></iframe>'
    frames = "".join(
        frame.format(name, width, width, html.escape(made))
        for name, made in pages.items()
        for width in WIDTHS
    )
    probe = folder / "probe.html"
    probe.write_text(f'<meta charset="utf-8">{frames}<script>{_PROBE}</script>', encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={folder}/profile",
        "--window-size=1400,2000",
        "--virtual-time-budget=10000",
    ]
    ran = subprocess.run(
        [browser, *options, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=900
    )
    title = re.search(r"<title>(\{.*?\})</title>", ran.stdout)
    assert title, ran.stderr
    return json.loads(title.group(1)), [each for each in ran.stderr.splitlines() if "CONSOLE" in each]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["pair", "hostile", "comparison", "sweep", "dead"])
def test_a_browser_shows_every_figure_and_reaches_its_table(pages, browsed, name, width):
    n = len(re.findall("<figure id", pages[name]))
    assert browsed[0][f"{name}-{width}"] == {"figures": n, "seen": n, "tables": n, "wide": width}


def test_a_long_legend_takes_no_room_from_the_axes(tmp_path):
    heights = []
    for n in (2, 10):
        for number in range(n):
            run = tmp_path / f"{n}" / f"a rather long name of run {number}"
            make_run(run, "kakurenbo" if number else "everything", epochs=2, data=f"{number}")
        drawn = svg(FIGURES["accuracy_over_steps"](read_records([tmp_path / f"{n}"]))[0])
        heights.append(float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawn).group(1)))
    assert heights[1] > heights[0] + 20


def test_a_browser_complains_of_nothing(browsed):
    # The policy of the page forbids every request, and the console tells of one that is tried.
    assert browsed[1] == []
