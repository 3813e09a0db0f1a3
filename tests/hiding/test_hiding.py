"""Hiding in a training loop of one's own: the same plans and metrics as the driver's."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.own_loops import Loop, N, from_words, hiding
from torch.utils.data import DataLoader

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.config.job import check_job
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.engine.run import run
from kakurenbo_hpc.hiding.arguments import EPOCH_LEVEL
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.score_file import ScoreInfo, write_scores
from kakurenbo_hpc.training.model import build_model

JOB = {
    "name": "digits",
    "seed": 3,
    "data": {"name": "digits", "augmentation": []},
    "model": {"name": "small_cnn", "options": {"width": 4}},
    "training": {"epochs": 4, "global_batch": 100, "lr": 0.05, "schedule": "constant"},
    "selection": {"method": "kakurenbo", "max_fraction": 0.4, "confidence": 0.5},
}


def test_a_loop_of_ones_own_is_the_driver_bit_for_bit(tmp_path):
    job = check_job(JOB, "job", DATASETS, METHODS)
    run(job, tmp_path / "run", SerialComm())
    driver = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]

    source = open_data(job.data, job.seed, SerialComm()).train

    class Digits(torch.utils.data.Dataset):
        def __len__(self):
            return len(source)

        def __getitems__(self, ids):
            return source.__getitems__(ReadRequest(np.array(ids), np.zeros(len(ids), np.int32), 0, False))

    model = build_model(job.model, 10, (1, 8, 8), job.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    own = Hiding(job.selection, Digits(), epochs=4, batch_size=100, seed=3)
    own.scale_lr(optimizer)
    loader = DataLoader(Digits(), batch_sampler=own.batch_sampler, collate_fn=lambda batch: batch)
    for epoch, line in enumerate(driver):
        losses_seen = []
        model.train()
        for ids, (inputs, target) in own.visible(epoch, loader):
            logits = model(inputs)
            losses = F.cross_entropy(logits, target, reduction="none")
            own.observe(ids, losses, logits, target).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses_seen.append(losses.detach())
        model.eval()
        with torch.no_grad():
            for ids, (inputs, target) in own.hidden(loader):
                logits = model(inputs)
                own.observe(ids, F.cross_entropy(logits, target, reduction="none"), logits, target)
        assert own.metrics == {name: line[name] for name in own.metrics}
        assert float(torch.cat(losses_seen).double().mean()) == pytest.approx(line["train_loss"], rel=1e-12)
    assert driver[-1]["n_hidden"] > 100


def options(name, folder):
    """What makes the method act within six epochs."""
    if name == "static":
        write_scores(
            folder / "scores.h5",
            ScoreInfo("random", "a test", "points", "points", N, 0.0, 0, 0),
            np.arange(N) % 7.0,
            SerialComm(),
        )
        return {"scores": [str(folder / "scores.h5")], "fingerprint": "points"}
    return {
        "kakurenbo": {"confidence": 0.4},
        "spv": {"burn_in": 1},
        "ucb": {"every": 2},
        "epsilon_greedy": {"every": 2},
        "sample_importance": {"weights_pass": "fresh", "pretrain_epochs": 0},
        "selective_backprop_epoch": {"selectivity": 0.5},
    }.get(name, {})


@pytest.mark.parametrize("name", sorted(EPOCH_LEVEL))
def test_every_epoch_level_method_trains_what_it_plans_on_any_number_of_ranks(name, tmp_path):
    chosen = options(name, tmp_path)

    def work(comm):
        loop = Loop(hiding(name, comm=comm, batch_size=12 // comm.size, **chosen))
        return loop.run(range(6)), loop.trained

    alone, trained = run_in_threads(1, work)[0]
    for line, ids in zip(alone, trained, strict=True):
        assert len(ids) == line["n_backward"] and len(set(ids.tolist())) == N - line["n_hidden"]
    if name not in ("everything", "ies"):  # ies looks at six losses first
        assert any(line["n_hidden"] for line in alone)
    for size in (2, 3):
        for lines, _ in run_in_threads(size, work):
            assert [line["order_hash"] for line in lines] == [line["order_hash"] for line in alone]
            assert [line["n_hidden"] for line in lines] == [line["n_hidden"] for line in alone]


def test_weights_may_have_mean_one_over_each_batch(tmp_path):
    path, weight = tmp_path / "scores.h5", np.random.default_rng(0).exponential(1, N)
    about = ScoreInfo("craig", "", "points", "points", N, 0.0, 0, 0, "all", 0.5, weighted=True)
    write_scores(path, about, weight, SerialComm(), None, np.arange(N), weight)
    chosen = {"scores": [str(path)], "fraction": 0.5, "fingerprint": "points"}
    for normalise, is_one in ("subset", False), ("batch", True):
        loop = Loop(hiding("static", normalise=normalise, **chosen))
        ones = [
            float(loop.hiding.observe(ids, torch.ones(len(ids)), loop.model(input), target))
            for ids, (input, target) in loop.hiding.visible(0, loop.loader)
        ]
        assert (ones == pytest.approx(np.ones(len(ones)), rel=1e-6)) == is_one and len(ones) == 5


READERS = {
    "loader processes": lambda h: {"batch_sampler": h.batch_sampler, "num_workers": 2},
    "plain sampler": lambda h: {"sampler": h.sampler, "batch_size": 10},
    "plain sampler, last batch dropped": lambda h: {
        "sampler": h.sampler,
        "batch_size": 10,
        "drop_last": True,
        "num_workers": 1,
    },
}


@pytest.mark.parametrize("how", READERS)
def test_however_the_loader_reads_the_same_is_learned(how):
    expected, other = Loop(hiding()), Loop(hiding(), READERS[how])
    assert other.run(range(6)) == expected.run(range(6))
    torch.testing.assert_close(other.model.weight, expected.model.weight)


def test_accumulated_batches_make_the_step_of_one_large_batch():
    whole, parts = Loop(hiding(batch_size=30)), Loop(hiding(batch_size=10, accumulate=3), accumulate=3)
    assert parts.run(range(6)) == whole.run(range(6))
    torch.testing.assert_close(parts.model.weight, whole.model.weight)


def test_mixed_precision_hides_and_learns():
    loop = Loop(hiding(confidence=0.4))
    plain, loop.model.forward = loop.model.forward, lambda inputs: autocast(plain, inputs)

    def autocast(forward, inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(inputs)

    assert loop.run(range(6))[-1]["n_hidden"] > 0
    assert loop.model.weight.dtype == torch.float32


def test_pixels_count_by_their_mean():
    h = hiding("everything", epochs=1, batch_size=N)
    h.begin_visible(0)
    list(h.batch_sampler)
    losses = torch.rand(N, 4, 5, requires_grad=True)
    logits, target = torch.randn(N, 3, 4, 5), torch.randint(3, (N, 4, 5))
    place = torch.from_numpy(np.argsort(h.ids))
    assert h.observe(h.ids, losses, logits, target).item() == pytest.approx(losses.mean().item(), rel=1e-5)
    torch.testing.assert_close(h.state_dict()["ledger"]["loss"], losses.detach().mean((1, 2))[place])


# The learning rate


class Recording(torch.optim.SGD):
    """Notes the rate of each step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.rates = []

    @torch.no_grad()
    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def test_the_rate_is_scaled_in_the_step_and_nowhere_else():
    h = hiding("random", fraction=0.5, scale_lr=True, warmup_epochs=1)
    loop = Loop(h)
    loop.optimizer = Recording(loop.model.parameters(), lr=1.0)
    h.scale_lr(loop.optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.5)
    for epoch in range(3):
        lines = loop.run([epoch])
        assert loop.optimizer.param_groups[0]["lr"] == 0.5**epoch
        schedule.step()
    per_epoch = lines[0]["steps"]
    assert loop.optimizer.rates == [1.0] * per_epoch + [0.5 * 2] * per_epoch + [0.25 * 2] * per_epoch


def test_no_global_random_state_is_touched():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    h = hiding("sample_importance", pretrain_epochs=1)
    for epoch in range(3):
        h.begin_visible(epoch)
        for ids in h.batch_sampler:
            k = len(ids)
            h.observe(np.array(ids), torch.ones(k), torch.ones(k, 3), torch.zeros(k, dtype=torch.int64))
    assert states() == before


# What is kept


@pytest.mark.parametrize("name", ["kakurenbo", "infobatch", "spv", "rs2"])
def test_a_loop_goes_on_from_its_state_as_if_it_had_never_stopped(name, tmp_path):
    whole, first, second = (Loop(hiding(name)) for _ in range(3))
    lines = whole.run(range(6))
    assert first.run(range(3)) == lines[:3]
    torch.save(
        {"hiding": first.hiding.state_dict(), "model": first.model.state_dict()}, tmp_path / "state.pt"
    )
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.hiding.load_state_dict(state["hiding"])
    second.model.load_state_dict(state["model"])
    assert second.hiding.next_epoch == 3
    assert second.run(range(3, 6)) == lines[3:]
    assert torch.equal(second.model.weight, whole.model.weight)


def test_other_ranks_go_on_with_the_same_plan():
    def begin(comm):
        loop = Loop(hiding(comm=comm, batch_size=6))
        loop.run(range(3))
        return loop.hiding.state_dict()

    states = run_in_threads(2, begin)
    assert all(torch.equal(states[0]["ledger"]["loss"], state["ledger"]["loss"]) for state in states)

    def go_on(comm):
        h = hiding(comm=comm, batch_size=12 // comm.size)
        h.load_state_dict(states[0])
        h.begin_visible(3)
        return h.metrics

    assert len({str(line) for size in (1, 2, 3, 4) for line in run_in_threads(size, go_on)}) == 1


# Launch parameters


def test_a_script_gets_its_method_from_the_command_line():
    assert from_words().method.method == "everything"
    chosen = from_words(
        "--hide",
        "kakurenbo",
        "--hide-max-fraction",
        "0.4",
        "--hide-fraction-epochs",
        "[0, 3]",
        "--hide-move-back",
        "false",
    )
    assert (chosen.method.max_fraction, chosen.method.fraction_epochs, chosen.method.move_back) == (
        0.4,
        [0, 3],
        False,
    )
    assert from_words("--hide", "infobatch", "--hide-prune-ratio=0.2").method.prune_ratio == 0.2
