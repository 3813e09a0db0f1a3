"""Progress of a run in one line."""

import json

import pytest

from kakurenbo_hpc.cluster.progress import in_time, progress, sparkline


def _run(path, n, epochs=10):
    lines = [{"train_loss": 8.0 - i, "seconds": {"total": 360.0}, "n_forward": 720} for i in range(n)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "job.yaml").write_text(f"training: {{epochs: {epochs}}}\n")
    return path


@pytest.mark.parametrize(
    ("walltime_s", "told"), [(None, "to the end"), (3600, "the walltime suffices"), (600, "about 4 jobs")]
)
def test_a_run_that_goes_on_tells_its_rate_and_what_is_left(tmp_path, walltime_s, told):
    said = progress(_run(tmp_path, 4), walltime_s)
    assert (
        said.startswith("loss \u2588\u2586\u2583\u2581 5, 2 samples/s, 36.0 min to the end") and told in said
    )


def test_a_run_that_is_done_has_nothing_left_and_a_new_one_says_nothing(tmp_path):
    assert progress(_run(tmp_path, 10)).endswith("-1, 2 samples/s")
    assert progress(tmp_path / "none") == ""
    (tmp_path / "metrics.jsonl").write_text('{"torn')
    assert progress(tmp_path) == ""


@pytest.mark.parametrize("last", ['{"train_loss": 1.0, "seco', '{"train_loss": 1, "seconds": null}', "[1]"])
def test_a_line_that_is_being_written_hides_nothing(tmp_path, last):
    run = _run(tmp_path, 4)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(last)
    assert "5, 2 samples/s, 36.0 min to the end, the walltime suffices" in progress(run, 3600)


def test_a_run_of_iterations_is_told_its_epochs(tmp_path):
    run = _run(tmp_path, 4, epochs=0)
    assert "36.0 min to the end" in progress(run, epochs=10) and "to the end" not in progress(run)


def test_a_sparkline_shows_all_of_its_range_in_few_characters():
    assert sparkline([1.0, 2.0]) == "\u2581\u2588" and sparkline([]) == "" and sparkline([3.0]) == "\u2581"
    assert len(sparkline([float(i) for i in range(1000)])) == 24
    assert sparkline([1.0, float("nan"), 2.0]) == "\u2581\u2588"
    assert [in_time(s) for s in (5, 90, 7200, 200_000)] == ["5 s", "1.5 min", "2.0 h", "2.3 d"]
