"""Runs of many epochs need no more memory than short ones."""

from pathlib import Path

from support.start_ranks import start

MANY_EPOCHS = Path(__file__).parent / "programs" / "many_epochs.py"


def test_a_thousand_epochs_do_not_grow(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # what several arenas keep is more than what may grow
    ended = start(1, MANY_EPOCHS, tmp_path / "run", 1000, 200)
    assert ended.returncode == 0, ended.stderr[-2000:]
    first, *later = map(int, ended.stdout.splitlines()[1:])
    assert len(later) == 4
    assert max(later) - first < 1.5e6, "bytes; two kilobytes an epoch would be more"
