"""One start of mpirun whose ranks run tests, one after the other; kills them where a test does not end."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil
import pytest

from support.rank_reports import RankResult, Result
from support.start_ranks import command, environment

IN_RANK = Path(__file__).with_name("in_rank.py")
START_S = 180  # until the ranks have imported everything and collected the tests; long on a busy machine
LAST_WORDS_S = 2  # for a rank that hangs to tell where, and for the exit code of one that died
END_S = 20  # until mpirun has ended after it was asked to
MOST_OUTPUT = 20_000  # characters of one rank that are shown


class StartError(Exception):
    """The ranks of a session did not come up."""


class RankSession:
    """One start of mpirun, whose ranks run tests until they are stopped.

    Raises StartError where they do not come up.
    """

    def __init__(self, n: int, tests: list[pytest.Item], config: pytest.Config):
        self.n, self._config = n, config
        self._folder: Path = config._tmp_path_factory.mktemp(f"ranks{n}-")
        self._here = Path(tempfile.mkdtemp(prefix="ranks-", dir="/tmp"))  # a socket's path must be short
        self._connections: list[Connection] = []
        self._shells: list[int] = []  # the parent process of each rank
        self._busy = False  # a test runs, or did not come to its end
        settings = {
            "n": n,
            "folder": str(self._folder),
            "address": str(self._here / "socket"),
            "arguments": [*sorted({str(test.path) for test in tests}), *_arguments(config)],
            "options": {name: config.getoption(name) for name in ("verbose", "tbstyle", "showlocals")},
        }
        (self._folder / "settings.json").write_text(json.dumps(settings))
        # The shell keeps its rank's exit code: mpirun tells that of one rank, and each MPI in other words.
        keep = f'"$@"; code=$?; echo $code >"{self._folder}/$$.exit"; exit $code'
        with socket.socket(socket.AF_UNIX) as server, open(self._folder / "mpirun.log", "wb") as log:
            server.bind(settings["address"])
            server.listen(n)
            *mpirun, python = command("mpirun" if n > 1 else "alone", n)
            self._mpirun = subprocess.Popen(
                [*mpirun, "sh", "-c", keep, "sh", python, str(IN_RANK), str(self._folder / "settings.json")],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                self._meet(server, {test.nodeid for test in tests})
            except BaseException:
                self._kill()
                raise

    def _meet(self, server: socket.socket, tests: set[str]) -> None:
        give_up = time.monotonic() + START_S
        server.settimeout(0.2)
        met: dict[int, tuple[Connection, int]] = {}
        while len(met) < self.n:
            try:
                connection = Connection(server.accept()[0].detach())
            except TimeoutError:
                if self.alive() and time.monotonic() < give_up:
                    continue
                ended = f"mpirun ended with exit code {self._mpirun.poll()}"
                late = f"{len(met)} of {self.n} ranks are there after {START_S} s"
                raise StartError(f"{late if self.alive() else ended}\n{self.log()}") from None
            rank, size, shell = connection.recv()
            if size != self.n:
                raise StartError(f"rank {rank} of {size} came, but {self.n} ranks were started\n{self.log()}")
            met[rank] = (connection, shell)
        self._connections, self._shells = zip(*(met[rank] for rank in range(self.n)), strict=True)
        for rank, connection in enumerate(self._connections):
            missing = tests
            with contextlib.suppress(EOFError, OSError):
                if connection.poll(max(0, give_up - time.monotonic())):
                    missing = tests - set(connection.recv()[1])
            if missing:
                told = f"{', '.join(sorted(missing)[:3])}\n{self.log()}\n{self._printed(rank, 0)}"
                raise StartError(
                    f"rank {rank} of {self.n} did not find all of its {len(tests)} tests: {told}"
                )

    def alive(self) -> bool:
        return self._mpirun.poll() is None

    def run(self, number: int, nodeid: str, following: str, limit_s: float) -> Result:
        """Run one test on all ranks.

        Args:
            number: of the test, in the order in which they run.
            nodeid: its name.
            following: the next test of this session, for which fixtures are kept, or "".
            limit_s: most seconds that it may take.
        """
        sizes = [path.stat().st_size if path.exists() else 0 for path in map(self._log_path, range(self.n))]
        ranks = [RankResult() for _ in range(self.n)]
        self._busy, begun = True, time.monotonic()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # one that has died is found below
                connection.send(("run", number, nodeid, following))
        self._hear(ranks, limit_s)
        self._busy = not all(rank.done for rank in ranks)
        seconds = time.monotonic() - begun
        for rank, result in enumerate(ranks):
            result.output = self._printed(rank, sizes[rank])
        return Result(ranks, seconds)

    def _hear(self, ranks: list[RankResult], limit_s: float) -> None:
        """Fill in what the ranks report, until all are done, or time is up."""
        grace_s = float(self._config.getini("ranks_grace_s"))
        end, why = time.monotonic() + limit_s, f"is not done after {limit_s:g} s, the limit"
        running = {connection: rank for rank, connection in enumerate(self._connections)}
        dead: list[int] = []
        from_plain = self._config.hook.pytest_report_from_serializable

        def hear(until: float) -> None:
            nonlocal end, why
            for connection in wait(list(running), max(0, until - time.monotonic())):
                rank = running[connection]
                try:
                    kind, *told = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    dead.append(rank)
                    if end > time.monotonic() + LAST_WORDS_S:
                        end, why = time.monotonic() + LAST_WORDS_S, f"was not done when rank {rank} died"
                    continue
                if kind == "done":
                    ranks[rank].done = True
                    del running[connection]
                elif kind == "where":
                    ranks[rank].trouble += f"; it is at\n{told[0]}"
                else:
                    report = from_plain(config=self._config, data=told[0])
                    ranks[rank].reports.append(report)
                    if report.failed and end > time.monotonic() + grace_s:
                        end = time.monotonic() + grace_s
                        why = f"is not done {grace_s:g} s after rank {rank} failed"

        while running and time.monotonic() < end:
            hear(end)
        for connection, rank in running.items():
            ranks[rank].trouble = why
            with contextlib.suppress(OSError):
                connection.send(("where",))
        asked = time.monotonic()
        while any("; it is at" not in ranks[rank].trouble for rank in running.values()):
            if time.monotonic() > asked + LAST_WORDS_S:
                break
            hear(asked + LAST_WORDS_S)
        for rank in dead:
            ranks[rank].trouble = self._death(rank)

    def _death(self, rank: int) -> str:
        path = self._folder / f"{self._shells[rank]}.exit"
        give_up = time.monotonic() + LAST_WORDS_S
        while not (told := path.read_text().strip() if path.exists() else ""):
            if not psutil.pid_exists(self._shells[rank]) or time.monotonic() > give_up:
                return "was ended with the others"
            time.sleep(0.02)
        code = int(told)
        if code > 128:
            return f"was killed by {signal.Signals(code - 128).name}"
        return f"ended with exit code {code}"

    def stop(self) -> int:
        """End the session, and return mpirun's exit code. Ranks that are inside a test are killed."""
        if not self._busy:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                for connection in self._connections:
                    connection.send(("stop",))
                self._mpirun.wait(END_S)
        self._kill()
        return self._mpirun.returncode

    def _kill(self) -> None:
        """Kill all ranks and what they started. mpirun, left alive, then tidies /tmp and /dev/shm."""
        ranks = [process for shell in self._shells for process in _with_children(shell)]
        everything = _with_children(self._mpirun.pid)
        _kill_all(ranks)
        if not ranks and self.alive():
            self._mpirun.terminate()
        try:
            self._mpirun.wait(END_S)
        except subprocess.TimeoutExpired:
            _kill_all(everything)
            self._mpirun.wait()
        for connection in self._connections:
            connection.close()
        shutil.rmtree(self._here, ignore_errors=True)

    def log(self) -> str:
        """Return what mpirun itself said, and what ranks said before they had logs of their own."""
        return (self._folder / "mpirun.log").read_text(errors="replace")[-MOST_OUTPUT:].rstrip()

    def _log_path(self, rank: int) -> Path:
        return self._folder / f"rank_{rank}.log"

    def _printed(self, rank: int, start: int) -> str:
        if not self._log_path(rank).exists():
            return ""
        with open(self._log_path(rank), "rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")[-MOST_OUTPUT:]


def _environment() -> dict[str, str]:
    plain = {name: value for name, value in environment().items() if name != "PYTEST_ADDOPTS"}
    return plain | {"OMP_NUM_THREADS": "1"}  # a rank's share of two cores


def _arguments(config: pytest.Config) -> list[str]:
    """Return the arguments of the ranks' pytest beside the files: what changes here how a test behaves."""
    words = [
        "--rootdir",
        str(config.rootpath),
        "--import-mode",
        config.getoption("importmode"),
        "--strict-markers",
    ]
    words += ["-c", str(config.inipath)] if config.inipath else []
    words += ["-o", "addopts=", "--capture=no", "-p", "no:terminal", "-p", "no:cacheprovider"]
    for option, name in (("-p", "plugins"), ("-W", "pythonwarnings"), ("-o", "override_ini")):
        words += [word for value in config.getoption(name) or [] for word in (option, value)]
    return words


def _with_children(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
