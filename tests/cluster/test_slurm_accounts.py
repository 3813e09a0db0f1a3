"""A real Slurm that keeps accounts: what squeue and sacct say together, and accounts that do not exist."""

import os

import pytest
from support.batch_runs import ended, submit, until
from support.slurm_accounts import slurm_with_accounts_or_skip


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    with slurm_with_accounts_or_skip(tmp_path_factory.mktemp("accounts")) as slurm:
        yield slurm


def test_with_accounts_too_a_job_says_why_it_waits_and_who_cancelled_it(
    accounts, quick_machine, command_line, monkeypatch, tmp_path
):
    monkeypatch.setenv("SLURM_CONF", str(accounts.conf))
    run = tmp_path / "run"
    with pytest.raises(
        AssertionError, match="sbatch refuses: .*Invalid account or account/partition combination"
    ):
        submit(command_line, quick_machine(0, account="wrong"), run / "wrong")
    submit(command_line, quick_machine(0, queue="down"), run / "down", "--force")
    submit(command_line, quick_machine(0, queue="short"), run / "short", "--force")
    submit(command_line, quick_machine(0, extra=["--hold"]), run / "held")
    first = submit(command_line, quick_machine(3, account="project"), run / "failed")
    after = submit(
        command_line, quick_machine(0, extra=["--hold"]), run / "after", "--dependency", f"afterok:{first}"
    )
    recorded = ("sacct", "-X", "--noheader", f"--jobs={first}", "--format=State")
    until(
        lambda: "FAILED" in accounts.say(*recorded), lambda: accounts.say(*recorded)
    )  # it lags behind squeue
    assert ended(command_line, run / "failed") == "failed"
    accounts.say("scontrol", "release", after)
    assert ended(command_line, run / "after") == "failed"
    shown = command_line("status", run)
    for reason in ("PartitionDown", "PartitionTimeLimit", "JobHeldUser", "DependencyNeverSatisfied", " 3:0 "):
        assert reason in shown, shown
    command_line("cancel", run)
    assert [ended(command_line, run / name) for name in ("down", "short", "held")] == ["cancelled"] * 3
    assert f"CANCELLED by {os.getuid()} PartitionDown" in command_line("status", run / "down")
