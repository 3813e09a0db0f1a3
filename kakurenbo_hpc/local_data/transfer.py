"""File transfers between ranks, in pieces: read and sent, received and written.

Samples move between nodes here: in an exchange, which ``exchange.py`` plans and ``shards.py`` starts while an
epoch trains, and in staging (``shared_reading.py``).
Every rank handles its pieces, outgoing and incoming, in the order of (number of the move, offset), which all
ranks share. So the first of all unfinished pieces is the next one both for its sender and for its receiver:
there is no deadlock, however few pieces a rank holds at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..distributed.comm import Comm, Transfer
from ..errors import DataError
from .node_cache import NodeCache

PIECE = 8 << 20  # bytes
AT_A_TIME = 4  # pieces that a rank holds in memory each way, some at the disk, some on the network


@dataclass(frozen=True)
class FileMove:
    """One file that moves to or from another rank.

    Attributes:
        number: the same on both ranks, unique over all ranks.
        name: of the file in both caches.
        size: in bytes.
        changed: modification time of its original, in ns.
        rank: the other rank.
    """

    number: int
    name: str
    size: int
    changed: int
    rank: int


class FileExchange:
    """This rank's part of an exchange of files; a sender keeps its files until all ranks have finished."""

    def __init__(
        self, outgoing: Iterable[FileMove], incoming: Iterable[FileMove], store: NodeCache, comm: Comm
    ):
        """Begin; outgoing and incoming moves are in the order of their numbers."""
        self._store, self._comm = store, comm
        self._unsent, self._unreceived = self._pieces(outgoing), self._pieces(incoming)
        # Buffers are reused: fresh memory costs as much as a copy into it.
        self._free: list[np.ndarray] = []
        self._sends: deque[_Piece] = deque()
        self._receives: deque[_Piece] = deque()
        self._disk = ThreadPoolExecutor(2)
        self.poll()

    def poll(self) -> None:
        """Make progress without waiting; called between steps, on the main thread.

        Raises:
            DataError: a disk fails.
        """
        moved = True
        while moved:
            self._begin()
            sent, received = self._finish_first_send(), self._finish_first_receive()
            moved = sent or received

    def finish(self) -> None:
        """Wait until everything incoming is written and everything outgoing is sent."""
        while self._sends or self._receives:
            first = min(
                (queue[0] for queue in (self._sends, self._receives) if queue),
                key=lambda piece: piece.order,
            )
            if self._sends and first is self._sends[0]:
                self._finish_sending(self._sends.popleft(), wait=True)
            else:
                self._finish_receiving(self._receives.popleft(), wait=True)
            self.poll()
        self._disk.shutdown()

    def _begin(self) -> None:
        """Start as many pieces as a rank may hold at a time."""
        while len(self._sends) < AT_A_TIME and (piece := next(self._unsent, None)):
            piece.io = self._disk.submit(_read, self._store.folder / piece.move.name, piece)
            self._sends.append(piece)
        while len(self._receives) < AT_A_TIME and (piece := next(self._unreceived, None)):
            piece.transfer = self._comm.post_receive(piece.data, piece.move.rank)
            self._receives.append(piece)
        for piece in self._sends:
            if piece.transfer is None and piece.io is not None:
                if not piece.io.done():
                    break  # pieces for one rank must be sent in order
                piece.io.result()
                piece.transfer = self._comm.post_send(piece.data, piece.move.rank)

    def _finish_first_send(self) -> bool:
        """Release the first outgoing piece if it is sent; return whether it is."""
        if not self._sends or not self._finish_sending(self._sends[0], wait=False):
            return False
        self._sends.popleft()
        return True

    def _finish_first_receive(self) -> bool:
        """Release the first incoming piece if it is written; return whether it is."""
        if not self._receives or not self._finish_receiving(self._receives[0], wait=False):
            return False
        self._receives.popleft()
        return True

    def _pieces(self, moves: Iterable[FileMove]) -> Iterator[_Piece]:
        for move in moves:
            for offset in range(0, max(1, move.size), PIECE):
                buffer = self._free.pop() if self._free else np.empty(PIECE, np.uint8)
                yield _Piece(move, offset, buffer, buffer[: move.size - offset])

    def _finish_sending(self, piece: _Piece, wait: bool) -> bool:
        if piece.transfer is None:
            if not wait:
                return False
            if piece.io is not None:
                piece.io.result()
            piece.transfer = self._comm.post_send(piece.data, piece.move.rank)
        if not _is_complete(piece.transfer, wait):
            return False
        self._free.append(piece.buffer)
        return True

    def _finish_receiving(self, piece: _Piece, wait: bool) -> bool:
        if piece.io is None:
            if not _is_complete(piece.transfer, wait):
                return False
            piece.io = self._disk.submit(_write, self._store.partial_path(piece.move.name), piece)
        if not (wait or piece.io.done()):
            return False
        piece.io.result()
        if piece.offset + len(piece.data) == piece.move.size:
            self._store.commit(piece.move.name, piece.move.changed)
        self._free.append(piece.buffer)
        return True


@dataclass
class _Piece:
    """Bytes of a file from an offset: read then sent, or received then written."""

    move: FileMove
    offset: int
    buffer: np.ndarray
    data: np.ndarray
    transfer: Transfer | None = None
    io: Future | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.move.number, self.offset


def _is_complete(transfer: Transfer | None, wait: bool) -> bool:
    assert transfer is not None
    if wait:
        transfer.wait()
    return wait or transfer.done()


def _read(path: Path, piece: _Piece) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(piece.offset)
            rest = memoryview(piece.data)  # type: ignore[arg-type]
            while n := file.readinto(rest):
                rest = rest[n:]
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read ({problem.strerror}); resume the run, which fetches it again"
        ) from None
    if len(rest):
        raise DataError(f"{path}: ends {len(rest)} bytes early; resume the run, which fetches it again")


def _write(path: Path, piece: _Piece) -> None:
    try:
        with open(path, "r+b" if piece.offset else "wb", buffering=0) as file:
            file.seek(piece.offset)
            rest = memoryview(piece.data)  # type: ignore[arg-type]
            while len(rest):
                rest = rest[file.write(rest) :]
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be written ({problem.strerror}); give a larger scratch folder"
        ) from None
