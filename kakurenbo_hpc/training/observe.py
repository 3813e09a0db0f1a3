"""What a forward pass says of each sample, kept on the device until the pass over all of them is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..batch import Turn
from ..ledger import Notes
from .gradient_norm import LastInput


@dataclass(frozen=True)
class Seen:
    """One batch's results on its device, nothing waited for. Columns are (k,): loss float32, correct bool, and so on."""

    turn: Turn
    columns: dict[str, torch.Tensor]


def look_closely(
    turn: Turn,
    logits: torch.Tensor,
    target: torch.Tensor,
    losses: torch.Tensor,
    extra: Sequence[str] = (),
    last_input: LastInput | None = None,
) -> Seen:
    """Return loss, correctness, confidence and the asked-for extras of each sample.

    logits: (k, C); target: (k,); losses: (k,), before weights. Softmax is over classes, in float32. last_input: for
    grad_norm, what went into the last layer.
    """
    with torch.no_grad():
        probability = F.softmax(logits.float(), dim=1)
        confidence, predicted = probability.max(dim=1)
        columns = {"loss": losses.detach().float(), "correct": predicted == target, "confidence": confidence}
        if "probability" in extra:
            columns["probability"] = probability.gather(1, target[:, None])[:, 0]
        if "el2n" in extra or "grad_norm" in extra:
            columns["el2n"] = (probability - F.one_hot(target, probability.shape[1])).norm(dim=1)
        if "grad_norm" in extra:
            columns["grad_norm"] = columns["el2n"] * last_input.norms()
        if "label" in extra:
            columns["label"] = target.int()
    return Seen(turn, columns)


class NoteBook:
    """Collects what is seen in one epoch, and brings it to the host in one go. Fillers are not noted."""

    def __init__(self, extra: Sequence[str] = ()):
        self._extra = extra
        self._seen: list[Seen] = []

    def add(self, seen: Seen) -> None:
        if seen.turn.counts:
            self._seen.append(seen)

    def notes(self, after: int = 0) -> Notes:
        """Return everything noted, (k,) columns on the host. after: added to positions, for a pass behind another."""
        turns = [seen.turn for seen in self._seen]
        empty = {"loss": torch.float32, "correct": torch.bool, "confidence": torch.float32}
        empty |= {name: torch.int32 if name == "label" else torch.float32 for name in self._extra}
        columns = {
            name: (torch.cat([s.columns[name] for s in self._seen]) if turns else torch.empty(0, dtype=dtype)).cpu().numpy()
            for name, dtype in empty.items()
        }
        extra = {name: columns.pop(name) for name in self._extra}
        none = np.zeros(0, np.int64)
        return Notes(
            id=np.concatenate([none, *(turn.id for turn in turns)]),
            position=np.concatenate([none, *(turn.position for turn in turns)]) + after,
            **columns,
            extra=extra,
        )
