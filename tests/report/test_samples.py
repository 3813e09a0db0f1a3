"""Figures of what runs record where they are asked to: samples, test set, ranks, gradients."""

import dataclasses
import json

import numpy as np
import pytest
from report.made_runs import add_records, line, make_run

from kakurenbo_hpc.report.figures import FIGURES
from kakurenbo_hpc.report.page import exit_rows
from kakurenbo_hpc.report.records import Choices, read_records
from kakurenbo_hpc.report.text import problems

SAMPLES = ("samples", "selection_probability", "sample_history", "class_weights", "weight_spread")
ALL = (*SAMPLES, "confidence_percentiles", "gradient_agreement", "gradient_bias", "ranks", "hidden_per_class")


@pytest.fixture
def records(tmp_path):
    for seed in (1, 2):
        add_records(make_run(tmp_path / f"less-{seed}", "infobatch", seed=seed))
    return read_records([tmp_path])


def _asked(records, name, **choices):
    return FIGURES[name](dataclasses.replace(records, choices=Choices(**choices)))


def test_each_figure_has_a_sentence_and_a_table(records):
    for name in ALL:
        charts = FIGURES[name](records)
        assert charts, name
        for chart in charts:
            head, rows = chart.rows()
            assert chart.sentence.endswith(".") and rows and all(len(row) == len(head) for row in rows)


def test_the_rank_that_computes_most_waits_least(records):
    compute, wait, exchange = FIGURES["ranks"](records)
    assert "rank 1 has most, 8.5 s" in compute.sentence and compute.image.shape == (3, 4)
    assert exchange.image[1, 0] == 0.5 and wait.image[0, 0] == 1.0


def test_a_heat_map_has_at_most_256_cells_each_way_and_keeps_the_largest(tmp_path):
    add_records(make_run(tmp_path / "wide", epochs=4), ranks=1000)
    charts = FIGURES["ranks"](read_records([tmp_path]))
    assert all(max(chart.image.shape) <= 256 and len(chart.ticks) == len(chart.image) for chart in charts)
    assert charts[0].image[0, 0] == 8.5


def test_figures_of_samples_are_what_is_asked_for(records):
    (sheet,) = _asked(records, "samples", extreme="lowest")
    assert [row[1] for row in sheet.rows()[1]] == ["2", "3"] and sheet.rows()[1][1][2] == "\u2013"
    assert len(FIGURES["samples"](records)[0].rows()[1]) == 4
    (history,) = _asked(records, "sample_history", ids=3)
    assert [series.name for series in history.series] == ["id 0", "id 29", "id 59"]
    (weighted,) = _asked(records, "loss_histogram", is_weighted=True)
    assert [round(float(s.y.sum()), 2) for s in weighted.series] == [1.0, 0.5, 1.0]
    (top, *_) = _asked(records, "loss_top_bottom", share=0.25)
    assert [series.name for series in top.series] == ["bottom 75 %", "top 25 %"]


def test_files_of_an_epoch_that_is_not_there_are_told(records):
    assert _asked(records, "confidence_percentiles", epoch=77) == []
    assert "test: no file of epoch 77" in problems(records)[0]


def test_the_exit_history_is_told_and_its_damage(records):
    told = exit_rows(records)
    assert told[0] == "less-1: left to be queued again once, resumed 0 times."
    assert "stopped at 2026-01-01T00:00:00+00:00, why <i>USR1</i>, code 75" in told[1]
    assert any("exits.jsonl: a line is damaged" in each for each in problems(records))


def test_warnings_of_the_start_and_all_that_went_wrong_later_are_told(tmp_path):
    run = make_run(tmp_path / "run", lines=[line(0) | {"n_nan": 3, "n_skipped_steps": 2}])
    checks = [
        {"check": "mpi", "result": "OK", "message": "Open MPI"},
        {"check": "binding", "result": "WARN", "message": "2 ranks on <one> core"},
        "torn",
    ]
    (run / "preflight.json").write_text(json.dumps({"checks": checks}))
    (run / "provenance.json").write_text(json.dumps({"warnings": ["tau is high"]}))
    resumed = {
        "time": "now",
        "event": "resumed",
        "after": "epoch_0000",
        "passed_over": ["epoch_0002", "epoch_0001"],
    }
    (run / "exits.jsonl").write_text(json.dumps(resumed) + "\n")
    assert exit_rows(read_records([run])) == [
        "run: the doctor's binding check (WARN): 2 ranks on <one> core.",
        "run: warned at the start: tau is high.",
        "run: ended early, 1 of 4 epochs.",
        "run: 2 skipped steps, 3 losses that were not finite.",
        "run: left to be queued again 0 times, resumed once.",
        "run: resumed at now, after epoch_0000, passed over epoch_0002 epoch_0001.",
    ]


@pytest.mark.parametrize(
    "name", ["images.h5", "rank_seconds.h5", "test/epoch_0003.h5", "weights/epoch_0003.h5"]
)
def test_a_torn_file_is_told_and_the_rest_is_drawn(records, name):
    (records.groups[0].first.path / name).write_bytes(b"torn")
    for figure in FIGURES.values():
        figure(records)
    assert any(f"{name}: cannot be read" in each for each in problems(records))


@pytest.mark.parametrize("name", ["images.h5", "rank_seconds.h5", "test/epoch_0003.h5"])
def test_a_file_of_another_format_draws_nothing(records, name):
    import h5py

    with h5py.File(records.groups[0].first.path / name, "w") as file:
        file["other"] = np.ones(3)
    for figure in FIGURES.values():
        figure(records)
