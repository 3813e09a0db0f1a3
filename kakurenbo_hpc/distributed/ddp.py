"""Gradient averaging by PyTorch's DistributedDataParallel; none on a single rank."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config.job import WorldOptions
from ..errors import WorldError
from .gradient_sync import GradientSync
from .world import World

# Each rank keeps the BatchNorm statistics of its own batches. PyTorch 2.13 gave the argument a new name, and
# warns of the old one.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


_SENT_AS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class DdpSync(GradientSync):
    """Averages gradients in buckets. One rank is not wrapped."""

    def __init__(self, world: World, options: WorldOptions | None = None):
        """Raises WorldError if gradients cannot be sent as the job says."""
        self._world, self._options = world, options or WorldOptions()
        if self._options.compression == "bf16" and world.device.type == "cpu":
            raise WorldError(
                "world.compression is bf16, which needs NCCL and GPUs, but these ranks have none; set it to "
                "fp16 or none"
            )
        self._sent_as = _SENT_AS.get(self._options.compression)
        self._store: dist.Store | None = None
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            gc.freeze()  # then no collection, such as that of `close`, traverses the modules

    def _meet(self) -> None:
        """Form the process group; rank 0 picks a free port and broadcasts it."""
        backend = "nccl" if self._world.device.type == "cuda" else "gloo"
        # Under torchrun there is a group for the host; gradients get one of their own.
        if dist.is_initialized():
            self._group = dist.new_group(backend=backend)
            return
        comm = self._world.comm
        if comm.rank == 0:
            host = "127.0.0.1" if self._world.one_node else socket.gethostname()
            store = dist.TCPStore(host, 0, comm.size, is_master=True, wait_for_workers=False)
            self._store, address = store, (host, store.port)
        host, port = comm.broadcast(address if comm.rank == 0 else ("", 0))
        if comm.rank > 0:
            self._store = dist.TCPStore(host, port, comm.size, is_master=False)
        if self._world.one_node and backend == "gloo":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a laptop's own name often resolves to nothing
        dist.init_process_group(backend, store=self._store, rank=comm.rank, world_size=comm.size)
        self._group = dist.group.WORLD

    def wrap(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, sync_batchnorm: bool = False
    ) -> nn.Module:
        if self._world.size == 1:
            return model
        self._meet()
        device = self._world.device
        if sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model, self._group)
        parallel = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            process_group=self._group,
            bucket_cap_mb=self._options.bucket_mib,
            static_graph=self._options.static_graph,
            **_KEEP_BUFFERS,
        )
        if self._sent_as is not None:
            # Imported here, since few jobs compress.
            from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

            hook = getattr(default_hooks, f"{self._options.compression}_compress_hook")
            parallel.register_comm_hook(self._group, hook)
        return parallel

    def stabilize_buckets(self, parallel: nn.Module, forward: Callable[[], torch.Tensor]) -> None:
        """Let DDP arrange its buckets, in two backward passes of zero gradients that leave no other trace.

        DDP re-arranges them after its first backward pass, and Gloo's order of summation follows: without
        this, a resumed run would differ from the uninterrupted one in the last bits.
        """
        if not isinstance(parallel, DistributedDataParallel):
            return
        buffers = [b.clone() for b in parallel.module.buffers()]
        mode, random = parallel.training, torch.get_rng_state()
        parallel.train()
        for _ in range(2):
            (torch.nan_to_num(forward().float()).sum() * 0).backward()
        parallel.zero_grad(set_to_none=True)
        parallel.train(mode)
        torch.set_rng_state(random)
        for buffer, before in zip(parallel.module.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def hold(self, parallel: nn.Module) -> contextlib.AbstractContextManager:
        return (
            parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else contextlib.nullcontext()
        )

    def average(self, model: nn.Module) -> None:
        """Average them at once; one allreduce."""
        if self._world.size == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:  # a rank whose batch did not touch a parameter still takes part in its mean
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if self._sent_as is None:
            dist.all_reduce(flat, group=self._group)
            flat /= self._world.size
        else:
            sent = flat.to(self._sent_as).div_(self._world.size)
            dist.all_reduce(sent, group=self._group)
            flat.copy_(sent)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def close(self) -> None:
        self._group = None
        # a group that is still referred to when Python exits would abort it: its threads were not joined
        gc.collect()
        if self._store is not None:
            dist.destroy_process_group()
