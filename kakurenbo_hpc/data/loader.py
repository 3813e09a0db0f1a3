"""From turns to batches: reads what the turns name, in loader processes where the job asks for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from multiprocessing import connection

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..core.batch import Batch, MicroBatch
from ..errors import DataError
from .dataset import Dataset, ReadRequest
from .workers import can_be, end_with_the_rank, forkserver_context


class Loader:
    """Reads batches of one source. Loader processes persist over passes and epochs: only what they are asked changes.

    workers: how many there are; none, whatever was asked for, on a machine without /dev/shm, through which they talk.
    Without loader processes, a source that reads ahead does so: its memory is used again once nothing refers to a batch.
    """

    def __init__(self, source: Dataset, workers: int, device: torch.device):
        self.source, self.workers = source, workers if workers and can_be() else 0
        self._device = device
        self._reads_ahead = source.reads_ahead and self.workers == 0
        self._asked = _RequestSampler()
        self._processes: dict[
            int, int
        ] = {}  # number of each loader process, by what becomes ready when it ends
        self._loader = DataLoader(
            _Reads(source),
            batch_sampler=self._asked,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device.type == "cuda",
            multiprocessing_context=forkserver_context(__name__) if self.workers else None,
            worker_init_fn=end_with_the_rank,
            generator=torch.Generator(),  # else every pass would take a number from torch's global stream
        )

    def __call__(self, micro_batches: Iterable[MicroBatch], epoch: int, augment: bool) -> Iterator[Batch]:
        """Read these turns in order. One pass at a time. Raises DataError for a file that cannot be read."""
        micro_batches = list(micro_batches)
        self._asked.requests = requests = [
            ReadRequest(micro_batch.id, micro_batch.copy, epoch, augment) for micro_batch in micro_batches
        ]
        if not micro_batches:
            return
        batches = self.source.stream(requests, self._device) if self._reads_ahead else self._batches()
        for micro_batch, read in zip(micro_batches, batches, strict=True):
            if isinstance(read, DataError):
                raise read
            input, target = read
            yield Batch(
                micro_batch=micro_batch,
                input=input.to(self._device, non_blocking=True),
                target=target.to(self._device, non_blocking=True),
            )

    def _batches(self) -> Iterator:
        """Yield what is read, in this process or in others. Raises RuntimeError that names those of them that have ended."""
        try:
            batches = iter(self._loader)
            self._processes = self._processes or {
                process.sentinel: process.pid for process in multiprocessing.active_children()
            }
            yield from batches
        except (
            RuntimeError,
            ConnectionError,
            EOFError,
        ) as problem:  # where it is missed depends on what it was about to send
            ended = [self._processes[sentinel] for sentinel in connection.wait(self._processes, timeout=1)]
            if not ended:
                raise
            told = " and ".join(map(str, ended))
            raise RuntimeError(
                f"loader process {told} has ended; often the system was out of memory (dmesg says so)"
            ) from problem


def plain_micro_batches(first: int, last: int, size: int) -> list[MicroBatch]:
    """Return turns over ids first to last - 1 in their own order, ``size`` at a time: one rank's share of an evaluation."""
    micro_batches = []
    for start in range(first, last, size):
        ids = np.arange(start, min(start + size, last))
        micro_batches.append(
            MicroBatch(
                step=len(micro_batches),
                id=ids,
                copy=np.zeros(len(ids), np.int32),
                weight=np.ones(len(ids), np.float32),
                position=ids,
                counts=True,
                n_global=len(ids),
                begins=True,
                ends=True,
                progress=0.0,
            )
        )
    return micro_batches


class _Reads:
    """A source that returns what is wrong with its files, instead of raising it: loader processes would add their tracebacks."""

    def __init__(self, source: Dataset):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, request: ReadRequest) -> tuple[torch.Tensor, torch.Tensor] | DataError:
        try:
            return self._source.__getitems__(request)
        except DataError as problem:
            return problem
        except OSError as problem:
            if problem.filename is None:
                raise
            return DataError(
                f"{problem.filename}: cannot be read ({problem.strerror}); put it back, and add --resume to go on"
            )


class _RequestSampler:
    """The batch sampler of the pass that runs now."""

    requests: list[ReadRequest] = []

    def __iter__(self) -> Iterator[ReadRequest]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def _as_it_is(batch):
    return batch
