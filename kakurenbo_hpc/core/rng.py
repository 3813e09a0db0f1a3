"""Random numbers keyed by the sample: a counter-based hash.

A draw is a pure function of (seed, purpose, epoch, id, copy). It is the same on 1 or 1024 ranks, in any
loader worker, and after any resume; nothing has to be saved. The mixing function is splitmix64 (Steele, Lea,
Flood 2014).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Stream:
    """Random draws of one epoch of a run with this seed; epoch 0 also serves draws for the whole run."""

    seed: int
    epoch: int = 0

    def bits(self, ids: np.ndarray, purpose: str, copy: np.ndarray | int = 0) -> np.ndarray:
        """Return (n,) uint64: a draw of 64 bits for each id, keyed by (seed, purpose, epoch, id, copy)."""
        return bits(key(self.seed, purpose, self.epoch), ids, copy)

    def uniform(self, ids: np.ndarray, purpose: str, copy: np.ndarray | int = 0) -> np.ndarray:
        """Return (n,) float64 in [0, 1): a draw for each id, keyed by (seed, purpose, epoch, id, copy)."""
        return uniform(key(self.seed, purpose, self.epoch), ids, copy)

    def of_epoch(self, number: int) -> Stream:
        """Return the stream of another epoch of the same run."""
        return Stream(self.seed, number)

    def of_run(self) -> Stream:
        """Return the stream of draws that stay the same in all epochs."""
        return Stream(self.seed)


def key(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return the 64-bit key of one stream of draws; distinct purposes and epochs give independent streams."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def bits(stream: int, ids: np.ndarray, copy: np.ndarray | int = 0) -> np.ndarray:
    """Return one uniform 64-bit draw for each id.

    Args:
        stream: key of the stream.
        ids: (n,) int64.
        copy: (n,) or scalar.

    Returns:
        (n,) uint64.
    """
    x = ids.astype(
        np.uint64
    )  # a copy: mixed in place, since at 1.28M ids a temporary costs as much as the arithmetic
    x *= _GOLDEN
    x += np.uint64(stream)
    _mix(x)
    return of_copy(x, copy) if np.any(copy) else x


def of_copy(first: np.ndarray, copy: np.ndarray | int) -> np.ndarray:
    """Return draws of copies, (n,) uint64, from those of first copies; copy: (n,), or a scalar above 0."""
    again = first ^ np.asarray(copy, np.uint64) * _M1
    _mix(again)
    return np.where(copy, again, first) if np.ndim(copy) else again


def uniform(stream: int, ids: np.ndarray, copy: np.ndarray | int = 0) -> np.ndarray:
    """Return (n,) float64, uniform in [0, 1), with 53 random bits each."""
    return to_uniform(bits(stream, ids, copy))


def to_uniform(drawn: np.ndarray) -> np.ndarray:
    """Return (n,) float64 in [0, 1) from 64-bit draws."""
    return (drawn >> np.uint64(11)) * 2.0**-53


def one(stream: int, number: int = 0) -> int:
    """Return a single draw of 63 bits, for seeding a generator."""
    x = (number * int(_GOLDEN) + stream) & _MASK
    x = ((x ^ (x >> 30)) * int(_M1)) & _MASK
    x = ((x ^ (x >> 27)) * int(_M2)) & _MASK
    return (x ^ (x >> 31)) >> 1


def _mix(x: np.ndarray) -> None:
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= _M1
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= _M2
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
