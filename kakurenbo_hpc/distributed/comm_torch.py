"""torch.distributed communicator (Gloo, on the host) of torchrun's or a training script's ranks."""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from ..errors import FAILED
from .comm import Comm, Pending, Transfer, flush


def _signed(array: np.ndarray, is_sum: bool) -> np.ndarray:
    """Return unsigned integers of more than a byte as signed ones, which Gloo reduces: sums wrap alike."""
    if array.dtype.kind != "u" or array.itemsize == 1:
        return array
    return array.view(f"i{array.itemsize}") if is_sum else array.astype(np.int64)


class GroupComm(Comm):
    """All ranks of a process group that works on the host."""

    def __init__(self, group: dist.ProcessGroup):
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        # torch.distributed keeps it: a group that is referred to after it was destroyed aborts the process at
        # exit.
        self._weak_group = weakref.ref(group)

    @property
    def _group(self) -> dist.ProcessGroup:
        group = self._weak_group()
        if group is None:
            raise RuntimeError("the process group was destroyed while it was still needed")
        return group

    def sum(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, dist.ReduceOp.SUM)

    def min(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, dist.ReduceOp.MIN)

    def max(self, array: np.ndarray) -> np.ndarray:
        return self._reduce(array, dist.ReduceOp.MAX)

    def _reduce(self, array: np.ndarray, op: Any) -> np.ndarray:
        array = np.asarray(array)
        ours = torch.from_numpy(_signed(np.array(array, ndmin=1), is_sum=op == dist.ReduceOp.SUM))
        dist.all_reduce(ours, op, group=self._group)
        theirs = ours.numpy()
        same_size = theirs.itemsize == array.itemsize
        return (theirs.view(array.dtype) if same_size else theirs.astype(array.dtype)).reshape(array.shape)

    def gather(self, value: Any) -> list:
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, value: Any, root: int = 0) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=root, group=self._group)
        return values[0]

    def exchange(self, rows: np.ndarray, n_sent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dtype, shape = rows.dtype, rows.shape[1:]
        row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        going = torch.from_numpy(n_sent.astype(np.int64))
        coming = torch.empty_like(going)
        dist.all_to_all_single(coming, going, group=self._group)
        outgoing = torch.from_numpy(np.frombuffer(rows.tobytes(), np.uint8).copy())
        incoming = torch.empty(int(coming.sum()) * row_bytes, dtype=torch.uint8)
        sizes_in, sizes_out = (coming * row_bytes).tolist(), (going * row_bytes).tolist()
        dist.all_to_all_single(incoming, outgoing, sizes_in, sizes_out, group=self._group)
        received = np.frombuffer(incoming.numpy().tobytes(), dtype).reshape(-1, *shape).copy()
        return received, coming.numpy()

    def post_max(self, value: int) -> Pending:
        return _Posted(value, self._group)

    def post_send(self, data: np.ndarray, to: int) -> Transfer:
        return _Moving(dist.isend(torch.from_numpy(data), dist.get_global_rank(self._group, to), self._group))

    def post_receive(self, data: np.ndarray, source: int) -> Transfer:
        return _Moving(
            dist.irecv(torch.from_numpy(data), dist.get_global_rank(self._group, source), self._group)
        )

    def barrier(self) -> None:
        dist.barrier(group=self._group)

    def abort(self, code: int = FAILED) -> NoReturn:
        """Leave at once: torchrun's agent sees it and ends the other ranks."""
        flush()
        os._exit(code)


class TorchComm(GroupComm):
    """All ranks that torchrun's environment describes, and the store where they met."""

    def __init__(self) -> None:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False
        )
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("kakurenbo", self.store), rank=rank, world_size=size
        )
        assert dist.group.WORLD is not None
        super().__init__(dist.group.WORLD)

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()
        # a process group that is still referred to at exit aborts the process: its threads were not joined
        gc.collect()


class _Moving(Transfer):
    def __init__(self, work: dist.Work | None) -> None:
        self._work, self._left = work, False

    def done(self) -> bool:
        return self._left  # Gloo only knows once it was waited for

    def wait(self) -> None:
        if not self._left and self._work is not None:
            self._work.wait()
        self._left = True


class _Posted(Pending):
    def __init__(self, value: int, group: dist.ProcessGroup):
        self._value = torch.tensor([value], dtype=torch.int64)
        self._work = dist.all_reduce(self._value, dist.ReduceOp.MAX, group=group, async_op=True)

    def wait(self) -> int:
        self._work.wait()
        return int(self._value[0])
