"""kakurenbo data check reads every sample, and names those that cannot be read."""

import sys

import pytest
from support.original_formats import write_ade20k

from kakurenbo_hpc import cli


def checked(monkeypatch, capsys, path):
    words = ["kakurenbo", "data", "check", "infobatch/upernet_ade20k", "--set", f"data.path={path}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        cli.main()
    told = capsys.readouterr()
    return left.value.code, told.out.splitlines(), told.err.splitlines()


def test_it_reads_both_splits_and_names_each_file_that_is_wrong(tmp_path, monkeypatch, capsys):
    root = write_ade20k(tmp_path, 5, 3)
    code, out, err = checked(monkeypatch, capsys, root)
    assert (code, out, err) == (0, ["ade20k: all 8 samples can be read"], [])
    for place in ("annotations/training/ADE_train_00000004.png", "images/validation/ADE_val_00000002.jpg"):
        (root / place).write_bytes((root / place).read_bytes()[:-40])
        for about in (root / "manifest").glob("*.json"):
            about.unlink()
    code, out, err = checked(monkeypatch, capsys, root)
    assert code == 2 and [line.partition(":")[0].rpartition("/")[2] for line in out] == [
        "ADE_train_00000004.png",
        "ADE_val_00000002.jpg",
    ]
    assert err == [
        "kakurenbo: infobatch/upernet_ade20k: 2 of 8 samples cannot be read; the lines above say why"
    ]
