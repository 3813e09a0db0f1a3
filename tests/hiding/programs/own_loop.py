"""The README's loop on the digits, on the ranks that are there. Arguments: plain|changed METRICS."""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: F401, for the loop of README
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[2]))

from support import readme_loop

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
held_out = torch.arange(len(labels)) % 5 == 0
train_set = TensorDataset(images[~held_out], labels[~held_out])


def main():
    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(
        optimizer, 0.9
    )  # a rate left scaled would go on growing under it

    rank, loop = 0, getattr(readme_loop, sys.argv[1])()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo")
        rank, model = dist.get_rank(), torch.nn.parallel.DistributedDataParallel(model)
    elif "OMPI_COMM_WORLD_RANK" in os.environ or "PMI_RANK" in os.environ:
        from mpi4py import MPI

        rank = MPI.COMM_WORLD.rank

        def average(optimizer, args, kwargs):
            """What Horovod does for such a script."""
            for parameter in model.parameters():
                parameter.grad = torch.from_numpy(
                    MPI.COMM_WORLD.allreduce(parameter.grad.numpy()) / MPI.COMM_WORLD.size
                )

        optimizer.register_step_pre_hook(average)

    kept = []
    if sys.argv[1] == "changed":
        from kakurenbo_hpc import Hiding

        begin_hidden = Hiding.begin_hidden
        Hiding.begin_hidden = lambda self: (
            kept.append(self.metrics) or begin_hidden(self)
        )  # to see what the loop itself does not print

    exec(loop, globals() | locals())

    model.eval()
    with torch.no_grad():
        right = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean()
    if rank == 0:
        rate = optimizer.param_groups[0]["lr"]
        Path(sys.argv[2]).write_text(
            json.dumps({"accuracy": float(right), "rate": rate, "epochs": kept}), encoding="utf-8"
        )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.set_start_method(
        "forkserver"
    )  # a fork of a process in which Gloo or MPI has threads may hang
    main()
