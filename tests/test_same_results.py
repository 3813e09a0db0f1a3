"""scripts/same_results finds a difference of one key or parameter, and none between a checkout and itself."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from importlib.machinery import SourceFileLoader
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from support.purposes import named_purposes

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPT = CHECKOUT / "scripts" / "same_results"
MET = Path(__file__).parent / "golden" / "purposes_met.yaml"  # purpose of draws: a case that meets it


@pytest.fixture(scope="module")
def same_results():
    loader = SourceFileLoader("same_results", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    yield module
    del sys.modules[loader.name]


def asked(*words, **environment):
    line = [sys.executable, SCRIPT, *words]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, cwd=CHECKOUT)


@pytest.fixture
def fabricated(tmp_path):
    """Return what writes a run directory, of a network with one weight of two values."""

    def write(name, weight=(0.0, 1.0), seconds=1.0, n_epochs=2, **changed):
        run = tmp_path / name
        for epoch in range(n_epochs):
            checkpoint = run / "checkpoints" / f"epoch_{epoch:04d}"
            checkpoint.mkdir(parents=True)
            weights = torch.tensor(weight if epoch == n_epochs - 1 else (2.0, 2.0))
            torch.save({"model": {"0.weight": weights}}, checkpoint / "learner.pt")
            torch.save({"mean": torch.rand(3)}, checkpoint / "buffers_000000.pt")
        lines = [{"epoch": epoch, "val_loss": None, "order_hash": "ab"} for epoch in range(n_epochs)]
        lines[-1] |= changed
        text = "".join(json.dumps({**line, "seconds": {"total": seconds}}) + "\n" for line in lines)
        (run / "metrics.jsonl").write_text(text)
        return run

    return write


def test_seconds_are_no_difference(same_results, fabricated):
    told = {"n_moved": 1}
    before = fabricated("before", exchange={**told, "waited": 0.1})
    after = fabricated("after", exchange={**told, "waited": 0.2}, seconds=2.0)
    assert same_results.difference(before, after) == ""


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"val_loss": 0.5}, "metrics.jsonl, epoch 1, val_loss: null before, 0.5 after"),
        ({"order_hash": "ac"}, 'metrics.jsonl, epoch 1, order_hash: "ab" before, "ac" after'),
        ({"more": 1}, "metrics.jsonl, epoch 1, more: nothing before, 1 after"),
        ({"weight": (0.0, 1.5)}, "learner.pt, parameter 0.weight: 1 of 2 values differ, by 0.5 at most"),
        ({"weight": (-0.0, 1.0)}, "learner.pt, parameter 0.weight: 1 of 2 values differ, by 0 at most"),
        ({"weight": (0.0,)}, "parameter 0.weight: float32 (2,) before, float32 (1,) after"),
        ({"n_epochs": 3}, "metrics.jsonl: 2 epochs before, 3 after"),
    ],
)
def test_the_first_difference_is_named(same_results, fabricated, changed, found):
    assert same_results.difference(fabricated("before"), fabricated("after", **changed)).endswith(found)


def test_other_scores_are_a_difference(same_results, tmp_path):
    for name, scores in (("before", [1.0, 2.0]), ("after", [1.0, 2.5])):
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "scores.h5", "w") as file:
            file["score"], file.attrs["seconds"] = np.array(scores), len(name)
    found = same_results.difference(tmp_path / "before", tmp_path / "after")
    assert found == "scores.h5, score: 1 of 2 values differ, by 0.5 at most"
    assert same_results.difference(tmp_path / "after", tmp_path / "after") == ""


def test_runs_that_left_nothing_are_not_the_same(same_results, fabricated, tmp_path):
    nothing, run = tmp_path / "nothing", fabricated("run")
    assert "neither metrics.jsonl nor an HDF5 file" in same_results.difference(nothing, nothing)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint was written" in same_results.difference(run, run)


@pytest.mark.nightly
def test_a_checkout_has_the_same_results_as_itself(tmp_path):
    kept = tmp_path / "kept"
    done = asked(".", ".", "visual_atoms_varied", "--ranks", "1", "--keep", kept, HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("visual_atoms_varied, 1 rank: the same")
    assert (kept / "after" / "visual_atoms_varied_1_ranks" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((".", ".", "digits_nothing"), "digits_nothing: no such case; --list names them all"),
        ((".",), "BEFORE and AFTER are needed, each a folder or a commit; see --help"),
        (("nowhere", "."), "nowhere: neither a folder that holds kakurenbo_hpc nor a commit"),
        ((".", ".", "--ranks", "0"), "--ranks 0: must be numbers of ranks, separated by commas"),
    ],
)
def test_bad_arguments_are_told_in_one_line(words, told):
    done = asked(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"same_results: {told}\n")


MEASURES = ("gradient probe", "probe")  # what kakurenbo probe draws changes no run


def test_the_list_meets_every_purpose_of_a_random_draw(same_results):
    """As recorded; the record is compared with runs below."""
    met = yaml.safe_load(MET.read_text(encoding="utf-8"))
    named = named_purposes((CHECKOUT / "kakurenbo_hpc").rglob("*.py"))
    for purpose in MEASURES:
        del named[purpose]
    for purpose, places in named.items():
        advice = f"add a case that meets it to {SCRIPT.name}, and both to {MET.name}"
        assert any(fnmatchcase(one, purpose) for one in met), f"{purpose!r}, of {min(places)}: {advice}"
    for one in met:
        assert any(fnmatchcase(one, purpose) for purpose in named), f"{MET.name}: nothing draws for {one!r}"
    assert set(met.values()) <= same_results.CASES.keys()


def test_purposes_are_found_where_they_are_handed_over(tmp_path):
    text = """
def key(seed, purpose, epoch=0): ...
def draw(ids, purpose): return key(1, purpose)
def plan(step, shifted):
    purpose = "shift" if shifted else f"step {step}"
    return key(1, "order"), draw(step, purpose="by name"), key(1, purpose), rng.draw(8, 30)
"""
    (tmp_path / "some.py").write_text(text)
    assert named_purposes([tmp_path / "some.py"]).keys() == {"order", "by name", "shift", "step *"}
    (tmp_path / "some.py").write_text(text.replace("    purpose = ", "    other = "))
    with pytest.raises(ValueError, match="some.py:6: a purpose that is no literal"):
        named_purposes([tmp_path / "some.py"])


RECORDS = """

_key = key


def key(seed, purpose, epoch=0):
    with open({told!r}, "a") as file:
        file.write(purpose + "\\n")
    return _key(seed, purpose, epoch)
"""


@pytest.mark.nightly
def test_each_case_meets_the_purposes_that_the_record_says(same_results, tmp_path):
    """In a copy of the package that writes down the purpose of every key."""
    met, copy, told = yaml.safe_load(MET.read_text(encoding="utf-8")), tmp_path / "copy", tmp_path / "told"
    for name in ("kakurenbo_hpc", "jobs", "launch"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "kakurenbo_hpc" / "core" / "rng.py", "a") as file:
        file.write(RECORDS.format(told=str(told)))
    with contextlib.ExitStack() as at_end:
        side = same_results.Side("copy", str(copy), tmp_path, at_end)
        comparison = same_results.Comparison(side, side, tmp_path / "runs")
        for case in sorted(set(met.values())):
            told.write_text("")
            comparison.results(side, case, 2 if "local" in case else 1)  # one rank exchanges with nobody
            heard = set(told.read_text().splitlines())
            assert heard >= {purpose for purpose, by in met.items() if by == case}, case
            assert heard <= met.keys(), "add them to the record"
