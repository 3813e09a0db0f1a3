"""The digits as a data set of small files, ``part/00007.npy``: 64 pixels and the label; and the program that
trains on them.

``python digit_files.py HARM RUN_DIR WORDS`` trains like ``kakurenbo train WORDS``. HARM is what happens to
rank 1 in the third epoch: ``nothing``, ``killed`` or ``killed_later``. With ``staged`` it is
``kakurenbo data stage WORDS``.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from kakurenbo_hpc import cli
from kakurenbo_hpc.config.data_options import DataOptions
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data.dataset import Dataset, DatasetSplits, ReadRequest, SampleFiles
from kakurenbo_hpc.data.datasets.digits import Digits
from kakurenbo_hpc.local_data.shards import Shards
from kakurenbo_hpc.training.learner import Learner


class DigitFiles(DataOptions):
    """path: a folder that ``write_digits`` has filled."""

    name: Literal["digit_files"]
    path: str

    def open(self, directory=None) -> DatasetSplits:
        train, validation = (ArrayFiles(Path(self.path), part) for part in ("train", "validation"))
        return DatasetSplits(train, validation, 10, (1, 8, 8), f"digits in {Path(self.path).name}")


class ArrayFiles(Dataset):
    def __init__(self, root: Path, part: str, read_from: Path | None = None):
        self._root, self._part, self._read_from = root, part, read_from or root
        self._names = sorted(f"{part}/{path.name}" for path in (root / part).glob("*.npy"))

    def __len__(self) -> int:
        return len(self._names)

    def __getitems__(self, request: ReadRequest):
        rows = np.stack([np.load(self._read_from / self._names[id]) for id in request.id])
        return torch.from_numpy(rows[:, :64].reshape(-1, 1, 8, 8)), torch.from_numpy(
            rows[:, 64].astype(np.int64)
        )

    def files(self) -> SampleFiles:
        facts = [(self._root / name).stat() for name in self._names]
        return SampleFiles(
            self._root,
            self._names,
            np.array([fact.st_size for fact in facts]),
            np.array([fact.st_mtime_ns for fact in facts]),
        )

    def relocate(self, root: Path) -> Dataset:
        return ArrayFiles(self._root, self._part, root)


def write_digits(root: Path, n_train: int = 400, n_validation: int = 100) -> None:
    data = Digits(name="digits").open()
    for part, source, n in (("train", data.train, n_train), ("validation", data.validation, n_validation)):
        (root / part).mkdir(parents=True)
        images, labels = source.__getitems__(ReadRequest(np.arange(n), np.zeros(n, np.int32), 0, False))
        for id, row in enumerate(
            np.column_stack([images.numpy().reshape(-1, 64), labels.numpy()]).astype(np.float32)
        ):
            np.save(root / part / f"{id:05d}.npy", row)


def use_digit_files(patch: pytest.MonkeyPatch) -> None:
    """Add this data set to the table."""
    patch.setitem(DATASETS._names, "digit_files", "ranks.programs.digit_files:DigitFiles")


def note_trained(patch: pytest.MonkeyPatch, run_dir: Path) -> None:
    """Have every rank write the (epoch, id) that it trains into RUN_DIR/trained_RANK."""
    step = Learner.step

    def noted(learner, batch):
        if batch.micro_batch.counts:
            with open(run_dir / f"trained_{learner._world.rank}", "a") as file:
                file.writelines(f"{learner._epoch} {id}\n" for id in batch.micro_batch.id)
        return step(learner, batch)

    patch.setattr(Learner, "step", noted)


def leave_in_third_epoch(patch: pytest.MonkeyPatch) -> None:
    """Have every rank be told to leave in the second step of the third epoch."""
    step = Learner.step

    def left(learner, batch):
        if (learner._epoch, batch.micro_batch.step) == (2, 1):
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(learner, batch)

    patch.setattr(Learner, "step", left)


def kill_in_third_epoch(patch: pytest.MonkeyPatch, when: str) -> None:
    """Kill rank 1 when it is about to wait for samples (``killed``), or has them (``killed_later``)."""
    begin_epoch, finish, now = Learner.begin_epoch, Shards.finish, {}

    def begun(learner, number, *rest):
        now["epoch"] = number
        return begin_epoch(learner, number, *rest)

    def harmed(shards):
        struck = shards._comm.rank == 1 and now.get("epoch") == 2
        if struck and when == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        finish(shards)
        if struck and when == "killed_later":
            os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(Learner, "begin_epoch", begun)
    patch.setattr(Shards, "finish", harmed)


def main(harm: str, run_dir: str, *words: str) -> None:
    patch = pytest.MonkeyPatch()
    use_digit_files(patch)
    note_trained(patch, Path(run_dir))
    if harm.startswith("killed"):
        kill_in_third_epoch(patch, harm)
    command = ["data", "stage"] if harm == "staged" else ["train", "--run-dir", run_dir]
    sys.argv = ["kakurenbo", *command, *words]
    cli.main()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
