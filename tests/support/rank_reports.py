"""What several ranks made of one test, as one report for each phase."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative

PHASES = ("setup", "call", "teardown")


@dataclass
class RankResult:
    """What one rank made of one test. trouble: why it did not come to the test's end."""

    reports: list[pytest.TestReport] = field(default_factory=list)
    done: bool = False
    trouble: str = ""
    output: str = ""

    def phase_of_trouble(self) -> str:
        if not self.reports:
            return "setup"
        return "call" if self.reports[-1].when == "setup" and self.reports[-1].passed else "teardown"


@dataclass
class Result:
    """What all ranks made of one test. whole: every rank came to the end of it."""

    ranks: list[RankResult]
    seconds: float

    @property
    def whole(self) -> bool:
        return all(rank.done for rank in self.ranks)

    def output(self) -> list[str]:
        n, told = len(self.ranks), enumerate(self.ranks)
        return [f"[rank {i} of {n}]\n{rank.output}" for i, rank in told if rank.output]


def merge(item: pytest.Item, result: Result, start_up_s: float) -> list[pytest.TestReport]:
    """Return one report for each phase of a test on all ranks. start_up_s: counts as a part of its setup."""
    merged: list[pytest.TestReport] = []
    for phase in PHASES:
        failed_before = any(report.failed for report in merged)
        by_rank = [[report for report in rank.reports if report.when == phase] for rank in result.ranks]
        # Once a phase has failed, a rank that hangs in a later one tells nothing new.
        troubles = [
            "" if failed_before or rank.phase_of_trouble() != phase else rank.trouble for rank in result.ranks
        ]
        if any(by_rank) or any(troubles) or phase == "teardown":
            merged.append(_merge_phase(item, phase, by_rank, troubles))
        if any(troubles):
            merged[-1].duration = result.seconds - sum(report.duration for report in merged[:-1])
    merged[0].duration += start_up_s
    shown = [report for report in merged if report.failed] or merged[-2:-1]
    for report in shown:
        for i, rank in enumerate(result.ranks):
            report.sections += [
                (f"{name}, rank {i} of {len(result.ranks)}", text)
                for one in rank.reports if one.when == report.when for name, text in one.sections
            ]  # fmt: skip
            if rank.output:
                report.sections.append((f"Output of rank {i} of {len(result.ranks)}", rank.output))
    return merged


def _merge_phase(
    item: pytest.Item, phase: str, by_rank: list[list[pytest.TestReport]], troubles: list[str]
) -> pytest.TestReport:
    reports = [report for reports in by_rank for report in reports]
    skipped = [rank for rank, reports in enumerate(by_rank) if any(report.skipped for report in reports)]
    failures = [
        (rank, report.longrepr) for rank, reports in enumerate(by_rank) for report in reports if report.failed
    ]
    failures += [(rank, trouble) for rank, trouble in enumerate(troubles) if trouble]
    if skipped and len(skipped) < len(by_rank) and not failures:
        failures = [
            (rank, f"skipped here, but not on all ranks: {_reason(by_rank[rank])}") for rank in skipped
        ]
    merged = report_of(item, phase)
    if reports:
        merged.start, merged.stop = min(r.start for r in reports), max(r.stop for r in reports)
        merged.duration = max(sum(r.duration for r in reports) for reports in by_rank)
        merged.user_properties = reports[0].user_properties
    if failures:
        merged.outcome, merged.longrepr = "failed", _failures(item, failures, len(by_rank))
    elif skipped:
        [first, *_] = by_rank[0]
        merged.outcome, merged.longrepr = "skipped", first.longrepr
    if not failures and reports and hasattr(reports[0], "wasxfail"):
        merged.wasxfail = reports[0].wasxfail
    return merged


def _reason(reports: list[pytest.TestReport]) -> object:
    [longrepr] = [report.longrepr for report in reports if report.skipped]
    return longrepr[2] if isinstance(longrepr, tuple) else longrepr


def _failures(item: pytest.Item, failures: list[tuple[int, Any]], n: int) -> ReprExceptionInfo:
    """Return all failures, the cause first: what ranks raised, which of them died, and which waited."""
    order = ("was killed", "ended with")

    def place(failure: tuple[int, Any]) -> int:
        said = failure[1]
        return 2 - said.startswith(order) if isinstance(said, str) else 0

    alike: dict[str, tuple[list[int], Any]] = {}
    for rank, said in sorted(failures, key=place):
        alike.setdefault(str(said), ([], said))[0].append(rank)
    text = [f"{_named(ranks, n):-^78}\n{said}\n" for said, (ranks, _) in alike.items()]
    ranks, first = next(iter(alike.values()))
    crash = getattr(first, "reprcrash", None)
    message = crash.message if crash else str(first).splitlines()[0]
    path, line, _ = item.location
    where = (crash.path, crash.lineno) if crash else (path, line or 0)
    # Of types that pytest knows, so that pytest-xdist can send it on.
    return ReprExceptionInfo(
        ReprTracebackNative(text), ReprFileLocation(*where, f"{_named(ranks, n).strip()}: {message}")
    )


def _named(ranks: list[int], n: int) -> str:
    return f" rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {n} "


def report_of(
    item: pytest.Item, when: str, outcome: str = "passed", longrepr: Any = None, begun: float | None = None
) -> pytest.TestReport:
    now = time.time()
    keywords = dict.fromkeys(item.keywords, 1)
    begun = now if begun is None else begun
    return pytest.TestReport(
        item.nodeid, item.location, keywords, outcome, longrepr, when, [], now - begun, begun, now
    )
