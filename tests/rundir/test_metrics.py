"""Lines of metrics on a disk that fails: each epoch once, none torn, and those that are missing are known."""

import json
import os

from kakurenbo_hpc.rundir.metrics import Metrics


def test_a_line_that_the_disk_does_not_keep_comes_with_the_next_one(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path)
    metrics.rewind(None)
    metrics.add({"epoch": 0})
    with monkeypatch.context() as full:  # a network file system says so only when it syncs
        full.setattr(
            os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        metrics.add({"epoch": 1})
        assert metrics.write() == 1
    assert epochs(tmp_path) == [0]
    metrics.add({"epoch": 2})
    assert epochs(tmp_path) == [0, 1, 2] and metrics.write() == 0


def epochs(run):
    return [json.loads(text)["epoch"] for text in (run / "metrics.jsonl").read_text().splitlines()]
