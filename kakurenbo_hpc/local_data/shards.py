"""Shards: samples on node-local disks, their exchange after a plan, and schedules over them.

An exchange starts and ends here, in ``Shards.exchange`` and ``finish``: ``exchange.py`` plans which samples
move, ``transfer.py`` moves their files between the nodes, and ``node_cache.py`` keeps them.

Samples arrive while the epoch trains those that are local already; micro-batches with arriving samples come
last, when all ranks have received everything. A sample's place is the rank that trains it; it is a column of
the ledger, and so in checkpoints. The files are only copies: what a disk lacks when a run starts or resumes
is fetched from the shared file system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ..config.data_options import DataOptions
from ..config.job import Job
from ..core.batch import Batch, MicroBatch
from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch
from ..data import open_data
from ..data.dataset import Dataset, DatasetSplits, SampleFiles
from ..data.loader import Loader
from ..distributed.comm import Comm
from ..distributed.world import World
from ..order.deal import EpochSchedule
from ..rundir.console import Console
from .deal_local import deal_local
from .exchange import first_places, plan_exchange
from .shared_reading import Traffic
from .staging import Part, fetch_missing, open_store
from .transfer import FileExchange, FileMove

_MOVE = np.dtype(
    [("id", np.int64), ("rank", np.int32), ("visible", bool)]
)  # a sample that moves, and the other rank


class Shards:
    """This rank's shard of the training samples, beside its part of the validation samples, which stays."""

    def __init__(self, options: DataOptions, data: DatasetSplits, scratch: str | None, world: World):
        """Open this rank's cache in the node's scratch folder; raises UserError, perhaps on one rank only."""
        self._store = open_store(options.name, data, scratch, world)
        self._files, self._validation = _files_of(data.train), _files_of(data.validation)
        self._world, self._comm, self._share = world, world.comm, options.exchange
        self._local_ids = self._incoming_ids = np.zeros(0, np.int64)
        self._waits_for_all = False
        self._in_transit: _InTransit | None = None
        self._moved = {"n_moved": 0, "bytes_moved": 0, "waited": 0.0}

    @property
    def folder(self) -> Path:
        """Folder of this rank's files, under the names that they have on the shared file system."""
        return self._store.folder

    def with_local_files(self, data: DatasetSplits) -> DatasetSplits:
        """Return the data set that reads from this rank's cache."""
        return replace(
            data, train=data.train.relocate(self.folder), validation=data.validation.relocate(self.folder)
        )

    def assign_ranks(self, ledger: Ledger) -> Ledger:
        """Return the ledger with the columns place, the first one, and moved, the epoch of the last move."""
        return ledger.with_columns(
            {"place": first_places(ledger.id, self._comm.size), "moved": np.full(len(ledger), -1, np.int32)}
        )

    def fill(
        self, ledger: Ledger, bar: Callable, hides: float, compare: bool = False, exchange: bool = False
    ) -> Traffic:
        """Make the cache hold exactly this shard; return what all ranks fetched.

        The exchange that follows completes at once, since an epoch resumed in its middle may need any sample.

        Args:
            ledger: with the column place.
            bar: ``Console.bar``.
            hides: F, the largest fraction that the method may hide: a rank needs room for (1 + Q + F) of its
                share.
            compare: cached files must equal the shared ones byte for byte.
            exchange: each rank reads an equal share of what all lack, and sends it on.

        Raises:
            DataError: on all ranks alike.
        """
        self._local_ids, self._waits_for_all = np.sort(self._send_to(ledger.extra["place"], ledger.id)), True
        validation = range(*Homes(len(self._validation), self._comm.size).rows(self._comm.rank))
        mine = self._names(self._local_ids) + [self._validation.names[row] for row in validation]
        self._store.keep(mine, [*self._files.names, *self._validation.names])
        parts = [Part(self._files, self._local_ids.tolist()), Part(self._validation, validation)]
        share = self._files.sizes.sum() / self._comm.size
        moves = (self._share + hides) * (self._comm.size > 1)
        spare = max(0, int((1 + moves) * share) - int(self._files.sizes[self._local_ids].sum()))
        return fetch_missing(parts, self._store, self._world, bar, spare, compare, exchange)

    def exchange(self, epoch: Epoch, visible: np.ndarray, ledger: Ledger) -> Ledger:
        """Return the ledger with places that balance this epoch, and start to move the files.

        Args:
            epoch: decides what moves.
            visible: (S,) bool, of this rank's rows.
            ledger: with the column place.
        """
        before = ledger.extra["place"]
        after = plan_exchange(ledger.id, before, visible, epoch, self._comm, self._share)
        moved = np.flatnonzero(after != before)
        going, coming = np.empty((2, len(moved)), _MOVE)
        going["id"], going["rank"], going["visible"] = ledger.id[moved], after[moved], visible[moved]
        coming["id"], coming["rank"], coming["visible"] = ledger.id[moved], before[moved], visible[moved]
        going, coming = (
            np.sort(self._send_to(before[moved], going)),
            np.sort(self._send_to(after[moved], coming)),
        )

        self._local_ids = np.union1d(np.setdiff1d(self._local_ids, going["id"]), coming["id"])
        self._incoming_ids = coming["id"]
        self._store.drop(self._names(going["id"][~going["visible"]]))
        sent, received = going[going["visible"]], coming[coming["visible"]]
        transfers = FileExchange(self._moves(sent), self._moves(received), self._store, self._comm)
        self._in_transit = _InTransit(
            transfers, to_remove=self._names(sent["id"]), to_fetch=coming["id"][~coming["visible"]]
        )
        n, n_bytes = self._comm.sum(np.array([len(coming), self._files.sizes[coming["id"]].sum()])).tolist()
        self._moved = {"n_moved": n, "bytes_moved": n_bytes, "waited": 0.0}
        if self._waits_for_all or not n:
            self.finish()
        self._waits_for_all = False
        last = np.where(after != before, np.int32(epoch.number), ledger.extra["moved"])
        return ledger.with_columns({"place": after, "moved": last})

    @property
    def in_transit(self) -> bool:
        """Whether samples are in transit to any rank; the same on all ranks."""
        return self._in_transit is not None

    def poll(self) -> None:
        """Make progress with samples in transit, without waiting."""
        if self._in_transit is not None:
            self._in_transit.transfers.poll()

    def finish(self) -> None:
        """Wait until all ranks have received everything; then remove the files sent. Collective."""
        assert self._in_transit is not None
        begun, (transfers, to_remove, to_fetch) = perf_counter(), self._in_transit
        transfers.finish()
        self._comm.barrier()
        self._store.drop(to_remove)
        for _ in self._store.fetch(self._files, to_fetch.tolist()):
            pass
        self._in_transit = None
        self._moved["waited"] = perf_counter() - begun

    def n_ready(self, micro_batches: list[MicroBatch]) -> int:
        """Return how many micro-batches all ranks can train without samples in transit. Collective."""
        waiting = (
            i
            for i, micro_batch in enumerate(micro_batches)
            if np.isin(micro_batch.id, self._incoming_ids).any()
        )
        return int(self._comm.min(np.array([next(waiting, len(micro_batches))]))[0])

    def deal(
        self,
        ledger: Ledger,
        times: np.ndarray,
        epoch: Epoch,
        global_batch: int,
        accumulate: int,
        weight: np.ndarray | None,
    ) -> EpochSchedule:
        """Deal this many passes of each row to its place; samples that moved in this epoch come last."""
        place, late = ledger.extra["place"], ledger.extra["moved"] == epoch.number
        idle = np.append(np.setdiff1d(self._local_ids, self._incoming_ids), self._local_ids)[0]
        return deal_local(
            ledger.id, times, place, epoch, self._comm, global_batch, accumulate, weight, late, int(idle)
        )

    def metrics(self) -> dict:
        """Return n_moved and bytes_moved of all ranks, and waited, the longest wait in seconds."""
        return self._moved | {"waited": float(self._comm.max(np.array([self._moved["waited"]]))[0])}

    def _send_to(self, rank: np.ndarray, what: np.ndarray) -> np.ndarray:
        """Send what[i] to rank[i]; return what this rank receives."""
        order = np.argsort(rank, kind="stable")
        return self._comm.exchange(what[order], np.bincount(rank, minlength=self._comm.size))[0]

    def _names(self, ids: np.ndarray) -> list[str]:
        return [self._files.names[row] for row in ids]

    def _moves(self, moves: np.ndarray) -> list[FileMove]:
        files = self._files
        return [
            FileMove(
                sample,
                files.names[sample],
                int(files.sizes[sample]),
                int(files.changed[sample]),
                rank,
            )
            for sample, rank, _ in moves.tolist()
        ]


def _files_of(dataset: Dataset) -> SampleFiles:
    files = dataset.files()
    assert files is not None  # open_store has refused any other data set
    return files


class _InTransit(NamedTuple):
    """An exchange that has started; files to remove and rows to fetch once it is complete."""

    transfers: FileExchange
    to_remove: list[str]
    to_fetch: np.ndarray


class ShardLoader:
    """Reads batches from this rank's shard, as a ``Loader`` does; waits for samples in transit."""

    def __init__(self, loader: Loader, shards: Shards):
        self.source, self._loader, self._shards = loader.source, loader, shards

    def __call__(self, micro_batches: Iterable[MicroBatch], epoch: int, augment: bool) -> Iterator[Batch]:
        """Read these micro-batches in order. One pass at a time."""
        micro_batches, n_ready = list(micro_batches), 0
        if self._shards.in_transit:
            n_ready = self._shards.n_ready(micro_batches)
            for batch in self._loader(micro_batches[:n_ready], epoch, augment):
                yield batch
                self._shards.poll()
            self._shards.finish()
        yield from self._loader(micro_batches[n_ready:], epoch, augment)


def stage(
    job: Job, scratch: str | None, comm: Comm, compare: bool, exchange: bool = False
) -> tuple[Path, Traffic]:
    """Fill every rank's cache for a run of the job on these ranks.

    Args:
        job: what will run.
        scratch: the scratch folder of every node.
        comm: all ranks.
        compare: as in ``Shards.fill``.
        exchange: as in ``Shards.fill``.

    Returns:
        The folder of all ranks' caches on this node, and what was fetched.
    """
    world = World.detect(comm)
    data = open_data(job.data, job.seed, comm)
    shards = comm.run_or_raise_together(lambda: Shards(job.data, data, scratch, world))
    homes = Homes(len(data.train), world.size)
    ledger = shards.assign_ranks(Ledger.unseen(homes.n, *homes.rows(world.rank)))
    hides = job.selection.max_hidden_fraction
    return shards.folder.parent, shards.fill(ledger, Console(world.rank, 0).bar, hides, compare, exchange)
