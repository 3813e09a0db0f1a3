"""File transfers between ranks during training: read, sent, received and written in pieces.

Every rank takes its pieces, outgoing and incoming, in the order of (number of the parcel, offset), which all
ranks share. So of all pieces that are under way the first one is the next both for its sender and for its
receiver: nobody waits in a circle, however few pieces a rank holds at a time.
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
    """One file that goes to, or comes from, another rank.

    number: the same on both, unique over all ranks. size: in bytes. changed: when its original last was, in
    ns.
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
        """Begin. outgoing, incoming: in the order of their numbers."""
        self._store, self._comm = store, comm
        self._to_send, self._to_receive = self._pieces(outgoing), self._pieces(incoming)
        # Buffers are used again: fresh memory costs as much as a copy into it.
        self._free: list[np.ndarray] = []
        self._leaving: deque[_Piece] = deque()
        self._arriving: deque[_Piece] = deque()
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
            left, arrived = self._push_out(), self._take_in()
            moved = left or arrived

    def finish(self) -> None:
        """Wait until all that comes is written and all that goes has left."""
        while self._leaving or self._arriving:
            first = min(
                (queue[0] for queue in (self._leaving, self._arriving) if queue),
                key=lambda piece: piece.order,
            )
            if self._leaving and first is self._leaving[0]:
                self._left(self._leaving.popleft(), wait=True)
            else:
                self._arrived(self._arriving.popleft(), wait=True)
            self.poll()
        self._disk.shutdown()

    def _begin(self) -> None:
        """Take up as many pieces as may be held at a time."""
        while len(self._leaving) < AT_A_TIME and (piece := next(self._to_send, None)):
            piece.io = self._disk.submit(_read, self._store.folder / piece.parcel.name, piece)
            self._leaving.append(piece)
        while len(self._arriving) < AT_A_TIME and (piece := next(self._to_receive, None)):
            piece.transfer = self._comm.post_receive(piece.data, piece.parcel.rank)
            self._arriving.append(piece)
        for piece in self._leaving:
            if piece.transfer is None and piece.io is not None:
                if not piece.io.done():
                    break  # what goes to one rank must go in order
                piece.io.result()
                piece.transfer = self._comm.post_send(piece.data, piece.parcel.rank)

    def _push_out(self) -> bool:
        """Let go of the first outgoing piece if it has left; return whether it has."""
        if not self._leaving or not self._left(self._leaving[0], wait=False):
            return False
        self._leaving.popleft()
        return True

    def _take_in(self) -> bool:
        """Let go of the first incoming piece if it is written; return whether it is."""
        if not self._arriving or not self._arrived(self._arriving[0], wait=False):
            return False
        self._arriving.popleft()
        return True

    def _pieces(self, parcels: Iterable[FileMove]) -> Iterator[_Piece]:
        for parcel in parcels:
            for offset in range(0, max(1, parcel.size), PIECE):
                buffer = self._free.pop() if self._free else np.empty(PIECE, np.uint8)
                yield _Piece(parcel, offset, buffer, buffer[: parcel.size - offset])

    def _left(self, piece: _Piece, wait: bool) -> bool:
        if piece.transfer is None:
            if not wait:
                return False
            if piece.io is not None:
                piece.io.result()
            piece.transfer = self._comm.post_send(piece.data, piece.parcel.rank)
        if not _over(piece.transfer, wait):
            return False
        self._free.append(piece.buffer)
        return True

    def _arrived(self, piece: _Piece, wait: bool) -> bool:
        if piece.io is None:
            if not _over(piece.transfer, wait):
                return False
            piece.io = self._disk.submit(_write, self._store.beside(piece.parcel.name), piece)
        if not (wait or piece.io.done()):
            return False
        piece.io.result()
        if piece.offset + len(piece.data) == piece.parcel.size:
            self._store.whole(piece.parcel.name, piece.parcel.changed)
        self._free.append(piece.buffer)
        return True


@dataclass
class _Piece:
    """Bytes of a file from an offset: read then sent, or received then written."""

    parcel: FileMove
    offset: int
    buffer: np.ndarray
    data: np.ndarray
    transfer: Transfer | None = None
    io: Future | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.parcel.number, self.offset


def _over(transfer: Transfer | None, wait: bool) -> bool:
    assert transfer is not None
    if wait:
        transfer.wait()
    return wait or transfer.done()


def _read(path: Path, piece: _Piece) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(piece.offset)
            left = memoryview(piece.data)  # type: ignore[arg-type]
            while n := file.readinto(left):
                left = left[n:]
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read ({problem.strerror}); resume the run, which fetches it again"
        ) from None
    if len(left):
        raise DataError(f"{path}: ends {len(left)} bytes early; resume the run, which fetches it again")


def _write(path: Path, piece: _Piece) -> None:
    try:
        with open(path, "r+b" if piece.offset else "wb", buffering=0) as file:
            file.seek(piece.offset)
            left = memoryview(piece.data)  # type: ignore[arg-type]
            while len(left):
                left = left[file.write(left) :]
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be written ({problem.strerror}); give a larger scratch folder"
        ) from None
