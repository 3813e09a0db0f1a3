"""The rank's side of `rank_session`: pytest inside one MPI rank, running what the outer pytest sends.

`rank_session` starts `mpirun -n N python in_rank.py SETTINGS`. Each rank connects to its socket, collects the
same files, and runs one test after the other. Everything that is printed goes to the rank's own log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import pytest

RANK = pytest.StashKey["RankPlugin"]()


class RankPlugin:
    """Runs the tests that arrive over the connection, and sends every report as soon as it is made."""

    def __init__(self, connection: Connection, folder: Path, n: int, options: dict[str, Any]):
        self.folder, self.n, self.number = folder, n, 0
        self._connection, self._options = connection, options
        self._sending = threading.Lock()
        self._commands: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._main = threading.get_ident()
        # A thread, so that a rank which hangs in MPI still tells where, and ends with the outer pytest.
        threading.Thread(target=self._listen, name="rank_session", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                command = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if command[0] == "where":
                self._send("where", self._where())
            else:
                self._commands.put(command)

    def _send(self, *message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def _where(self) -> str:
        stack = traceback.extract_stack(sys._current_frames()[self._main])
        ours = [frame for frame in stack if not re.search(r"/_pytest/|/pluggy/|/in_rank.py$", frame.filename)]
        return "".join(traceback.format_list(ours[-8:]))

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config
        config.stash[RANK] = self
        vars(config.option).update(self._options)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from _pytest.runner import runtestprotocol

        items = {item.nodeid: item for item in session.items}
        self._send("ready", sorted(items))
        while (command := self._commands.get())[0] == "run":
            _, self.number, nodeid, following = command
            runtestprotocol(items[nodeid], nextitem=items.get(following))
            self._send("done")
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        to_plain = self._config.hook.pytest_report_to_serializable
        self._send("report", to_plain(config=self._config, report=report))


@pytest.fixture
def comm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """All ranks, on a communicator of this test's own."""
    yield from _opened(request.config.stash[RANK].n)


@pytest.fixture(scope="module")
def module_comm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """All ranks, for fixtures that a whole file shares."""
    yield from _opened(request.config.stash[RANK].n)


@pytest.fixture
def comm_of(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Any]]:
    """Opens communicators of the first n ranks only, and returns None on the others. Collective."""
    yield from _parts(request.config.stash[RANK].n)


@pytest.fixture(scope="module")
def module_comm_of(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Any]]:
    """The same, for fixtures that a whole file shares."""
    yield from _parts(request.config.stash[RANK].n)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Path:
    """A folder of this test, one for all ranks: files that each rank writes need names of their own."""
    rank, name = request.config.stash[RANK], re.sub(r"[^a-zA-Z0-9]+", "_", request.node.name)
    path = rank.folder / f"{rank.number:03}_{name[:40]}"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def tmp_path_factory(request: pytest.FixtureRequest) -> SharedFolders:
    """Makes folders that are the same on all ranks, if all ranks ask for them in the same order."""
    return SharedFolders(request.config.stash[RANK].folder)


class SharedFolders:
    """Stands for pytest's TempPathFactory."""

    def __init__(self, folder: Path):
        self._folder, self._n_made = folder, 0

    def getbasetemp(self) -> Path:
        return self._folder

    def mktemp(self, basename: str, numbered: bool = True) -> Path:
        path = self._folder / (f"{basename}{self._n_made}" if numbered else basename)
        self._n_made += 1
        path.mkdir(exist_ok=True)
        return path


def _opened(n: int) -> Iterator[Any]:
    if n == 1:
        from kakurenbo_hpc.distributed.comm import SerialComm as Comm
    else:
        from kakurenbo_hpc.distributed.comm_mpi import MpiComm as Comm

    with _no_group_left():
        comm = Comm()
        yield comm
    comm.close()


def _parts(n_all: int) -> Iterator[Callable[[int], Any]]:
    from mpi4py import MPI

    from kakurenbo_hpc.distributed.comm import SerialComm
    from kakurenbo_hpc.distributed.comm_mpi import MpiComm

    opened = []

    def part(n: int) -> Any:
        assert n <= n_all, f"{n} of {n_all} ranks"
        mpi = MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank < n else MPI.UNDEFINED)
        if mpi == MPI.COMM_NULL:
            return None
        opened.append(SerialComm() if n == 1 else MpiComm(mpi))
        mpi.Free()
        return opened[-1]

    with _no_group_left():
        yield part
    for comm in opened:
        comm.close()


@contextlib.contextmanager
def _no_group_left() -> Iterator[None]:
    """Destroy a process group that a failed test has left: DDP would take it for the host program's."""
    had_group = _has_process_group()
    yield
    if _has_process_group() and not had_group:
        sys.modules["torch.distributed"].destroy_process_group()


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _log_to(path: Path) -> None:
    """Send all output of this process and its children to a file, unbuffered: nothing is lost if it dies."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
        stream.reconfigure(write_through=True)
    os.close(log)


def main(settings: dict[str, Any]) -> None:
    rank, size = 0, 1
    if settings["n"] > 1:
        from mpi4py import MPI

        rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    folder = Path(settings["folder"])
    connection = Client(settings["address"], "AF_UNIX")
    connection.send((rank, size, os.getppid()))
    _log_to(folder / f"rank_{rank}.log")
    plugin = RankPlugin(connection, folder, settings["n"], settings["options"])
    code = pytest.main(settings["arguments"], plugins=[plugin, sys.modules[__name__]])
    sys.exit(0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(code))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # as conftest.py does, and not this folder
    main(json.loads(Path(sys.argv[1]).read_text()))
