"""Blocks of a file, small enough to stay in a core's cache, read through the page cache or past it."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..read_at import read_at

BLOCK = 256 << 10  # bytes: half of a small second-level cache, the rest is for what is computed of them
_REQUEST = 4 << 20  # bytes of one read past the page cache
_ALIGNED = 4096  # offsets, lengths and addresses of such reads are multiples of it


def blocks_of(array: np.ndarray, unit: int) -> Iterator[np.ndarray]:
    """Yield an array's numbers, (k,) at a time, a multiple of ``unit`` numbers each."""
    flat, n = array.reshape(-1), _at_once(unit * array.itemsize) // array.itemsize
    for at in range(0, len(flat), n):
        yield flat[at : at + n]


def read_blocks(
    handle: int, offset: int, n_bytes: int, unit: int, direct: bool, what: str
) -> Iterator[np.ndarray]:
    """Yield bytes of an open file, (k,) uint8 at a time, each block in the memory of the one before.

    Args:
        handle: of the file, opened by ``open_file``.
        offset: of the first byte.
        n_bytes: how many in all.
        unit: every block holds a multiple of so many bytes.
        direct: read past the page cache.
        what: is read, for the message.

    Raises:
        OSError: the file ends before, or cannot be read.
    """
    if direct:
        yield from _read_directly(handle, offset, n_bytes, unit, what)
        return
    size = _at_once(unit)
    memory = np.empty(min(size, n_bytes), np.uint8)
    for done in range(0, n_bytes, size):
        block = memory[: n_bytes - done]
        read_at(handle, block.data, offset + done, what, n_bytes - done - len(block))
        yield block


def open_file(path: Path, direct: bool) -> int:
    """Return a handle of a file, for reading."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))


def can_read_directly(path: Path) -> bool:
    """Return whether a file can be read past the page cache: not every file system has that."""
    try:
        handle = open_file(path, direct=True)
    except OSError:
        return False
    try:
        os.preadv(handle, [mmap.mmap(-1, _ALIGNED)], 0)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _at_once(unit: int) -> int:
    return max(BLOCK // unit, 1) * unit


def _read_directly(handle: int, offset: int, n_bytes: int, unit: int, what: str) -> Iterator[np.ndarray]:
    size = _at_once(unit)
    memory = np.frombuffer(mmap.mmap(-1, _REQUEST + -(-unit // _ALIGNED) * _ALIGNED), np.uint8)
    done = 0
    while done < n_bytes:
        begin = (offset + done) // _ALIGNED * _ALIGNED
        skipped, wanted = offset + done - begin, n_bytes - done
        n = min(len(memory), skipped + wanted)
        aligned = min(-(-n // _ALIGNED) * _ALIGNED, len(memory))
        n_read = os.preadv(handle, [memory[:aligned].data], begin)
        if n_read < n:  # what is left, at the end of a file mostly, is not aligned
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) & ~os.O_DIRECT)
            read_at(handle, memory[n_read:n].data, begin + n_read, what, skipped + wanted - n)
        found = memory[skipped : skipped + (n - skipped) // unit * unit]
        for at in range(0, len(found), size):
            yield found[at : at + size]
        done += len(found)
