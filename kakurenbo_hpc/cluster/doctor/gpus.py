"""What GPUs can run: their compute capability, 70 for sm_70, and what torch was built for."""

from __future__ import annotations

import re

BF16_FROM, IN_CUDA_13_FROM = 80, 75

_CAPABILITIES = {
    **{"p100": 60, "v100": 70, "t4": 75, "a100": 80, "a30": 80, "a10": 86, "a40": 86},
    **{"l4": 89, "l40": 89, "l40s": 89, "h100": 90, "h200": 90, "gh200": 90, "b200": 100, "gb200": 100},
}


def capability(gpu_type: str | None) -> int | None:
    """Return the compute capability of what a machine file calls its GPUs, ``tesla_v100-sxm2-32gb``; None where it is not known."""
    parts = re.split("[^a-z0-9]+", (gpu_type or "").lower())
    return next((_CAPABILITIES[part] for part in parts if part in _CAPABILITIES), None)


def runs_on(capability: int, built_for: list[str]) -> bool:
    """Whether code runs there: machine code (sm_70) of the same generation, or what a driver translates for newer ones (compute_90)."""
    found = [re.fullmatch(r"(sm|compute)_(\d+)", entry) for entry in built_for]
    versions = [(entry[1], int(entry[2])) for entry in found if entry]
    return any(
        version <= capability and (kind == "compute" or version // 10 == capability // 10)
        for kind, version in versions
    )


def build_for(capability: int | None) -> str:
    """Return which torch to install."""
    if capability is not None and capability < IN_CUDA_13_FROM:
        return "torch's build for CUDA 12.6, with pip install -c launch/constraints/v100.txt"
    return "torch's build for CUDA from pytorch.org"
