"""Staging: copies a rank's share of a data set to its node's disk, after a check of free space."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.dataset import DatasetSplits, SampleFiles
from ..errors import DataError, JobError
from ..rundir.path_checks import free_bytes, in_words
from .node_cache import NodeCache
from .shared_reading import Traffic, deal_missing, fetch_together, foreign_bytes

if TYPE_CHECKING:
    from ..distributed.world import World


class Part(NamedTuple):
    """Files of a data set, and the rows of those that this rank holds."""

    files: SampleFiles
    rows: Sequence[int]


def open_store(name: str, data: DatasetSplits, scratch: str | None, world: World) -> NodeCache:
    """Return this rank's cache, in the scratch folder of its node.

    Args:
        name: of the data set.
        data: its splits.
        scratch: a path, which may contain variables of the node's environment ($TMPDIR).
        world: gives rank and node.

    Raises:
        JobError: the data set cannot be staged, or there is no scratch folder.
        DataError: the cache cannot be used; perhaps on one rank only, so call this under
            ``comm.run_or_raise_together``.
    """
    if data.train.files() is None or data.validation.files() is None:
        raise JobError(
            f"samples of {name} are not files of their own, which data.placement: local needs; set it to "
            "shared"
        )
    if scratch is None:
        raise JobError(
            "data.placement is local, but no scratch folder is named; give --scratch DIR, or scratch in "
            "the machine file"
        )
    folder = os.path.expanduser(os.path.expandvars(scratch))
    if "$" in folder:
        raise JobError(f"scratch is {scratch}, but {world.node} does not set that variable; give a folder")
    mark = hashlib.blake2b(
        data.fingerprint.encode(), digest_size=4
    ).hexdigest()  # data sets of one name lie beside each other
    return NodeCache(
        Path(folder) / "kakurenbo" / f"{name}-{mark}" / f"rank_{world.rank:04d}", data.fingerprint
    )


def fetch_missing(
    parts: Sequence[Part],
    store: NodeCache,
    world: World,
    bar: Callable,
    spare: int = 0,
    compare: bool = False,
    exchange: bool = False,
) -> Traffic:
    """Fetch the files of these parts that the cache lacks; return what was fetched by all ranks. Collective.

    Args:
        parts: what this rank holds.
        store: its cache.
        world: all ranks.
        bar: ``Console.bar``.
        spare: bytes that must stay free.
        compare: fetch files again whose bytes differ from the shared ones.
        exchange: each rank reads an equal share of what all lack, and sends it on.

    Raises:
        DataError: on all ranks alike; a disk is too small, which is found before copying, or a file cannot
            be copied.
    """
    missing = [Part(files, store.missing_rows(files, rows, compare)) for files, rows in parts]
    needed = sum(int(files.sizes[row]) for files, rows in missing for row in rows)
    deals = [(files, deal_missing(rows, files.sizes, world.comm)) for files, rows in missing if exchange]
    spare = max([spare, *(foreign_bytes(files, deal, world.rank) for files, deal in deals)])
    requests = world.comm.gather(
        (world.node, *free_bytes(store.folder), needed, spare, str(store.folder.parent))
    )
    world.comm.run_or_raise_together(lambda: _check(requests))
    if exchange:
        return sum((fetch_together(*deal, store, world.comm, bar) for deal in deals), Traffic())
    begun = perf_counter()
    for files, rows in missing:
        world.comm.run_or_raise_together(lambda: sum(bar(store.fetch(files, rows), len(rows), "stage")))  # noqa: B023, called at once
    seconds = float(world.comm.max(np.array([perf_counter() - begun]))[0])
    n_bytes = sum(request[3] for request in requests)
    return Traffic(n_bytes, n_bytes, seconds)


def _check(requests: list[tuple]) -> None:
    """Raise DataError if the ranks of a node need more than its disk has."""
    disks: dict[tuple, tuple] = {}
    for node, disk, free, needed, spare, folder in requests:
        before = disks.get((node, disk), (free, 0, 0, folder))
        disks[node, disk] = min(free, before[0]), needed + before[1], spare + before[2], folder
    for (node, _), (free, needed, spare, folder) in disks.items():
        if needed + spare > free:
            moves = f", and {in_words(spare)} must be left for samples that move" if spare else ""
            raise DataError(
                f"{folder} on {node}: {in_words(needed)} must be copied there{moves}, but "
                f"{in_words(free)} are free; "
                "give a larger scratch folder, use more nodes, or remove what other runs left there"
            )
