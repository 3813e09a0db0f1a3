"""Selection of an online subset before an epoch: a recorded pass, so that a resumed epoch keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from ..core.ledger import Ledger
from ..core.plan import Epoch
from ..core.rng import key, one
from ..errors import JobError, TrainingError
from ..selection.online_subset import OnlineSubset
from .context import Context
from .scoring_pass import send_home


class _Chosen:
    """Ledger columns of the subset, with the column ``id``: the result of the pass."""

    def __init__(self, columns: Mapping[str, tuple]):
        """Begin with no rows; columns: name -> (dtype, first value)."""
        self.columns = {"id": np.zeros(0, np.int64)}
        self.columns |= {name: np.zeros(0, dtype) for name, (dtype, _) in columns.items()}

    def state_dict(self) -> Mapping[str, np.ndarray]:
        return self.columns

    def load_state_dict(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = {name: columns[name] for name in self.columns}


def select_subset(epoch: Epoch, ledger: Ledger, context: Context) -> Ledger:
    """Return the ledger with the subset that the network as it is now chooses. Collective.

    Raises:
        TrainingError: on all ranks alike, nothing can be chosen by this network.
    """
    method = cast(OnlineSubset, context.method)
    assert context.vector_pass is not None
    chosen = _Chosen(method.columns)
    if not context.pass_progress.begin_pass(chosen):
        try:
            scores, label = context.vector_pass.choose(one(key(epoch.seed, "subset seed", epoch.number)))
        except JobError as problem:  # on all ranks alike: the network that is trained has no finite vectors
            raise TrainingError(str(problem)) from None
        columns = method.columns_of(scores, label, context.everyone)
        chosen.load_state_dict({"id": ledger.id, **columns})
        context.pass_progress.step_done(0)
    columns = dict(chosen.columns)
    rows = send_home(columns.pop("id"), columns, context.homes, context.world.comm)
    return ledger.with_columns({name: rows[name] for name in columns})
