"""Figures by name: each a function from records to charts; none where the runs do not hold what it needs."""

from __future__ import annotations

from collections.abc import Callable

from .accuracy import convergence, over, pareto, speedup_over_tolerance
from .chart import Chart, per_run
from .components import components
from .hidden import ceiling_and_rate, ceiling_rate_speedup, hidden_and_accuracy
from .ledgers import hidden_by_age, hidden_per_class, loss_top_bottom
from .losses import loss_cdf, loss_histogram
from .machine import accelerator_utilisation, energy, input_rate, ranks
from .records import Records, Run
from .samples import (
    class_weights,
    confidence_percentiles,
    gradient_agreement,
    gradient_bias,
    sample_history,
    samples,
    selection_probability,
    weight_spread,
)
from .times import samples_per_second, scaling, stages, time_parts


def from_ledgers(
    name: str, read: Callable[[Run, str, str, float], Chart | None]
) -> Callable[[Records], list[Chart]]:
    """Return a figure that is made of each run's ledger files."""

    def figure(records: Records) -> list[Chart]:
        share = records.choices.share
        return per_run(records, name, lambda group, own: read(group.first, group.name, own, share))

    return figure


FIGURES: dict[str, Callable[[Records], list[Chart]]] = {
    "accuracy_over_seconds": over("accuracy", "seconds"),
    "accuracy_over_steps": over("accuracy", "steps"),
    "accuracy_over_passes": over("accuracy", "passes"),
    "error_over_seconds": over("error", "seconds"),
    "error_over_steps": over("error", "steps"),
    "convergence": convergence,
    "stages": stages,
    "time_parts": time_parts,
    "ceiling_and_rate": ceiling_and_rate,
    "ceiling_rate_speedup": ceiling_rate_speedup,
    "hidden_and_accuracy": hidden_and_accuracy,
    "loss_histogram": loss_histogram,
    "loss_cdf": loss_cdf,
    "loss_top_bottom": from_ledgers("loss_top_bottom", loss_top_bottom),
    "hidden_by_age": from_ledgers("hidden_by_age", hidden_by_age),
    "hidden_per_class": from_ledgers("hidden_per_class", hidden_per_class),
    "samples": samples,
    "selection_probability": selection_probability,
    "sample_history": sample_history,
    "class_weights": class_weights,
    "weight_spread": weight_spread,
    "confidence_percentiles": confidence_percentiles,
    "gradient_agreement": gradient_agreement,
    "gradient_bias": gradient_bias,
    "ranks": ranks,
    "accelerator_utilisation": accelerator_utilisation,
    "input_rate": input_rate,
    "energy": energy,
    "samples_per_second": samples_per_second,
    "scaling": scaling,
    "speedup_over_tolerance": speedup_over_tolerance,
    "pareto": pareto,
    "components": components,
}
