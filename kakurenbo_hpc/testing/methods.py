"""Laws of selection methods, tried on random ledgers full of ties, NaN, infinities and unseen samples."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import yaml

from ..config.options import checked
from ..core.batch import Candidates
from ..core.ledger import Ledger
from ..core.plan import Epoch, Plan
from ..distributed.comm import Comm, SerialComm
from ..distributed.comm_threads import run_in_threads
from ..errors import JobError
from ..selection.batch_level import BatchMethod
from ..selection.global_stats import GlobalStats
from ..selection.method import FORWARD_COLUMNS, Method
from .law import equal, require

_EPOCHS = 6
_OWN_COLUMNS = ("id", "loss", "correct", "confidence", "seen_epoch", "train", "weight", "refresh")
_ARRAYS = ("train", "refresh", "weight", "probability")  # of a plan
_LOSSES = np.array([0, 0, 0.1, 0.5, 0.5, 1, 2, 8, 1e-45, 3e38, np.inf, np.nan], np.float32)
_CONFIDENCES = np.array([0, 0.2, 0.69, 0.7, 0.71, 0.9, 1, np.nan], np.float32)
_NUMBERS = {"b": [False, True], "f": [0.0, 0.1, 0.5, 1.0, 1.4]}


def check_method(method: type[Method], *, examples: int = 40, **options: Any) -> None:
    """Check that a method keeps the laws that all methods keep.

    Args:
        method: the class.
        examples: random ledgers that each law is tried on.
        options: of the method, as a job would give them.

    Raises:
        LawBroken: a law does not hold.
        JobError: the options are none of this method.
    """
    one = checked(method, {"method": method.__name__, **options}, method.__name__)
    _check_options(one)
    _check_columns(one)
    for epoch, ledger in _examples(one, examples):
        plan = _plan(one, epoch, ledger)
        _check_plan(one, plan, ledger)
        _check_pure(one, plan, epoch, ledger)
        _check_split(one, plan, epoch, ledger)
        _check_unseen(one, plan, ledger)
        _check_nan(one, epoch, ledger)
        _check_update(one, epoch, ledger)
    _check_hidden_share(one)
    _check_resume(one)
    if isinstance(one, BatchMethod):
        _check_selection(one, examples)


def _check_options(method: Method) -> None:
    law = "options come back from job.yaml, and from pickle, as they were"
    values = yaml.safe_load(yaml.safe_dump(method.model_dump(mode="json")))
    try:
        again = checked(type(method), values, "job.yaml")
    except JobError as problem:
        require(False, law, f"{problem}; use plain numbers, strings, booleans, lists and mappings")
    require(again == method, law, f"{method!r} became {again!r}")
    require(
        pickle.loads(pickle.dumps(method)) == method, law, "pickle gives other options; keep no state in it"
    )


def _check_columns(method: Method) -> None:
    law = "columns have names of their own and fixed dtypes"
    for name, (dtype, first) in method.columns.items():
        require(name.isidentifier() and name not in _OWN_COLUMNS, law, f"a column is called {name!r}")
        if name in FORWARD_COLUMNS:
            require(
                (np.dtype(dtype).base, repr(first)) == _written(FORWARD_COLUMNS[name]),
                law,
                f"{name} must be FORWARD_COLUMNS[{name!r}]",
            )
        require(
            np.dtype(dtype).base.kind in "biuf",
            law,
            f"column {name} is of dtype {np.dtype(dtype)}; use numbers",
        )


def _check_plan(method: Method, plan: Plan, ledger: Ledger) -> None:
    law = "a plan says of every row how often it is trained"
    n, train = len(ledger), plan.train
    require(
        train.shape == (n,) and train.dtype.kind in "biu",
        law,
        f"train is {train.dtype} {train.shape} for {n} rows",
    )
    require(np.all(train >= 0) and np.any(train > 0), law, f"train is {train}; some sample must be trained")
    require(method.may_repeat or np.all(train <= 1), law, "a sample is trained twice; set may_repeat = True")
    if plan.refresh is not None:
        law = "only hidden samples are refreshed"
        require(
            plan.refresh.dtype == bool and plan.refresh.shape == (n,), law, f"refresh is {plan.refresh.dtype}"
        )
        require(
            not np.any(plan.refresh & (train > 0)), law, "a trained sample is refreshed; refresh among ~train"
        )
    law = "weights and learning rate are finite"
    require(0 < plan.lr_scale < np.inf, law, f"lr_scale is {plan.lr_scale}")
    if plan.weight is not None:
        weight = plan.weight
        require(
            weight.dtype == np.float32 and weight.shape == (n,),
            law,
            f"weight is {weight.dtype} {weight.shape}",
        )
        require(np.all(np.isfinite(weight)) and np.all(weight >= 0), law, f"weights are {weight}")


def _check_pure(method: Method, plan: Plan, epoch: Epoch, ledger: Ledger) -> None:
    law = "a plan depends on epoch and ledger alone, and leaves the ledger as it was"
    before = copy.deepcopy(ledger)
    again = _plan(method, epoch, ledger)
    require(
        _same(plan, again), law, "the same question got another plan; draw by epoch.rng, not by numpy.random"
    )
    for name, column in before.columns().items():
        require(equal(column, ledger.columns()[name]), law, f"column {name} was changed in place; copy it")


def _check_split(method: Method, whole: Plan, epoch: Epoch, ledger: Ledger) -> None:
    law = "the plan is the same for any split of the rows over ranks"
    rng = np.random.default_rng(len(ledger))
    for n_ranks in range(1, 9):
        cuts = [0, *sorted(rng.integers(0, len(ledger) + 1, n_ranks - 1).tolist()), len(ledger)]
        plans = _on_ranks(cuts, lambda everyone, part: method.plan(epoch, part, everyone), ledger)
        for name in _ARRAYS:
            column, parts = getattr(whole, name), [getattr(plan, name) for plan in plans]
            if column is None:
                require(
                    all(part is None for part in parts),
                    law,
                    f"{name} is there on some of {n_ranks} ranks only",
                )
            else:
                same = all(part is not None for part in parts) and equal(np.concatenate(parts), column)
                require(
                    same,
                    law,
                    f"{name} differs on {n_ranks} ranks; ask everyone, not the local rows, for thresholds",
                )
        scalars = [_scalars(plan) for plan in plans]
        require(
            all(s == _scalars(whole) for s in scalars),
            law,
            f"{scalars[0]} on {n_ranks} ranks, {_scalars(whole)} on one",
        )


def _check_unseen(method: Method, plan: Plan, ledger: Ledger) -> None:
    if method.needs_losses and not method.may_repeat:
        law = "where losses decide, a sample that was never seen is not hidden"
        require(not np.any((plan.train == 0) & ~ledger.seen), law, "one is; hide among ledger.seen")


def _check_nan(method: Method, epoch: Epoch, ledger: Ledger) -> None:
    """One NaN loss stands where +inf would in an order, and is left out of means as +inf is."""
    law = "a NaN loss counts as +inf, and changes nothing for the others"
    finite = dataclasses.replace(ledger, loss=np.where(np.isfinite(ledger.loss), ledger.loss, np.float32(1)))
    rows = np.flatnonzero(ledger.seen)
    if not len(rows):
        return
    others = np.arange(len(ledger)) != rows[0]
    plans = []
    for value in (np.nan, np.inf):
        loss = finite.loss.copy()
        loss[rows[0]] = value
        plans.append(_plan(method, epoch, dataclasses.replace(finite, loss=loss)))
    of_nan, of_infinity = (int(plan.train[rows[0]]) for plan in plans)
    if method.needs_losses and not method.may_repeat:
        require(of_nan >= of_infinity, law, "it is hidden where +inf is trained; hide no NaN")
    for name in _ARRAYS:
        one, other = (getattr(plan, name) for plan in plans)
        same = one is None and other is None or one is not None and equal(one[others], other[others])
        require(
            same, law, f"{name} of other samples differs; use everyone.mean and .smallest, which know NaN"
        )


def _check_update(method: Method, epoch: Epoch, ledger: Ledger) -> None:
    law = "update returns columns that the method declares, a value for every row"
    for after in ("scoring", "epoch"):
        before = copy.deepcopy(ledger)
        changed = method.update(epoch, ledger, after)
        for name, column in changed.items():
            require(name in method.columns, law, f"column {name!r} is not among columns")
            require(
                column.shape == ledger.extra[name].shape,
                law,
                f"{name} has shape {column.shape}, but was declared of shape {ledger.extra[name].shape}",
            )
        for name, column in before.columns().items():
            require(
                equal(column, ledger.columns()[name]),
                law,
                f"column {name} was changed in place; return a new one",
            )


def _check_hidden_share(method: Method) -> None:
    law = "no plan hides more than max_hidden_fraction"
    rng, n = np.random.default_rng(0), 20_000
    ledger = _ledger(method, rng, n, seen=np.ones(n, bool))
    ledger = dataclasses.replace(
        ledger,
        loss=rng.lognormal(-1, 1, n).astype(np.float32),
        correct=np.ones(n, bool),
        confidence=np.ones(n, np.float32),
    )
    for number in range(1, _EPOCHS):
        share = float(np.mean(_plan(method, Epoch(number, _EPOCHS, 1), ledger).train == 0))
        most = method.max_hidden_fraction
        require(
            share <= most + 0.01,
            law,
            f"{share:.3f} are hidden, but it says {most:.3f}; staging makes room by it",
        )


def _check_resume(method: Method) -> None:
    law = "a run that is saved, loaded and continued makes the plans of the run that was not interrupted"
    plans: list[list[Plan]] = []
    for interrupted in (False, True):
        rng = np.random.default_rng(1)
        ledger = _ledger(method, rng, 40, seen=np.zeros(40, bool))
        plans.append([])
        for number in range(_EPOCHS):
            epoch = Epoch(number, _EPOCHS, 3)
            plans[-1].append(_plan(method, epoch, ledger))
            seen = _ledger(method, rng, 40, seen=np.ones(40, bool))
            ledger = dataclasses.replace(seen, seen_epoch=np.full(40, number, np.int32))
            ledger = ledger.with_columns(method.update(epoch, ledger, "epoch"))
            if interrupted:
                ledger = _saved_and_loaded(ledger)
                method = pickle.loads(pickle.dumps(method))
    for number, (one, other) in enumerate(zip(*plans, strict=True)):
        require(
            _same(one, other),
            law,
            f"the plan of epoch {number} differs; keep state in columns, not in attributes",
        )


def _check_selection(method: BatchMethod, examples: int) -> None:
    law = "on as many ranks, the same candidates give the same choice, of rows that are there"
    for seed in range(examples):
        first, again = (run_in_threads(3, lambda comm: _selections(method, seed, comm)) for _ in range(2))  # noqa: B023
        for one, other in zip(first, again, strict=True):
            for (rows, weight, n), (rows_again, weight_again, _) in zip(one, other, strict=True):
                require(
                    rows.dtype.kind in "iu" and np.all((0 <= rows) & (rows < n)), law, f"rows {rows} of {n}"
                )
                require(
                    weight.dtype == np.float32 and weight.shape == rows.shape,
                    law,
                    f"weight is {weight.dtype} {weight.shape}",
                )
                require(np.all(np.isfinite(weight)), law, f"weights are {weight}")
                require(
                    equal(rows, rows_again) and equal(weight, weight_again),
                    law,
                    "a second time the choice was another",
                )


def _selections(method: BatchMethod, seed: int, comm: Comm) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Return rows, weights and number of candidates of four batches, the state handed on."""
    rng = np.random.default_rng([seed, comm.rank])
    everyone, state, chosen = GlobalStats(comm), method.init_state(), []
    for i in range(4):
        n = int(rng.integers(1, 12))
        with_candidates = [*method.forward_columns, *method.selection_pass(12).columns]
        extra = {name: _column(rng, n, method.columns[name][0]) for name in with_candidates}
        extra |= {"correct": rng.random(n) < 0.7, "confidence": rng.choice(_CONFIDENCES, n)}
        ids = np.arange(n, dtype=np.int64) + 100 * (4 * comm.rank + i)
        loss = rng.choice(_LOSSES, n)
        candidates = Candidates(ids, np.zeros(n, np.int32), loss, extra)
        if method.selects_next(state):
            choice, state = method.select(Epoch(1, _EPOCHS, seed), candidates, state, everyone)
            chosen.append((choice.rows, choice.weight, n))
        else:
            state = method.on_step(candidates, state, everyone)
    return chosen


def _examples(method: Method, n: int) -> Iterator[tuple[Epoch, Ledger]]:
    for seed in range(n):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(1, 60))
        seen = rng.random(size) < rng.choice([0, 0.5, 1])
        yield Epoch(int(rng.integers(0, _EPOCHS)), _EPOCHS, seed % 4), _ledger(method, rng, size, seen)


def _ledger(method: Method, rng: np.random.Generator, n: int, seen: np.ndarray) -> Ledger:
    def where_seen(column: np.ndarray, first: Any) -> np.ndarray:
        return np.where(seen.reshape(-1, *[1] * (column.ndim - 1)), column, np.asarray(first, column.dtype))

    return Ledger(
        n_total=n,
        start=0,
        loss=where_seen(rng.choice(_LOSSES, n), np.inf),
        correct=where_seen(rng.random(n) < 0.7, False),
        confidence=where_seen(rng.choice(_CONFIDENCES, n), 0),
        seen_epoch=where_seen(rng.integers(0, 3, n).astype(np.int32), -1),
        extra={
            name: where_seen(_column(rng, n, dtype), first) for name, (dtype, first) in method.columns.items()
        },
    )


def _column(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    kind = np.dtype(dtype)
    numbers = _NUMBERS.get(kind.base.kind, [0, 1, 2, 3])
    return rng.choice(np.array(numbers), (n, *kind.shape)).astype(kind.base)


def _plan(method: Method, epoch: Epoch, ledger: Ledger) -> Plan:
    return method.plan(epoch, ledger, GlobalStats(SerialComm()))


def _on_ranks(cuts: list[int], work: Callable[[GlobalStats, Ledger], Plan], ledger: Ledger) -> list[Plan]:
    """Return work of each rank, which holds the rows between two cuts."""
    columns = ledger.columns()

    def on_rank(comm: Comm) -> Plan:
        first, last = cuts[comm.rank], cuts[comm.rank + 1]
        part = Ledger.of(
            ledger.n_total, first, {name: column[first:last] for name, column in columns.items()}
        )
        return work(GlobalStats(comm), part)

    return run_in_threads(len(cuts) - 1, on_rank)


def _saved_and_loaded(ledger: Ledger) -> Ledger:
    file = io.BytesIO()
    columns: dict[str, Any] = ledger.columns()
    np.savez(file, **columns)
    file.seek(0)
    return Ledger.of(ledger.n_total, ledger.start, dict(np.load(file)))


def _same(one: Plan, other: Plan) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in _ARRAYS]
    same = (a is b or (a is not None and b is not None and equal(a, b)) for a, b in pairs)
    return all(same) and _scalars(one) == _scalars(other)


def _scalars(plan: Plan) -> dict[str, Any]:
    fields = dataclasses.fields(plan)
    return {f.name: getattr(plan, f.name) for f in fields if f.name not in _ARRAYS}


def _written(column: tuple) -> tuple:
    return np.dtype(column[0]), repr(column[1])
