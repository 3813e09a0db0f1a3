"""CUDA compute capabilities (70 for sm_70): of GPU types, and of what torch was built for."""

from __future__ import annotations

import re

BF16_FROM, CUDA_13_FROM = 80, 75

_CAPABILITIES = {
    **{"p100": 60, "v100": 70, "t4": 75, "a100": 80, "a30": 80, "a10": 86, "a40": 86},
    **{"l4": 89, "l40": 89, "l40s": 89, "h100": 90, "h200": 90, "gh200": 90, "b200": 100, "gb200": 100},
}


def compute_capability(gpu_type: str | None) -> int | None:
    """Return the compute capability of a gpu_type, ``tesla_v100-sxm2-32gb``; None if unknown."""
    parts = re.split("[^a-z0-9]+", (gpu_type or "").lower())
    return next((_CAPABILITIES[part] for part in parts if part in _CAPABILITIES), None)


def runs_on(capability: int, built_for: list[str]) -> bool:
    """Whether code runs on GPUs of this capability.

    Machine code (sm_70) runs on its own generation; the driver translates PTX (compute_70) for newer ones.

    Args:
        capability: of the GPUs.
        built_for: the code's targets, sm_70 or compute_90.
    """
    matches = [re.fullmatch(r"(sm|compute)_(\d+)", target) for target in built_for]
    targets = [(match[1], int(match[2])) for match in matches if match]
    return any(
        target <= capability and (kind == "compute" or target // 10 == capability // 10)
        for kind, target in targets
    )


def recommend_build(capability: int | None) -> str:
    """Return which build of torch to install for GPUs of this capability."""
    if capability is not None and capability < CUDA_13_FROM:
        return "torch's build for CUDA 12.6, with pip install -c launch/constraints/v100.txt"
    return "torch's build for CUDA from pytorch.org"
