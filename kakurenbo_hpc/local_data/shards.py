"""Shards: samples on node-local disks, their exchange after a plan, and schedules over them.

What moves comes in while the epoch trains what is there already; the turns that need it wait until all ranks
have all of it. A place is where a sample is trained, and is in the ledger and its checkpoint; the files are
only copies: whatever a disk lacks when a run begins or goes on is fetched from the shared file system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ..config.job import DataOptions, Job
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
from .staging import Part, fetch_missing, open_store
from .transfer import FileExchange, FileMove

_WORD = np.dtype(
    [("id", np.int64), ("rank", np.int32), ("visible", bool)]
)  # a sample that moves, and the other rank


class Shards:
    """This rank's shard of the training samples, beside its part of the validation samples, which stays."""

    def __init__(self, options: DataOptions, data: DatasetSplits, scratch: str | None, world: World):
        """Open this rank's cache in the node's scratch folder; raises UserError, perhaps on one rank only."""
        self._store = open_store(options.name, data, scratch, world)
        self._files, self._validation = _files_of(data.train), _files_of(data.validation)
        self._world, self._comm, self._share = world, world.comm, options.exchange
        self._here = self._came = np.zeros(0, np.int64)
        self._waits_for_all = False
        self._under_way: _UnderWay | None = None
        self._told = {"n_moved": 0, "bytes_moved": 0, "waited": 0.0}

    @property
    def folder(self) -> Path:
        """Where this rank's files lie, under the names that they have on the shared file system."""
        return self._store.folder

    def with_local_files(self, data: DatasetSplits) -> DatasetSplits:
        """Return the data set that reads from this rank's store."""
        return replace(
            data, train=data.train.relocate(self.folder), validation=data.validation.relocate(self.folder)
        )

    def assign_ranks(self, ledger: Ledger) -> Ledger:
        """Return the ledger with every row at its first place, and the epoch of its last move: none yet."""
        return ledger.with_columns(
            {"place": first_places(ledger.id, self._comm.size), "moved": np.full(len(ledger), -1, np.int32)}
        )

    def fill(self, ledger: Ledger, bar: Callable, hides: float, compare: bool = False) -> int:
        """Make the cache hold exactly this shard; return how many bytes all ranks fetched.

        bar: ``Progress.bar``. hides: F, the largest share that the method may hide: a rank must have room for
        (1 + Q + F) of its share.
        compare: what is there already must equal the shared files, byte for byte. Raises DataError on all
        ranks alike. The next exchange is then waited for at once: an epoch that is taken up in its middle may
        need any sample.
        """
        self._here, self._waits_for_all = np.sort(self._tell(ledger.extra["place"], ledger.id)), True
        validation = range(*Homes(len(self._validation), self._comm.size).rows(self._comm.rank))
        mine = self._names(self._here) + [self._validation.names[row] for row in validation]
        self._store.keep(mine, [*self._files.names, *self._validation.names])
        parts = [Part(self._files, self._here.tolist()), Part(self._validation, validation)]
        share = self._files.sizes.sum() / self._comm.size
        moves = (self._share + hides) * (self._comm.size > 1)
        spare = max(0, int((1 + moves) * share) - int(self._files.sizes[self._here].sum()))
        return fetch_missing(parts, self._store, self._world, bar, spare, compare)

    def exchange(self, epoch: Epoch, visible: np.ndarray, ledger: Ledger) -> Ledger:
        """Return the ledger with places that balance this epoch, and begin to move the files.

        visible: (S,) bool, of this rank's rows.
        """
        before = ledger.extra["place"]
        after = plan_exchange(ledger.id, before, visible, epoch, self._comm, self._share)
        moved = np.flatnonzero(after != before)
        going, coming = np.empty((2, len(moved)), _WORD)
        going["id"], going["rank"], going["visible"] = ledger.id[moved], after[moved], visible[moved]
        coming["id"], coming["rank"], coming["visible"] = ledger.id[moved], before[moved], visible[moved]
        going, coming = np.sort(self._tell(before[moved], going)), np.sort(self._tell(after[moved], coming))

        self._here = np.union1d(np.setdiff1d(self._here, going["id"]), coming["id"])
        self._came = coming["id"]
        self._store.drop(self._names(going["id"][~going["visible"]]))
        sent, received = going[going["visible"]], coming[coming["visible"]]
        delivery = FileExchange(self._parcels(sent), self._parcels(received), self._store, self._comm)
        self._under_way = _UnderWay(
            delivery, gone=self._names(sent["id"]), to_fetch=coming["id"][~coming["visible"]]
        )
        n, n_bytes = self._comm.sum(np.array([len(coming), self._files.sizes[coming["id"]].sum()])).tolist()
        self._told = {"n_moved": n, "bytes_moved": n_bytes, "waited": 0.0}
        if self._waits_for_all or not n:
            self.finish()
        self._waits_for_all = False
        last = np.where(after != before, np.int32(epoch.number), ledger.extra["moved"])
        return ledger.with_columns({"place": after, "moved": last})

    @property
    def under_way(self) -> bool:
        """Whether samples are still on their way to any rank; the same on all ranks."""
        return self._under_way is not None

    def poll(self) -> None:
        """Let what is under way come nearer, without waiting."""
        if self._under_way is not None:
            self._under_way.delivery.poll()

    def finish(self) -> None:
        """Wait until all ranks have all that comes to them; then remove what went. Collective."""
        assert self._under_way is not None
        begun, (delivery, gone, to_fetch) = perf_counter(), self._under_way
        delivery.finish()
        self._comm.barrier()
        self._store.drop(gone)
        for _ in self._store.fetch(self._files, to_fetch.tolist()):
            pass
        self._under_way = None
        self._told["waited"] = perf_counter() - begun

    def n_ready(self, micro_batches: list[MicroBatch]) -> int:
        """Return how many turns all ranks can take before what is under way has come. Collective."""
        waits = (
            i for i, micro_batch in enumerate(micro_batches) if np.isin(micro_batch.id, self._came).any()
        )
        return int(self._comm.min(np.array([next(waits, len(micro_batches))]))[0])

    def deal(
        self,
        ledger: Ledger,
        times: np.ndarray,
        epoch: Epoch,
        global_batch: int,
        accumulate: int,
        weight: np.ndarray | None,
    ) -> EpochSchedule:
        """Deal this many passes of each row to where it lies; what moved in this epoch comes last."""
        place, late = ledger.extra["place"], ledger.extra["moved"] == epoch.number
        idle = np.append(np.setdiff1d(self._here, self._came), self._here)[0]
        return deal_local(
            ledger.id, times, place, epoch, self._comm, global_batch, accumulate, weight, late, int(idle)
        )

    def metrics(self) -> dict:
        """Return n_moved and bytes_moved of all ranks, and waited, the longest wait in seconds."""
        return self._told | {"waited": float(self._comm.max(np.array([self._told["waited"]]))[0])}

    def _tell(self, rank: np.ndarray, what: np.ndarray) -> np.ndarray:
        """Send what[i] to rank[i]; return all that came here."""
        order = np.argsort(rank, kind="stable")
        ends = np.searchsorted(rank[order], np.arange(1, self._comm.size))
        return np.concatenate(self._comm.alltoallv(np.split(what[order], ends)))

    def _names(self, ids: np.ndarray) -> list[str]:
        return [self._files.names[row] for row in ids]

    def _parcels(self, words: np.ndarray) -> list[FileMove]:
        files = self._files
        return [
            FileMove(
                sample,
                files.names[sample],
                int(files.sizes[sample]),
                int(files.changed[sample]),
                rank,
            )
            for sample, rank, _ in words.tolist()
        ]


def _files_of(dataset: Dataset) -> SampleFiles:
    files = dataset.files()
    assert files is not None  # open_store has refused any other data set
    return files


class _UnderWay(NamedTuple):
    """An exchange under way; gone: files to remove, to_fetch: rows to fetch, once it is complete."""

    delivery: FileExchange
    gone: list[str]
    to_fetch: np.ndarray


class ShardLoader:
    """Reads batches from this rank's shard, as a ``Loader`` does; waits for samples that are under way."""

    def __init__(self, loader: Loader, shards: Shards):
        self.source, self._loader, self._shards = loader.source, loader, shards

    def __call__(self, micro_batches: Iterable[MicroBatch], epoch: int, augment: bool) -> Iterator[Batch]:
        """Read these turns in order. One pass at a time."""
        micro_batches, n_ready = list(micro_batches), 0
        if self._shards.under_way:
            n_ready = self._shards.n_ready(micro_batches)
            for batch in self._loader(micro_batches[:n_ready], epoch, augment):
                yield batch
                self._shards.poll()
            self._shards.finish()
        yield from self._loader(micro_batches[n_ready:], epoch, augment)


def stage(job: Job, scratch: str | None, comm: Comm, compare: bool) -> tuple[Path, int]:
    """Fill every rank's cache for a run of the job on these ranks; return its folder and the bytes copied.

    compare: as ``Shards.fill`` has it.
    """
    world = World.detect(comm)
    data = open_data(job.data, job.seed, comm)
    shards = comm.run_or_raise_together(lambda: Shards(job.data, data, scratch, world))
    homes = Homes(len(data.train), world.size)
    ledger = shards.assign_ranks(Ledger.unseen(homes.n, *homes.rows(world.rank)))
    return shards.folder.parent, shards.fill(
        ledger, Console(world.rank, 0).bar, job.selection.max_hidden_fraction, compare
    )
