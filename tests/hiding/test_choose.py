"""`Hiding.choose`: methods that choose batch by batch, in a loop of one's own as in the driver."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.own_loops import POINTS, TARGET, Loop, N, hiding
from torch.utils.data import DataLoader

import kakurenbo_hpc.hiding
from kakurenbo_hpc import Hiding
from kakurenbo_hpc.config.job import check_job
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.training.model import build_model


class ChoosingLoop(Loop):
    """A loop that passes candidates forward, and trains what is chosen. due: batches handed back, by call."""

    def run(self, epochs):
        lines, self.due = [], []
        for epoch in epochs:
            trained = []
            for ids, (input, target) in self.hiding.visible(epoch, self.loader):
                logits = losses = None
                if self.hiding.selects:
                    self.model.eval()
                    with torch.no_grad():
                        logits = self.model(input)
                        losses = F.cross_entropy(logits, target, reduction="none")
                self.model.train()
                batches = self.hiding.choose(ids, losses, logits, target)
                self.due.append(len(batches))
                for i, (ids, (input, target)) in enumerate(batches):
                    self.observe(ids, input, target).backward()
                    if (i + 1) % self.accumulate == 0:
                        self.average()
                        self.optimizer.step()
                        self.optimizer.zero_grad()
                    trained.append(ids.copy())
            self.hiding.hidden(self.loader)
            lines.append(self.hiding.metrics)
            self.trained.append(np.concatenate([np.zeros(0, np.int64), *trained]))
        return lines


OPTIONS = {
    "selective_backprop": [
        {"selectivity": 0.4},
        {"prime_epochs": 1, "stale": 2, "history": 50, "selection_batch": 30},
    ],
    "kath18": [{"presample": 2.0}, {"presample": 3.0, "score": "loss", "reweight": False}],
    "pdd": [{"threshold": 0.6}, {"variant": "srd", "gamma": 0.5}],
}
CASES = [(name, i) for name, variants in OPTIONS.items() for i in range(len(variants))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_loop_that_chooses_is_the_driver_bit_for_bit(name, number, tmp_path):
    options = OPTIONS[name][number]
    values = {
        "name": "points",
        "seed": 3,
        "data": {"name": "digits", "augmentation": []},
        "model": {"name": "small_cnn", "options": {"width": 2}},
        "training": {"epochs": 3, "global_batch": 120, "lr": 0.05, "schedule": "constant"},
        "selection": {"method": name, **options},
        "record": {"ledger": False},
    }
    job = check_job(values, "job", DATASETS, METHODS)
    run(job, tmp_path / "run", SerialComm())
    driver = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    source = open_data(job.data, job.seed, SerialComm()).train

    class Digits(torch.utils.data.Dataset):
        def __len__(self):
            return len(source)

        def __getitems__(self, ids):
            return source.__getitems__(ReadRequest(np.array(ids), np.zeros(len(ids), np.int32), 0, False))

    own = Hiding(job.selection, Digits(), epochs=3, batch_size=120, seed=3)
    loop = ChoosingLoop.__new__(ChoosingLoop)
    loop.hiding, loop.accumulate, loop.trained = own, 1, []
    loop.model = build_model(job.model, 10, (1, 8, 8), job.seed)
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.05, momentum=0.9)
    loop.loader = DataLoader(Digits(), batch_sampler=own.batch_sampler, collate_fn=lambda batch: batch)
    losses = []

    def observe(ids, input, target):
        logits = loop.model(input)
        losses.append(F.cross_entropy(logits, target, reduction="none"))
        return own.observe(ids, losses[-1], logits, target)

    loop.observe = observe
    for epoch, line in enumerate(driver):
        losses.clear()
        assert loop.run([epoch])[0] == {key: line[key] for key in own.metrics}
        assert float(torch.cat(losses).detach().double().mean()) == pytest.approx(
            line["train_loss"], rel=1e-12
        )
    assert driver[-2]["n_backward"] != 1437 or name == "kath18"


@pytest.mark.parametrize(
    ("name", "options", "accumulate"),
    [
        ("selective_backprop", {"selectivity": 0.3}, 1),
        ("selective_backprop", {"selectivity": 0.6, "selection_batch": 60}, 2),
        ("pdd", {"threshold": 0.5}, 1),
    ],
)
def test_all_ranks_get_equally_many_batches_and_all_that_was_chosen_is_trained(name, options, accumulate):
    def work(comm):
        own = hiding(name, comm=comm, batch_size=5, accumulate=accumulate, **options)
        loop = ChoosingLoop(own, accumulate=accumulate)
        lines = loop.run(range(3))
        state = own.state_dict()
        again = hiding(name, comm=comm, batch_size=5, accumulate=accumulate, **options)
        again.load_state_dict(state)
        on = [ChoosingLoop(h, accumulate=accumulate) for h in (own, again)]
        rest = [one.run(range(3, 6)) for one in on]
        return loop.due, lines, loop.trained, loop.model.weight.detach().numpy(), rest

    ranks = run_in_threads(3, work)
    for due, lines, _, weight, rest in ranks:
        assert due == ranks[0][0] and lines == ranks[0][1] and rest[0] == rest[1]
        assert (weight == ranks[0][3]).all(), "gradients are averaged over the same steps"
    for epoch, line in enumerate(ranks[0][1]):
        trained = np.concatenate([of_rank[2][epoch] for of_rank in ranks])
        assert len(set(trained.tolist())) >= line["n_backward"] == N - line["n_hidden"]
        assert line["n_forward"] == N + line["n_backward"] and line["n_forward_select"] == N


def test_the_readmes_choosing_loop_trains():
    text = Path(kakurenbo_hpc.hiding.__file__).with_name("README.md").read_text()
    torch.manual_seed(0)
    model = torch.nn.Linear(5, int(TARGET.max()) + 1)
    world = {"Hiding": Hiding, "DataLoader": DataLoader, "F": F, "torch": torch, "train_set": POINTS}
    world |= {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    exec(re.search(r"```python\n(hiding = .*?)```", text, re.DOTALL)[1], world)
    world["hiding"].state_dict()
    assert 0 < world["hiding"].metrics["n_backward"] < N
