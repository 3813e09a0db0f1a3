"""Energy meters: joules of this rank's GPU by NVML and of its node's processors by RAPL, where readable."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

Meter = Callable[[], float]  # joules since any moment; it may wrap, see ``Energy``
_POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Joules between two calls of ``take``."""

    def __init__(self, device: torch.device, is_first_of_node: bool, powercap: Path = _POWERCAP) -> None:
        """Find what can be read.

        Args:
            device: of this rank.
            is_first_of_node: whether this rank reads the processors of its node.
            powercap: the folder of RAPL's counters.
        """
        self._meters: list[tuple[str, Meter, float]] = []  # with the value at which each wraps, 0 for never
        if device.type == "cuda" and (meter := _gpu_meter(device)):
            self._meters.append(("gpu", meter, 0.0))
        if is_first_of_node:
            self._meters += _cpu_meters(powercap)
        self._last = [meter() for _, meter, _ in self._meters]

    @property
    def parts(self) -> list[str]:
        """What can be read: ``gpu``, ``cpu``."""
        return sorted({part for part, *_ in self._meters})

    def take(self) -> dict[str, float]:
        """Return joules since the last call, or since the start: ``gpu`` and ``cpu``; 0 if not readable."""
        joules = {"gpu": 0.0, "cpu": 0.0}
        now = [meter() for _, meter, _ in self._meters]
        for (part, _, wraps_at), before, after in zip(self._meters, self._last, now, strict=True):
            joules[part] += after - before + (wraps_at if after < before else 0.0)
        self._last = now
        return joules


def _gpu_meter(device: torch.device) -> Meter | None:
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no library, no driver, no right, an old GPU: whatever it is, nothing is measured
        return None
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


def _cpu_meters(powercap: Path) -> list[tuple[str, Meter, float]]:
    meters: list[tuple[str, Meter, float]] = []
    for domain in sorted(powercap.glob("intel-rapl:?")):  # a package each; what is below is part of it
        try:
            int((domain / "energy_uj").read_text())
            wraps_at = int((domain / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue
        meters.append(("cpu", partial(_joules, domain / "energy_uj"), wraps_at))
    return meters


def _joules(counter: Path) -> float:
    return int(counter.read_text()) / 1e6
