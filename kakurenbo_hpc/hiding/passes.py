"""The passes of an epoch in a training loop of one's own: planned, dealt, brought home, in their order."""

from __future__ import annotations

import time
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np

from ..core.ledger import Homes, Ledger
from ..core.plan import Epoch, Plan
from ..core.sample_stats import SampleStats
from ..distributed.comm import Comm
from ..engine.metrics_line import metrics_line
from ..errors import LoopError, shown
from ..order.deal import EpochSchedule, deal, normalise_batches
from ..order.home import bring_home, fetch_columns
from ..selection.batch_level import BatchMethod, SelectionPass
from ..selection.global_stats import GlobalStats
from ..selection.method import Method, init_ledger
from ..training.batch_stats import SampleStatsBuffer
from .choosing import Choosing
from .same_calls import check_same_call
from .samplers import Pass

PassName = Literal["whole", "visible", "hidden"]


class Passes:
    """The passes of this rank's epochs, and the ledger that they update. All calls are collective.

    Args:
        method: the selection method.
        homes: the home rank of every sample.
        comm: all ranks.
        n_epochs: of the whole training.
        global_batch: samples of one optimizer step over all ranks.
        accumulate: batches of a rank per optimizer step.
        seed: of order and draws.
        fingerprint: of the data set.

    Attributes:
        ledger: this rank's rows.
        epoch: the current epoch; None between two epochs.
        plan: of the current epoch; None before it is planned.
        current: the pass that was begun last; None between two passes.
        last_epoch: the last epoch that is done; -1 for none.
        method_state: of a batch-level method.
        choosing: the training pass, where it is chosen batch by batch; None otherwise.
        latest_batch: what the loader read last.
    """

    def __init__(
        self,
        method: Method,
        homes: Homes,
        comm: Comm,
        n_epochs: int,
        global_batch: int,
        accumulate: int,
        seed: int,
        fingerprint: str,
    ):
        self._method, self._homes, self._comm, self._everyone = method, homes, comm, GlobalStats(comm)
        self._n_epochs, self._global_batch, self._accumulate = n_epochs, global_batch, accumulate
        self._seed, self._n_refresh = seed, 0
        self.ledger = init_ledger(method, homes, comm, fingerprint)
        self.epoch: Epoch | None = None
        self.plan: Plan | None = None
        self.current: Pass | None = None
        self.last_epoch = -1
        self.method_state = method.init_state()
        self.choosing: Choosing | None = None
        self.latest_batch: Any = None
        self._metrics: dict[str, Any] = {}
        self._begun_at = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the whole training that is done, by the updates that each epoch plans; in [0, 1]."""
        done = 0.0
        if self.plan is not None:
            done = 1.0
            if self.current is not None and self.current.name == "visible" and len(self.current):
                n_updates = self.current.n_observed // self._accumulate
                done = n_updates * self._accumulate / len(self.current)
        return (self.last_epoch + 1 + done) / self._n_epochs

    def is_begun(self, name: PassName, number: int | None = None) -> bool:
        """Return whether this pass, of this epoch or any, was begun and nothing was observed yet."""
        current = self.current
        if current is None or current.name != name or current.n_observed:
            return False
        return number in (None, current.epoch.number)

    @property
    def readable(self) -> Pass:
        """What a loader reads: the current pass, or this rank's samples in their order while there is none.

        Frameworks ask a loader for its length, or for a first batch, before any epoch begins.
        """
        return self._own_rows if self.current is None else self.current

    @cached_property
    def _own_rows(self) -> Pass:
        rows = self.ledger.id
        schedule = EpochSchedule(
            n=len(rows),
            steps=-(-self.ledger.n_total // self._global_batch),
            accumulate=self._accumulate,
            order_hash=0,
            id=rows,
            position=None,
            copy=None,
            weight=None,
            filler=int(rows[0]),
        )
        return Pass("whole", Epoch(0, self._n_epochs, self._seed), schedule, SampleStatsBuffer())

    def restore(self, ledger: Ledger, last_epoch: int) -> None:
        """Continue after this epoch, with the ledger that it left."""
        self.ledger, self.last_epoch = ledger, last_epoch
        self.epoch = self.plan = self.current = self.choosing = None

    def begin_whole(self, number: int) -> bool:
        """Begin an epoch, and a pass over all samples if the method needs one; return whether it does."""
        check_same_call(self._comm, f"begin_whole({number})")
        epoch = self._begin_epoch(number)
        if not self._method.needs_scoring_pass(epoch):
            return False
        self._begin_pass("whole", epoch, np.ones(len(self.ledger), bool))
        return True

    def begin_visible(self, number: int) -> dict[str, Any]:
        """Plan the epoch and begin its training pass; return the epoch's metrics."""
        check_same_call(self._comm, f"begin_visible({number})")
        epoch, n_scored = self.epoch, 0
        if epoch is None or epoch.number != number or self.plan is not None:
            epoch = self._begin_epoch(number)
        elif self.current is not None:  # the pass over all samples
            self._end_pass()
            self.ledger = self.ledger.with_columns(self._method.update(epoch, self.ledger, "scoring"))
            n_scored = self.ledger.n_total
        if self._method.needs_scoring_pass(epoch) and not n_scored:
            raise LoopError(
                f"hiding: {self._method.method} plans epoch {number} by a forward pass over all samples, but "
                "there was none; go through hiding.whole(epoch, loader) first"
            )
        return self._begin_visible(epoch, n_scored)

    def resume_visible(self, number: int, n_observed: int, stats: dict[str, np.ndarray]) -> dict[str, Any]:
        """Plan the epoch from the ledger that it was planned from before, and continue its training pass.

        Args:
            number: of the epoch.
            n_observed: batches that each rank observed.
            stats: their statistics, as ``SampleStatsBuffer.state_dict`` names them; each entry on one rank.

        Returns:
            The epoch's metrics.
        """
        epoch = self._begin_epoch(number)
        metrics = self._begin_visible(
            epoch, self.ledger.n_total if self._method.needs_scoring_pass(epoch) else 0
        )
        assert self.current is not None
        self.current.n_observed = n_observed
        self.current.stats_buffer.load_state_dict(stats)
        return metrics

    def _begin_visible(self, epoch: Epoch, n_scored: int) -> dict[str, Any]:
        self.plan = plan = self._method.plan(epoch, self.ledger, self._everyone)
        selection = None
        if self._method.selection_level(epoch) == "batch":
            selection = cast(BatchMethod, self._method).selection_pass(self._global_batch)
        weights = plan.weight, plan.weighs_by_batch
        schedule = self._begin_pass("visible", epoch, plan.train, weights, selection)
        if selection is not None:
            self._begin_choosing(epoch, schedule, selection)
        none = np.zeros(len(self.ledger), bool)
        n_hidden, self._n_refresh = self._everyone.count(
            plan.train == 0, none if plan.refresh is None else plan.refresh
        )
        self._metrics = metrics_line(
            epoch,
            plan,
            schedule,
            n_samples=self.ledger.n_total,
            n_hidden=n_hidden,
            n_forward=n_scored + schedule.n + self._n_refresh,
            n_forward_select=n_scored + self._n_refresh,
            n_backward=schedule.n,
            steps=schedule.steps,
        )
        return self._metrics

    def _begin_choosing(self, epoch: Epoch, schedule: EpochSchedule, selection: SelectionPass) -> None:
        """Begin a training pass that is chosen from the candidates of the current pass."""
        assert isinstance(self._method, BatchMethod) and self.current is not None
        columns = {}
        if selection.columns:
            ids = np.unique(np.concatenate([schedule.id, np.array([schedule.filler], np.int64)]))
            fetched = fetch_columns(ids, selection.columns, self.ledger, self._homes, self._comm)
            columns = {"id": ids, **fetched}
        self.choosing = Choosing(
            self._method,
            epoch,
            self.current,
            schedule.n,
            self.method_state,
            columns,
            self._comm,
            self._global_batch,
            self._accumulate,
        )

    def begin_hidden(self) -> bool:
        """End the training pass and begin the refresh pass, if there is one; return whether there is."""
        check_same_call(self._comm, "begin_hidden")
        if self.plan is not None and self.current is None:  # ended by an earlier call
            return False
        if self.current is None or self.current.name != "visible":
            raise LoopError(
                "hiding: hidden samples are refreshed after training; go through hiding.visible(epoch, "
                "loader) first"
            )
        epoch, plan = self.current.epoch, self.plan
        self._end_pass()
        if plan is None or plan.refresh is None or not self._n_refresh:
            return False
        self._begin_pass("hidden", epoch, plan.refresh)
        return True

    @property
    def call(self) -> str:
        """The call that a loop makes for every batch that the loader reads."""
        return "observe" if self.choosing is None else "choose"

    def next_observed(self) -> Pass:
        """Return the pass that has a batch to be observed: the current one, or what was chosen from it."""
        if self.choosing is None:
            return self.next_batch()
        trained = self.choosing.trained
        if trained.n_observed == len(trained):
            raise LoopError(
                f"hiding: {self._method.method} chooses batch by batch, and no chosen batch is due; call "
                "observe for the batches that hiding.choose(ids, losses) returns"
            )
        return trained

    def next_batch(self) -> Pass:
        """Return the current pass, which has a batch to be observed."""
        if self.current is None or self.current.n_observed == len(self.current):
            raise LoopError(
                "hiding: no batch is left in this pass; begin an epoch with hiding.visible or begin_visible"
            )
        return self.current

    def end_epoch(self) -> None:
        """End the current epoch, if there is one, before the state is taken."""
        # Ranks may come as far apart as an epoch is long, where one of them evaluates for all.
        check_same_call(self._comm, "state_dict", time.monotonic() - self._begun_at)
        self._end_epoch()

    def _end_epoch(self) -> None:
        if self.epoch is None:
            return
        if self.current is not None and self.current.name == "visible" and self._n_refresh:
            raise LoopError(
                f"hiding: epoch {self.epoch.number} hid samples that were not refreshed; go through "
                "hiding.hidden(loader) after training, or they stay hidden for good"
            )
        self._end_pass()
        self.ledger = self.ledger.with_columns(self._method.update(self.epoch, self.ledger, "epoch"))
        self.last_epoch, self.epoch, self.plan = self.epoch.number, None, None

    def _begin_epoch(self, number: int) -> Epoch:
        if not isinstance(number, Integral):
            raise LoopError(f"hiding: epoch {shown(number)} was begun; count epochs from 0, as integers")
        if self.epoch is not None and self.epoch.number == number:
            raise LoopError(f"hiding: epoch {number} was begun twice; go through its passes once")
        self._end_epoch()
        if number >= self._n_epochs:
            raise LoopError(
                f"hiding: epoch {number} was begun, but there are {self._n_epochs}, counted from 0; give "
                "Hiding the epochs of the whole training"
            )
        if number != self.last_epoch + 1:
            last = f"epoch {self.last_epoch} is done" if self.last_epoch >= 0 else "none is done"
            raise LoopError(
                f"hiding: epoch {number} was begun, but {last}; count from 0, each once, and load hiding's "
                "state where a run continues"
            )
        self.epoch, self.plan = Epoch(int(number), self._n_epochs, self._seed), None
        self._begun_at = time.monotonic()
        return self.epoch

    def _begin_pass(
        self,
        name: PassName,
        epoch: Epoch,
        times: np.ndarray,
        weights: tuple[np.ndarray | None, bool] = (None, False),
        selection: SelectionPass | None = None,
    ) -> EpochSchedule:
        size = (self._global_batch, self._accumulate) if selection is None else (selection.global_batch, 1)
        weight, by_batch = weights
        schedule = deal(self.ledger.rows, times, epoch, self._comm, *size, weight)
        if by_batch:
            schedule = normalise_batches(schedule, self._comm)
        self.current = Pass(name, epoch, schedule, SampleStatsBuffer(self._method.forward_columns))
        return schedule

    def _end_pass(self) -> None:
        """Bring the statistics of the current pass home to the ledger, if there is one."""
        if self.current is None:
            return
        done, n_batches = self.current, len(self.current)
        if done.n_observed < n_batches:
            raise LoopError(
                f"hiding: {self.call} was called for {done.n_observed} of the {n_batches} batches of epoch "
                f"{done.epoch.number}; call it for every batch, and let the loader drop none and nothing "
                "deal its batches to ranks again"
            )
        stats = done.stats_buffer.stats()
        if self.choosing is not None:
            self._end_choosing(self.choosing, stats, done.epoch)
        else:
            self.ledger = bring_home(stats, self.ledger, self._homes, self._comm, done.epoch)
            if done.name == "visible" and isinstance(self._method, BatchMethod):
                self.method_state = self._method.on_epoch_trained(done.epoch, stats.loss, self.method_state)
        self.current = self.choosing = None

    def _end_choosing(self, done: Choosing, candidates: SampleStats, epoch: Epoch) -> None:
        """Bring the statistics of candidates and of what was trained home, and complete the metrics."""
        if done.trained.n_observed < len(done.trained):
            raise LoopError(
                f"hiding: observe was called for {done.trained.n_observed} of the {len(done.trained)} "
                f"batches that choose returned in epoch {epoch.number}; call it for every batch"
            )
        trained = done.trained.stats_buffer.stats()
        if done.selection.loss_column:
            candidates = candidates.with_extra(**{done.selection.loss_column: candidates.loss})
        for stats in (candidates, trained):  # in this order: the training pass is the later one
            self.ledger = bring_home(stats, self.ledger, self._homes, self._comm, epoch)
        self.method_state = done.state
        n_candidates, n_distinct = self._comm.sum(
            np.array([len(candidates), len(np.unique(trained.id))])
        ).tolist()
        n_hidden = self.ledger.n_total - n_distinct
        self._metrics |= {
            "n_hidden": n_hidden,
            "hidden_fraction": n_hidden / self.ledger.n_total,
            "n_forward": n_candidates + done.n_trained,
            "n_forward_select": n_candidates,
            "n_backward": done.n_trained,
            "steps": done.steps,
        }
