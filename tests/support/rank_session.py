"""Pytest plugin: tests marked `@pytest.mark.ranks(n)` run inside MPI ranks, all of them in one `mpirun -n N`.

Such a test asks for the fixture `comm` (a `Comm` of the package) and runs on every rank at once:

    @pytest.mark.ranks(2, 3)            # once on two ranks, once on three
    def test_sum(comm):
        assert comm.sum(np.array([1])) == comm.size

From outside it is a test like any other: selected, timed and reported by its own name. This pytest starts the
ranks when the first such test comes, sends them one test at a time over a socket, and merges their reports: a
test passes if it passes on all ranks. If it fails on one, the others have `ranks_grace_s` to finish. After
that, or at the test's time limit, or when a rank has died, all ranks are killed, and the next test starts new
ones. So a rank that waits for one that failed holds nobody up; but a test that kills ranks on purpose starts
its own.

Fixtures on the ranks: `comm`; `comm_of(n)`, of the first n of them, None on the others; `module_comm` and
`module_comm_of` for fixtures that a whole file shares; `tmp_path` and `tmp_path_factory` with folders that
are the same on all ranks; all others are pytest's own, one for each rank. Hypothesis would draw other
examples on every rank. A module with such tests does not import mpi4py at its top: the outer pytest reads it,
too.
"""

from __future__ import annotations

import time
import warnings

import pytest

from support.rank_reports import merge, report_of
from support.rank_start import RankSession, StartError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("ranks_grace_s", "seconds that ranks go on after a test failed on one", default="5")
    parser.addini("ranks_limit_s", "most seconds of a test whose marker names no limit_s", default="120")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "ranks(n, ..., limit_s=120): run the test inside n MPI ranks; several n, several tests"
    )
    if not any(type(plugin).__name__ == "RankPlugin" for plugin in config.pluginmanager.get_plugins()):
        config.pluginmanager.register(RankSessions(config), "rank_sessions")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = _marker(metafunc.definition)
    if marker is not None and len(marker.args) > 1:
        metafunc.fixturenames.append("n_ranks")
        metafunc.parametrize("n_ranks", marker.args, ids=lambda n: f"{n}ranks")


def _marker(item: pytest.Item) -> pytest.Mark | None:
    # The same marker without arguments only says which tier a test belongs to.
    return next((marker for marker in item.iter_markers("ranks") if marker.args), None)


def n_ranks(item: pytest.Item) -> int:
    """Return how many ranks a test runs inside, 0 for a test that runs here."""
    marker = _marker(item)
    if marker is None:
        return 0
    return marker.args[0] if len(marker.args) == 1 else item.callspec.params["n_ranks"]


class RankSessions:
    """The outer pytest's part: at most one session of ranks is up at a time."""

    def __init__(self, config: pytest.Config):
        self._config = config
        self._session: RankSession | None = None
        self._broken: dict[int, str] = {}  # by number of ranks: why a session could not start
        self._number = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=n_ranks)  # stable: each number of ranks is started once

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not n_ranks(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # An earlier test of this file, which ran here, may have left fixtures for this one.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def pytest_unconfigure(self) -> None:
        if self._session is not None:
            self._session.stop()

    def _reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        n, begun = n_ranks(item), time.time()
        try:
            session = self._open(item, n)
        except StartError as problem:
            self._broken[n] = str(problem)
            return [report_of(item, "setup", "failed", str(problem), begun), report_of(item, "teardown")]
        start_up_s = time.time() - begun
        self._number += 1
        follows = nextitem is not None and n_ranks(nextitem) == n
        limit_s = _marker(item).kwargs.get("limit_s") or float(self._config.getini("ranks_limit_s"))
        result = session.run(self._number, item.nodeid, nextitem.nodeid if follows else "", limit_s)
        if not result.whole or not follows:
            self._session = None
            code = session.stop()
            if result.whole and code:
                told = f"mpirun ended with exit code {code} after the last test\n{session.log()}"
                result.ranks[0].trouble = told
        if self._config.getoption("capture") == "no":
            print(*result.output(), sep="\n")
        return merge(item, result, start_up_s)

    def _open(self, item: pytest.Item, n: int) -> RankSession:
        if n in self._broken:
            raise StartError(f"no {n} ranks: their start failed before")
        if self._session is not None and (self._session.n != n or not self._session.alive()):
            if not self._session.alive():
                with warnings.catch_warnings():
                    warnings.simplefilter("always")  # an error here would not be this test's
                    item.warn(
                        pytest.PytestWarning(f"ranks ended after their last test\n{self._session.log()}")
                    )
            self._session.stop()
            self._session = None
        if self._session is None:
            tests = [other for other in item.session.items if n_ranks(other) == n]
            self._session = RankSession(n, tests, self._config)
        return self._session
