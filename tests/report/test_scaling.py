"""Scaling of a sweep: rates, speed-ups, what gets no efficiency, and what is said of weak scaling."""

import json

import pytest
from report.made_runs import line, make_run

from kakurenbo_hpc.cli.app import app
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.report.records import read_records
from kakurenbo_hpc.report.scaling import measure_scaling, show_scaling


def add_run(sweep, ranks, seconds, *, batch=64, lr=0.1, **facts):
    """Write a run whose second epoch passes 1000 samples forward in so many seconds."""
    lines = [line(epoch) | {"lr": lr} for epoch in range(2)]
    for each in lines:
        each["seconds"] |= {"plan": 0.0, "refresh": 0.0, "train": seconds, "total": seconds}
        each["seconds"] |= {"gradient_exchange": seconds / 4, "slowest_rank": 3.0, "mean_rank": 2.0}
    lines[0]["seconds"]["train"] = 1000.0
    run = make_run(sweep / f"ranks_{ranks:04d}", lines=lines, epochs=4, ranks=ranks)
    known = json.loads((run / "provenance.json").read_text())
    known |= {"global_batch": batch, "physical_cores": 2, "threads_per_rank": 1, "ranks_per_node": ranks}
    (run / "provenance.json").write_text(json.dumps(known | facts))
    return run


def measured(sweep):
    return measure_scaling(read_records([sweep], histograms=False).runs)


def test_ranks_beyond_the_physical_cores_get_no_efficiency(tmp_path):
    for ranks, seconds in ((1, 8.0), (2, 5.0), (4, 4.0)):
        add_run(tmp_path, ranks, seconds)
    found = measured(tmp_path)
    assert found.kind == "strong" and [scale.ranks for scale in found.scales] == [1, 2, 4]
    assert [scale.samples_per_second for scale in found.scales] == [125.0, 200.0, 250.0]
    assert [scale.speed_up for scale in found.scales] == [1.0, 1.6, 2.0]
    assert [scale.efficiency for scale in found.scales] == [1.0, 0.8, None]
    assert [scale.oversubscribed for scale in found.scales] == [False, False, True]
    assert found.scales[1].shares["gradient_exchange"] == 0.25 and found.scales[1].imbalance == 1.5
    assert len(found.notes) == 1 and found.notes[0].startswith("oversubscribed")


def test_node_hours_are_those_of_all_epochs_of_the_job(tmp_path):
    add_run(tmp_path, 2, 4.0)
    add_run(tmp_path, 8, 2.0, ranks_per_node=4, gpu="V100")  # 2 of its 4 epochs are there
    scale = measured(tmp_path).scales[1]
    assert scale.nodes == 2 and not scale.oversubscribed
    assert scale.hours == pytest.approx(4 * 2.0 / 3600) and scale.node_hours == pytest.approx(2 * scale.hours)


def test_weak_scaling_says_what_happens_to_batch_and_rate(tmp_path):
    add_run(tmp_path, 1, 8.0, batch=64, lr=0.1)
    add_run(tmp_path, 2, 4.0, batch=128, lr=0.2)
    found = measured(tmp_path)
    assert found.kind == "weak" and "from 64 to 128" in found.notes[0] and "0.1 to 0.2" in found.notes[0]


def test_unequal_threads_are_told(tmp_path):
    add_run(tmp_path, 1, 8.0, threads_per_rank=2)
    add_run(tmp_path, 2, 4.0)
    assert any("threads per rank differ (1, 2)" in note for note in measured(tmp_path).notes)


def test_the_command_prints_and_writes_the_same_figures(tmp_path, capsys):
    for ranks, seconds in ((1, 8.0), (2, 5.0)):
        add_run(tmp_path / "sweep", ranks, seconds)
    csv, out = tmp_path / "scaling.csv", tmp_path / "scaling.json"
    app(["scaling", f"{tmp_path}/sweep", "--csv", f"{csv}", "--json", f"{out}"], standalone_mode=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "strong scaling" and printed[3].split()[:6] == [
        "2",
        "1",
        "64",
        "200",
        "1.60",
        "80.0%",
    ]
    rows = [text.split(",") for text in csv.read_text().splitlines()]
    values = dict(zip(rows[0], rows[2], strict=True))
    assert values["kind"] == "strong" and float(values["efficiency"]) == 0.8
    assert float(values["share_gradient_exchange"]) == 0.25
    assert json.loads(out.read_text())["scales"][1]["speed_up"] == 1.6


def test_problems_of_runs_and_differences_of_jobs_are_told(tmp_path, capsys):
    for ranks, epochs in ((1, 4), (2, 8)):
        run = add_run(tmp_path, ranks, 8.0)
        job = {"seed": ranks, "training": {"epochs": epochs, "batch_per_rank": 8 * ranks}}
        (run / "job.yaml").write_text(json.dumps(job | {"record": {"keep": ranks}}))
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 2, "tra')
    show_scaling(tmp_path, None, None)
    printed = capsys.readouterr().out.splitlines()
    assert printed[4:] == [
        "the runs' jobs differ in training.epochs (4, 8), so this is no scaling of one job",
        "ranks_0002: metrics.jsonl: the last line is cut in the middle, and left out",
    ]


def test_what_is_no_sweep_is_one_line(tmp_path):
    add_run(tmp_path / "sweep", 2, 4.0)
    with pytest.raises(UserError, match="fewer than two numbers of ranks; make a sweep"):
        show_scaling(tmp_path / "sweep", None, None)
    add_run(tmp_path / "sweep", 4, 4.0)
    with pytest.raises(UserError, match="cannot be written .*; give another file"):
        show_scaling(tmp_path / "sweep", tmp_path / "no" / "such.csv", None)


def test_runs_of_several_methods_are_no_sweep(tmp_path):
    for method, ranks in (("everything", 1), ("everything", 2), ("kakurenbo", 2)):
        make_run(tmp_path / f"{method}_{ranks}", method, ranks=ranks)
    with pytest.raises(UserError, match=r"holds runs of several methods \(everything, kakurenbo\)"):
        show_scaling(tmp_path, None, None)
    with pytest.raises(UserError, match="^scaling: .*none is no folder"):
        show_scaling(tmp_path / "none", None, None)
