"""Checkpoints by time, inside epochs: they change nothing, and a run resumes from each."""

import shutil

import pytest
from support.batch_runs import metrics
from support.runs import same_parameters, train_here

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.checkpoint_timer import CheckpointTimer
from kakurenbo_hpc.errors import DONE
from kakurenbo_hpc.rundir.checkpoint.names import is_inside

SETS = ["training.epochs=3", "model.options={width: 4, norm: batch}", "record.keep=5"]
METHODS = ["kakurenbo, confidence: 0.2, fraction_epochs: [0]", "selective_backprop", "sample_importance"]


@pytest.mark.parametrize(
    "method", [METHODS[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in METHODS[1:])]
)
def test_checkpoints_inside_epochs_change_nothing_and_can_be_resumed_from(method, tmp_path, monkeypatch):
    sets = [*SETS, f"selection={{method: {method}}}"]
    plain, timed, resumed = (tmp_path / name for name in ("plain", "timed", "resumed"))
    assert train_here("digits_kakurenbo", sets, plain, SerialComm()) == DONE
    kept = []

    def keep(folder, newest, keep):
        """Keep one of the second epoch, and the job and the metrics of that moment."""
        if is_inside(newest) and newest.name.startswith("epoch_0001") and not kept:
            kept.append(newest.name)
            shutil.copytree(timed, resumed)

    monkeypatch.setattr("kakurenbo_hpc.rundir.checkpoint.retention._remove_old", keep)
    every_step = [*sets, "record.checkpoint_seconds=0.0001"]
    assert train_here("digits_kakurenbo", every_step, timed, SerialComm()) == DONE
    assert len([path for path in (timed / "checkpoints").glob("epoch_*") if is_inside(path)]) > 10
    assert train_here("digits_kakurenbo", every_step, resumed, SerialComm(), resume=True) == DONE
    assert metrics(plain) == metrics(timed) == metrics(resumed) and kept
    assert same_parameters(plain, timed, 2) and same_parameters(plain, resumed, 2)


def test_the_timer_goes_off_a_step_after_its_time_and_begins_anew(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    timer = CheckpointTimer(SerialComm(), 10.0)
    assert not timer.is_due() and not timer.is_due()
    now[0] = 10.0
    assert [timer.is_due(), timer.is_due()] == [False, True]
    timer.restart()
    assert [timer.is_due(), timer.is_due()] == [False, False]
    never = CheckpointTimer(SerialComm(), None)
    now[0] = 1e6
    assert [never.is_due(), never.is_due()] == [False, False]
