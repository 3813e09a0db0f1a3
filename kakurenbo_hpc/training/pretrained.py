"""Weights in and out: from a run or a safetensors file into a network, from a run into such a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from ..config.job import Model
from ..errors import JobError, RunDirectoryError
from ..rundir.atomic_io import write_whole
from ..rundir.checkpoint.manifest import load_facts
from ..rundir.checkpoint.retention import newest_valid
from ..rundir.checkpoint.shards import load_learner, reading
from ..rundir.path_checks import check_file

Weights = dict[str, torch.Tensor]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: never averaged


def export(run: Path, out: Path, average: bool = True) -> int:
    """Write the weights of a run's newest checkpoint to a safetensors file, named as in the network.

    Args:
        run: the run directory.
        out: the file.
        average: of a job with ``ema``, the average of the weights; else those of the last step.

    Returns:
        The number of epochs that they were trained for.

    Raises:
        UserError: there is no such run, or the file cannot be there.
    """
    check_file(out, "--out")
    weights, facts = _of_run(run, average)
    about = {"format": "pt", "model": json.dumps(facts["job"]["model"]), "run": facts["job"]["name"]}
    # A file of safetensors has no strides, and no two names for the same values.
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, save(plain, about))
    except OSError as problem:
        raise JobError(f"{out}: cannot be written ({problem.strerror}); give another --out") from None
    return facts["epoch"] + 1


def read_weights(path: Path) -> Weights:
    """Return the weights of a run, averaged if it has an average, or of a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    if path.is_dir():
        return _of_run(path, average=True)[0]
    try:
        return load_file(path)
    except FileNotFoundError:
        raise JobError(f"{path}: not found; model.weights_from must name a run or a file") from None
    except (OSError, SafetensorError) as problem:
        raise JobError(
            f"{path}: cannot be read as safetensors ({problem}); model.weights_from takes a run directory, "
            "or what kakurenbo export wrote"
        ) from None


def load_weights(network: nn.Module, weights: Weights, model: Model) -> str:
    """Load weights into a network, but for what the job skips and layers of another shape.

    Positions of timm's transformers are resampled where the resolution differs.

    Returns:
        What was loaded and what was not, in one line.

    Raises:
        JobError: the weights are another network's.
    """
    where, own = model.weights_from, network.state_dict()
    weights = {name: tensor for name, tensor in weights.items() if not _is_in(name, model.skip)}
    wanted = {name: tensor for name, tensor in own.items() if not _is_in(name, model.skip)}
    if unmatched := [layer for layer in model.skip if not any(_is_in(name, [layer]) for name in own)]:
        raise JobError(f"model.skip names {unmatched[0]}, but {model.name} has no layer of that name")
    if any(name in own and own[name].shape != tensor.shape for name, tensor in weights.items()):
        weights = _fitted(network, weights)
    for names, others, found in ((wanted, weights, "lacks"), (weights, wanted, "has")):
        if missing := [name for name in names if name not in others]:
            raise JobError(
                f"{where}: {found} {missing[0]}, and {len(missing) - 1} more, unlike {model.name}; take "
                "weights of the same network, or name layers to leave out in model.skip"
            )
    differing = [name for name in weights if weights[name].shape != own[name].shape]
    if 2 * len(differing) > len(weights):
        one = differing[0]
        raise JobError(
            f"{where}: {one} is of shape {tuple(weights[one].shape)}, but {tuple(own[one].shape)} in "
            f"{model.name}, and {len(differing) - 1} more differ; take weights of the same network"
        )
    network.load_state_dict({name: weights[name] for name in weights if name not in differing}, strict=False)
    left_out = [*model.skip, *_layers(differing)]
    return f"weights from {where}" + (f", all but {', '.join(left_out)}" if left_out else "")


def _fitted(network: nn.Module, weights: Weights) -> Weights:
    """Return weights of a network of timm fitted to another resolution, as timm does it."""
    module = type(network).__module__
    fit = getattr(sys.modules[module], "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    return weights if fit is None else fit(weights, network)


def _layers(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _is_in(name: str, layers: Iterable[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def _of_run(run: Path, average: bool) -> tuple[Weights, dict[str, Any]]:
    """Return the weights of a run's newest checkpoint, and its manifest."""
    checkpoint = newest_valid(run / "checkpoints") if (run / "checkpoints").is_dir() else None
    if checkpoint is None:
        raise RunDirectoryError(f"{run}: holds no valid checkpoint; name a run directory that has one")
    with reading(checkpoint):
        state = load_learner(checkpoint, torch.device("cpu"))
    return _network_weights(state, average), load_facts(checkpoint)


def _network_weights(state: Mapping[str, Any], average: bool) -> Weights:
    weights = dict(state["model"])
    for name, tensor in state.get("ema", {}).items() if average else ():
        plain = name.removeprefix("module.")
        if plain in weights and not plain.endswith(_STATISTICS):
            weights[plain] = tensor
    return weights
