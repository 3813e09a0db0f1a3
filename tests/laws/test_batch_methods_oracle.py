"""Batch-level methods choose from every candidate batch as a serial implementation does, on any split."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import on_ranks, splits
from support.oracle_methods import CHOICES, Candidate

from kakurenbo_hpc.core.batch import Candidates
from kakurenbo_hpc.core.plan import Epoch
from kakurenbo_hpc.selection import METHODS

shares = st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0])
OPTIONS = {
    "pdd": st.fixed_dictionaries(
        {
            "variant": st.sampled_from(["dbpd", "smrd", "srd"]),
            "threshold": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
            "gamma": st.sampled_from([0.5, 0.99, 1.0]),
        }
    ),
    "rho_loss": st.fixed_dictionaries(
        {"scores": st.just(["any.h5"]), "kept": shares, "scope": st.sampled_from(["rank", "global"])}
    ),
    "selective_backprop": st.fixed_dictionaries(
        {
            "selectivity": shares,
            "history": st.sampled_from([1, 7, 1024]),
            "history_scope": st.sampled_from(["rank", "global"]),
            "calculator": st.sampled_from(["loss", "random"]),
        }
    ),
    "kath18": st.fixed_dictionaries(
        {
            "presample": st.sampled_from([1.0, 2.0, 3.0]),
            "score": st.sampled_from(["loss", "gnorm"]),
            "reweight": st.booleans(),
        }
    ),
}


@dataclass(frozen=True)
class Found:
    """What the forward passes over two candidate batches find, (2, n) each, ids (2, n) in any order."""

    id: np.ndarray
    loss: np.ndarray
    irreducible: np.ndarray
    probability: np.ndarray
    el2n: np.ndarray
    correct: np.ndarray

    def columns(self, number, rows):
        names = ("irreducible", "probability", "el2n", "correct")
        return {name: getattr(self, name)[number, rows] for name in names}

    def batch(self, number, rows):
        ids = self.id[number, rows]
        columns = self.columns(number, rows)
        return Candidates(ids, np.zeros(len(ids), np.int32), self.loss[number, rows], columns)

    def serial(self, number, rows):
        loss, columns = self.loss[number, rows].tolist(), self.columns(number, rows)
        return [
            Candidate(id, loss[i], **{name: column[i].item() for name, column in columns.items()})
            for i, id in enumerate(self.id[number, rows].tolist())
        ]


@st.composite
def found(draw):
    """1 to 20 candidates in each of two batches, with ties, NaN and infinities."""
    n = draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    awkward = draw(st.sampled_from([[], [np.nan, np.inf, 0.0]]))
    levels = draw(st.sampled_from([[0.5, 1.0, 2.0], rng.exponential(size=99).tolist()]))

    def column(of, strange):
        values = rng.choice(of, (2, n))
        if strange:
            values = np.where(rng.random((2, n)) < 0.2, rng.choice(strange, (2, n)), values)
        return values.astype(np.float32)

    ids = rng.permutation(100)[: 2 * n].reshape(2, n)
    probability = column([0, 0.1, 0.3, 0.7, 1], awkward[:1])
    return Found(
        ids, column(levels, awkward), column(levels, awkward[:1]), probability,
        column(levels, awkward), rng.random((2, n)) < 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data(), found=found(), seed=st.integers(0, 3))
def test_every_batch_is_chosen_from_as_the_oracle_does(name, data, found, seed):
    n = found.id.shape[1]
    method = METHODS[name](method=name, **data.draw(OPTIONS[name], label="options"))
    cuts = data.draw(splits(n), label="cuts")
    epoch = Epoch(data.draw(st.integers(0, 4), label="epoch"), 9, seed)

    def of_rank(everyone, rows):
        state, choices = method.init_state(), []
        for number in range(2):
            choice, state = method.select(epoch, found.batch(number, rows), state, everyone)
            choices.append((choice.rows, choice.weight))
        return choices

    if name != "pdd":
        cuts = sorted(set(cuts))  # where ranks choose for themselves, each has a candidate or a filler
    ours = on_ranks(cuts, of_rank)
    parts = [slice(a, b) for a, b in zip(cuts, cuts[1:])]
    theirs = CHOICES[name](
        method.model_dump(), [[found.serial(k, rows) for rows in parts] for k in range(2)], epoch
    )
    for of_rank_ours, of_rank_theirs in zip(ours, theirs, strict=True):
        for (rows, weight), (expected, expected_weight) in zip(of_rank_ours, of_rank_theirs, strict=True):
            assert rows.tolist() == expected
            np.testing.assert_allclose(weight, expected_weight, rtol=1e-5)
