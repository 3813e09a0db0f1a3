"""Containers: ranks start inside one, the launcher outside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, model_validator

from ..config.options import Options, check_line, option

if TYPE_CHECKING:
    from .machine import Machine

Line = Annotated[str, AfterValidator(check_line)]


class Container(Options):
    """An image with kakurenbo_hpc, and how ranks start inside it."""

    runtime: Literal["apptainer", "pyxis"] = option(
        ..., "`apptainer`, before each rank's command; or `pyxis`, options of srun."
    )
    image: Line = option(..., "The image: a file, or an address that the runtime understands.")
    binds: list[Line] = option(
        [],
        "Folders to be seen inside: run directories, the folder that submits, data. As the runtime takes "
        "them: `/path` or `/path:/inside`.",
    )
    options: list[Line] = option(
        [], "Further options: of `apptainer exec`, `--nv` or `--rocm` for GPUs; of srun with pyxis."
    )
    python: Line = option("python", "The Python with kakurenbo_hpc inside the image.")

    @model_validator(mode="after")
    def _check_binds(self) -> Container:
        if self.runtime == "pyxis" and (commas := [bind for bind in self.binds if "," in bind]):
            raise ValueError(
                f"binds has {commas[0]!r}, but pyxis takes a comma for the end of a bind; give each folder "
                "an entry of its own, without commas in its name"
            )
        return self


def inside_container(machine: Machine, program: Sequence[str]) -> list[str]:
    """Return the command of each rank, inside the machine's container if it has one."""
    container = machine.container
    if container is None:
        return [*program]
    program = [container.python if word == sys.executable else word for word in program]
    if container.runtime == "pyxis":
        return program
    binds = [word for bind in container.binds for word in ("--bind", bind)]
    return ["apptainer", "exec", *container.options, *binds, container.image, *program]


def pyxis_flags(machine: Machine) -> list[str]:
    """Return the options of srun that start ranks in the machine's container; none without pyxis.

    Source: https://github.com/NVIDIA/pyxis, its options of srun.
    """
    container = machine.container
    if container is None or container.runtime != "pyxis":
        return []
    mounts = [bind if ":" in bind else f"{bind}:{bind}" for bind in container.binds]
    mounted = [f"--container-mounts={','.join(mounts)}"] if mounts else []
    return [f"--container-image={container.image}", *mounted, *container.options]
