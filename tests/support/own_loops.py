"""A plain loop with hiding in it, on a few random points, for the tests of what it promises."""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from kakurenbo_hpc import Hiding

N, CLASSES = 90, 3

_draw = torch.Generator().manual_seed(0)
TARGET = torch.arange(N) % CLASSES
POINTS = TensorDataset(torch.randn(N, 5, generator=_draw) + 2 * F.one_hot(TARGET, 5), TARGET)


class Loop:
    """Model, optimizer and hiding; ``run`` goes through some epochs. read: how the loader is made, by sampler
    or batch_sampler.
    """

    def __init__(self, hiding, read=None, accumulate=1, lr=0.3):
        self.hiding, self.accumulate = hiding, accumulate
        self.model = torch.nn.Linear(5, CLASSES)
        with torch.no_grad():
            self.model.weight.copy_(torch.linspace(-1, 1, 5 * CLASSES).view(CLASSES, 5))
            self.model.bias.zero_()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        hiding.scale_lr(self.optimizer)
        self.loader = DataLoader(
            POINTS, **(read(hiding) if read else {"batch_sampler": hiding.batch_sampler})
        )
        self.trained = []  # ids of each epoch, in order

    def run(self, epochs):
        """Return the metrics of these epochs."""
        lines = []
        for epoch in epochs:
            with torch.no_grad():
                for ids, (input, target) in self.hiding.whole(epoch, self.loader):
                    self.observe(ids, input, target)
            trained = []
            for i, (ids, (input, target)) in enumerate(self.hiding.visible(epoch, self.loader)):
                self.observe(ids, input, target).backward()
                if (i + 1) % self.accumulate == 0:
                    self.average()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                trained.append(ids.copy())
            with torch.no_grad():
                for ids, (input, target) in self.hiding.hidden(self.loader):
                    self.observe(ids, input, target)
            lines.append(self.hiding.metrics)
            self.trained.append(np.concatenate(trained))
        return lines

    def observe(self, ids, input, target):
        assert torch.equal(target, TARGET[torch.from_numpy(ids)]), "the ids are those of the batch"
        logits = self.model(input)
        return self.hiding.observe(ids, F.cross_entropy(logits, target, reduction="none"), logits, target)

    def average(self):
        comm = self.hiding._comm
        for parameter in self.model.parameters():
            parameter.grad = torch.from_numpy(comm.sum(parameter.grad.numpy()) / np.float32(comm.size))


def hiding(method="kakurenbo", **changed):
    """A Hiding of the points for six epochs, in batches of 10."""
    return Hiding(method, POINTS, **{"epochs": 6, "batch_size": 10, "seed": 3} | changed)


def from_words(*words):
    parser = argparse.ArgumentParser()
    Hiding.add_arguments(parser)
    return Hiding.from_arguments(parser.parse_args(words), POINTS, epochs=6, batch_size=10)
