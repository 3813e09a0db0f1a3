"""Readers of run directories: whole, going on, dead, damaged."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from report.made_runs import add_ledger, line, make_run

from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.report.command import report
from kakurenbo_hpc.report.figures import FIGURES
from kakurenbo_hpc.report.losses import quantile
from kakurenbo_hpc.report.records import read_records
from kakurenbo_hpc.report.summary import summarize, verdicts
from kakurenbo_hpc.report.text import text_report


def test_a_pair_of_runs_is_a_verdict_with_what_was_saved(tmp_path):
    make_run(tmp_path / "all")
    make_run(tmp_path / "less", "kakurenbo")
    records = read_records([tmp_path])
    assert [group.name for group in records.groups] == ["all", "less"]
    (verdict,) = verdicts(records)
    assert verdict.startswith(
        "less reaches 87.50% accuracy, +0.00 points against all (one seed, so noise is unknown)"
    )
    assert (
        "8% fewer seconds" in verdict and "12% fewer passes" in verdict and "18.8% of the samples" in verdict
    )


@pytest.mark.parametrize(
    ("gains", "noise"), [((0.10, 0.11, 0.09), "beyond noise"), ((0.10, -0.12, 0.05), "within noise")]
)
def test_several_seeds_are_one_group_with_a_spread(tmp_path, gains, noise):
    for seed, gain in enumerate(gains, 1):
        base = 0.7 + 0.01 * seed
        make_run(tmp_path / f"all-{seed}", epochs=1, lines=[line(0, accuracy=base)], seed=seed)
        make_run(
            tmp_path / f"less-{seed}", "kakurenbo", epochs=1, lines=[line(0, 0.2, base + gain)], seed=seed
        )
    records = read_records([tmp_path])
    assert [(group.name, len(group.runs)) for group in records.groups] == [
        ("everything", 3),
        ("kakurenbo", 3),
    ]
    assert noise in verdicts(records)[0]
    own = summarize(records.groups[0])
    assert own.accuracy.mean == pytest.approx(0.72) and own.accuracy.std == pytest.approx(0.01)


def _cut_metrics(run):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-40])


def _damage_a_line(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "{]", "[1]", *lines[3:]]) + "\n")


def _say_no_numbers(run):
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "val_accuracy": None, "seconds": 3}) + "\n")


def _damage_histograms(run):
    odd = [{"edges": [1], "counts": [1]}, {"edges": "x", "counts": []}, [], {"edges": [0, 1], "counts": [0]}]
    lines = [{**line(i), "loss_histogram": histogram} for i, histogram in enumerate(odd)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_cut_metrics, "metrics.jsonl: the last line is cut in the middle, and left out"),
        (_damage_a_line, "metrics.jsonl: line 2 is damaged, and left out"),
        (_say_no_numbers, "ended early, 1 of 4 epochs"),
        (_damage_histograms, "done, 4 epochs"),
        (lambda run: (run / "metrics.jsonl").unlink(), "no epoch has ended yet"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "no epoch has ended yet"),
        (lambda run: (run / "job.yaml").unlink(), "job.yaml: is not there"),
        (lambda run: (run / "job.yaml").write_text("a: [b"), "job.yaml: is damaged"),
        (lambda run: (run / "job.yaml").write_text("training: 3"), "done, 4 epochs"),
        (lambda run: (run / "provenance.json").write_text('{"a'), "provenance.json: is damaged"),
        (
            lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n"),
            "metrics.jsonl: the last line is cut",
        ),
        (
            lambda run: add_ledger(run, 0, loss=np.ones(3)).write_bytes(b"torn"),
            "epoch_0000.h5: cannot be read",
        ),
        (lambda run: add_ledger(run, 3, other=np.ones(3)), "done, 4 epochs"),
    ],
)
def test_what_is_damaged_is_told_and_the_rest_is_reported(tmp_path, damage, told):
    make_run(tmp_path / "whole")
    damage(make_run(tmp_path / "hurt", "kakurenbo"))
    records = read_records([tmp_path])
    for figure in FIGURES.values():
        for chart in figure(records):
            assert chart.rows()[1] and chart.sentence
    assert told in text_report(records)


def test_a_run_that_goes_on_is_told_from_one_that_died(tmp_path):
    run = make_run(tmp_path / "run", lines=[line(0)])
    beat = run / "heartbeat" / "0"
    beat.parent.mkdir()
    beat.touch()
    assert "goes on, 1 of 4 epochs" in text_report(read_records([run]))
    os.utime(beat, (time.time() - 1000,) * 2)
    assert "ended early, 1 of 4 epochs" in text_report(read_records([run]))


def test_ledgers_are_read_one_at_a_time(tmp_path):
    run = make_run(tmp_path / "run", "kakurenbo")
    for epoch in range(3):
        add_ledger(run, epoch, loss=np.ones(5), seen_epoch=np.arange(5) - 1, train=np.arange(5) % 2)
    ledgers = read_records([run]).runs[0].ledgers(first=1)
    add_ledger(run, 1, loss=np.zeros(5))  # was not read before it is asked for
    epoch, columns = next(ledgers)
    assert epoch == 1 and columns["loss"].sum() == 0
    assert [epoch for epoch, _ in ledgers] == [2]


def test_hidden_samples_are_counted_by_class_and_by_age(tmp_path):
    run = make_run(tmp_path / "run", "kakurenbo")
    add_ledger(
        run, 2, label=np.array([0, 0, 1, 1]), train=np.array([0, 1, 0, 0]), seen_epoch=np.array([1, 0, 0, -1])
    )
    records = read_records([run])
    (by_class,), (by_age,) = (FIGURES[name](records) for name in ("hidden_per_class", "hidden_by_age"))
    assert by_class.series[0].y.tolist() == [0.5, 1.0]
    assert (by_age.series[0].x, by_age.series[0].y.tolist()) == (["1", "2"], [1.0, 0.5])


def test_a_quantile_of_a_histogram_lies_within_its_bin():
    assert quantile(np.array([0.0, 1.0, 3.0]), np.array([1.0, 1.0]), 0.75) == 2.0


def test_a_comparison_is_read_from_its_file(tmp_path):
    curve = {
        "accuracy": [0.5, 0.9],
        "steps": [3, 6],
        "forward": [10, 20],
        "backward": [10, 20],
        "seconds": [1.0, 2.5],
    }
    kept = {"curves": {"everything": [curve, curve], "less": [curve, curve]}, "contenders": {}, "ranks": 2}
    (tmp_path / "comparison.json").write_text(json.dumps(kept))
    records = read_records([tmp_path])
    assert [(group.name, len(group.runs)) for group in records.groups] == [("everything", 2), ("less", 2)]
    assert summarize(records.groups[1]).seconds == 2.5 and records.runs[0].total("n_forward").tolist() == [
        10,
        20,
    ]


def test_a_run_of_a_comparison_costs_what_its_scores_cost(tmp_path):
    make_run(tmp_path / "runs" / "static-1", "static", epochs=2)
    curve = {"accuracy": [0.5, 0.75], "steps": [120, 140], "forward": [6000, 7000], "backward": [1000, 1750]}
    kept = {"curves": {"static": [{**curve, "seconds": [12.4, 14.6]}]}, "runs": {"static": ["static-1"]}}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparison.json").write_text(json.dumps(kept))
    (run,) = read_records([tmp_path / "mine"]).runs
    assert run.total("n_forward").tolist() == [6000, 7000] and run.total("steps").tolist() == [120, 140]
    assert run.total("seconds", "total") == pytest.approx([12.4, 14.55]) and run.column("steps").tolist() == [
        20,
        20,
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"paths": ["missing"]}, "missing is no folder"),
        ({"paths": ["."]}, "holds no run"),
        ({"form": "gif"}, "--format is gif; known: svg, png, pdf"),
        ({"text": True, "figure": "stages"}, "choose one"),
        ({"figure": "nothing"}, "unknown figure nothing; known: accuracy_over_seconds"),
        ({"figure": "pareto"}, "needs what none of these runs recorded"),
        ({"out": "run/job.yaml/page.html"}, "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_line(tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if arguments.get("paths") != ["."]:
        make_run(tmp_path / "run")
    paths = [Path(p) for p in arguments.pop("paths", ["run"])]
    out = arguments.pop("out", None)
    with pytest.raises(UserError, match=told):
        report(paths, out and Path(out), **arguments)


def test_text_needs_no_matplotlib(tmp_path):
    run = make_run(tmp_path / "run")
    code = (
        "import sys; sys.modules['matplotlib'] = None; from pathlib import Path; "
        "from kakurenbo_hpc.report.command import report; report([Path(sys.argv[1])], None, text=True)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, run], capture_output=True, text=True, check=True
    ).stdout
    assert told.startswith("run: accuracy 87.50% in 9.6 s")


def test_a_run_of_iterations_has_the_epochs_that_its_provenance_says(tmp_path):
    make_run(tmp_path / "run")
    job = (tmp_path / "run/job.yaml").read_text()
    [run] = [run for group in read_records([tmp_path]).groups for run in group.runs]
    epochs = run.epochs
    changed = job.replace(f"epochs: {epochs}", f"epochs: 0\n  iterations: {9 * epochs}")
    assert changed != job
    (tmp_path / "run/job.yaml").write_text(changed)
    (tmp_path / "run/provenance.json").write_text(json.dumps({"epochs": epochs + 2}))
    [run] = [run for group in read_records([tmp_path]).groups for run in group.runs]
    assert run.epochs == epochs + 2 and not run.is_done


def test_speed_up_is_told_by_steps_where_all_runs_were_evaluated_within_epochs(tmp_path):
    everything = make_run(tmp_path / "everything", epochs=2)  # 50 % after step 20, 75 % after step 40
    less = make_run(tmp_path / "less", "kakurenbo", epochs=2)
    (chart,) = FIGURES["speedup_over_tolerance"](read_records([tmp_path]))
    assert chart.series[0].y[0] == 1.0 and "not every run was evaluated within epochs" in chart.sentence
    for run, accuracy in ((everything, 0.6), (less, 0.75)):
        points = [
            {"epoch": 1, "step": 5, "val_accuracy": accuracy},
            {"epoch": 9, "step": 5, "val_accuracy": 1.0},
        ]
        (run / "evaluations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in points) + '{"ep')
    records = read_records([tmp_path])
    (chart,) = FIGURES["speedup_over_tolerance"](records)
    assert chart.series[0].y[0] == pytest.approx(40 / 25) and "evaluate_every" not in chart.sentence
    (over_steps,) = FIGURES["accuracy_over_steps"](records)
    assert over_steps.series[1].x.tolist() == [20, 25, 40] and over_steps.series[1].y.tolist() == [
        0.5,
        0.75,
        0.75,
    ]
    assert "evaluations.jsonl: a line is damaged, and left out" in text_report(records)


ODD = ["null", "[1]", '{"epoch": [1], "step": 5, "val_accuracy": 0.5}', '{"epoch": 1, "val_accuracy": 0.5}']
ODD += ['{"epoch": 1, "step": 5}', '{"epoch": 1, "step": 5, "val_accuracy": null}', '{"epoch": {}}', '{"ep']


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_evaluation_is_told_and_the_others_are_drawn(tmp_path, odd):
    run = make_run(tmp_path / "run", epochs=2)
    whole = json.dumps({"epoch": 1, "step": 10, "val_accuracy": 0.6})
    (run / "evaluations.jsonl").write_text(f"{odd}\n{whole}\n")
    records = read_records([run])
    (chart,) = FIGURES["accuracy_over_steps"](records)
    assert chart.series[0].x.tolist() == [20, 30, 40] and chart.series[0].y.tolist() == [0.5, 0.6, 0.75]
    (told,) = records.runs[0].problems
    assert told.startswith("evaluations.jsonl: a line ") and told.endswith("left out")


def test_a_sweep_has_its_rate_beside_the_ideal_and_its_stages_by_ranks(tmp_path):
    for kind, batch in (("strong", 60), ("weak", None)):
        for ranks, seconds in ((1, 8.0), (2, 5.0)):
            lines = [line(epoch) for epoch in range(2)]
            for each in lines:
                each["seconds"] = {"train": seconds, "gradient_exchange": seconds / 4, "total": seconds}
            run = make_run(tmp_path / kind / f"ranks_{ranks:04d}", lines=lines, epochs=2, ranks=ranks)
            facts = {"ranks": ranks, "global_batch": batch or 60 * ranks}
            (run / "provenance.json").write_text(json.dumps(facts))
    charts = FIGURES["scaling"](read_records([tmp_path]))
    assert [chart.name for chart in charts[:3]] == ["scaling", "scaling_efficiency", "scaling_stages"]
    assert charts[3].title == "Samples per second, weak scaling: everything (weak)"
    ideal, measured = charts[0].series
    assert measured.y.tolist() == [125.0, 200.0] and ideal.y.tolist() == [125.0, 250.0]
    assert charts[1].sentence.startswith("80% of the ideal rate on 2 ranks.")
    shares = {series.name: series.y.tolist() for series in charts[2].series}
    assert shares == {"train": [0.75, 0.75], "gradient exchange": [0.25, 0.25]}


def test_a_comparison_of_switches_says_which_matters(tmp_path):
    """One gains 10 points without the other and 20 with it; the other loses 10 points, or nothing."""
    accuracies = {(False, False): 0.6, (True, False): 0.7, (False, True): 0.5, (True, True): 0.7}
    for (moves, scales), accuracy in accuracies.items():
        for seed in (1, 2):
            lines = [line(0, 0.2, accuracy + 0.01 * seed)]
            run = make_run(tmp_path / f"{moves}{scales}{seed}", "kakurenbo", epochs=1, lines=lines, seed=seed)
            job = yaml.safe_load((run / "job.yaml").read_text())
            job["selection"] |= {"move_back": moves, "scale_lr": scales}
            (run / "job.yaml").write_text(yaml.safe_dump(job))
    (chart,) = FIGURES["components"](read_records([tmp_path]))
    assert chart.series[0].x == ["move_back", "scale_lr"] and chart.series[0].y.tolist() == pytest.approx(
        [0.15, -0.05]
    )
    assert "move_back +15.00 points (beyond noise, from +10.00 to +20.00 in 2 pairs)" in chart.sentence
    assert "scale_lr -5.00 points (beyond noise, from -10.00 to +0.00 in 2 pairs)" in chart.sentence
