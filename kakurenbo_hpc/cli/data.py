"""Commands that prepare data: data check, stage, stats, pack, make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DONE, UserError
from .arguments import JobArgument, MachineOption, Overrides, Scratch, expand, read_job
from .ranks import read_job_together, run_on_ranks

if TYPE_CHECKING:
    from ..distributed.comm import Comm


data_app = typer.Typer(help="Prepare data.", no_args_is_help=True)
make_app = typer.Typer(help="Make synthetic data.", no_args_is_help=True)
data_app.add_typer(make_app, name="make")


@data_app.command()
def stage(
    job: JobArgument,
    scratch: Scratch = None,
    machine: MachineOption = "local",
    checksum: Annotated[
        bool,
        typer.Option("--checksum", help="Read what is there already, and compare it with the shared files."),
    ] = False,
    exchange: Annotated[
        bool,
        typer.Option(
            "--exchange",
            help="Each rank reads an equal share of what all lack, once, and sends it to those that want it.",
        ),
    ] = False,
    overrides: Overrides = None,
) -> int:
    """Copy each rank's share of a job's data to its node's disk. Runs on ranks, as train does."""

    def work(comm: Comm) -> int:
        from ..cluster.machine import read_machine

        checked = read_job_together(comm, job, overrides)
        there = comm.on_rank_zero(lambda: scratch or read_machine(machine).scratch)
        from ..local_data.shards import stage
        from ..rundir.path_checks import in_words

        folder, traffic = stage(checked, there, comm, checksum, exchange)
        if comm.rank == 0:
            ranks = f"{comm.size} rank{'s' * (comm.size > 1)}"
            speeds = f"; {traffic}" * bool(traffic.read)
            print(f"{folder}: {in_words(traffic.copied)} copied for {ranks}{speeds}")
        return DONE

    return run_on_ranks(work)


@make_app.command("deepcam")
def make_deepcam(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=expand, help="Where the files go.")],
    samples: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples to train on.")] = 256,
    validation: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples to validate on.")] = 64,
    height: Annotated[int, typer.Option(min=16, max=100_000, help="Pixels; 768 in the public set.")] = 64,
    width: Annotated[int, typer.Option(min=16, max=100_000, help="Pixels; 1152 in the public set.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all samples.")] = 1,
) -> int:
    """Make synthetic DeepCAM samples in the public set's HDF5 layout, on all cores of this node."""
    from ..data.tools.synthetic_deepcam import SyntheticSpec, make

    asked = SyntheticSpec(samples, validation, height, width, seed)
    n_made = make(folder, asked)
    print(f"{folder}: {samples} + {validation} samples of {height} x {width}, {n_made} of them made now")
    return DONE


@data_app.command()
def check(job: JobArgument, overrides: Overrides = None) -> int:
    """Read every sample of a job's data set once, on all cores of this node, and name what cannot be read."""
    from ..data.tools.check import faults

    n_samples = n_faults = 0
    checked = read_job(job, overrides)
    for fault in faults(checked.data):
        n_samples += 1
        if fault is not None:
            n_faults += 1
            print(fault, flush=True)
    if n_faults:
        raise UserError(f"{job}: {n_faults} of {n_samples} samples cannot be read; the lines above say why")
    print(f"{checked.data.name}: all {n_samples} samples can be read")
    return DONE


@data_app.command()
def stats(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", parser=expand, help="The folder that holds train/ and validation/."),
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Compute it even if it is there.")] = False,
) -> int:
    """Compute stats.h5, the smallest and largest value of each channel, from DeepCAM's training files."""
    from ..data.hdf5.manifest import stats_path
    from ..data.tools.stats import write_stats

    n = write_stats(folder, replace)
    print(f"{stats_path(folder)}: computed from {n} files")
    return DONE


@data_app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            parser=expand,
            help="A folder of images: train/CLASS/*, validation/CLASS/* or val/CLASS/*.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=expand, help="Where the HDF5 files go.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Resize the shorter side to this, and crop the centre."),
    ] = None,
    encoded: Annotated[
        bool, typer.Option("--encoded", help="Keep the files as they are, for data.name image_folder.")
    ] = False,
) -> int:
    """Pack an image folder into HDF5 files of about 1 GB. Resumes where it stopped.

    They hold pixels, for data.name hdf5, or with --encoded the files as they are, for data.name image_folder.
    """
    from ..data.tools.pack import pack as pack_all

    if encoded and size is not None:
        raise UserError("--encoded keeps images as they are, so that --size cannot resize them; give one")
    done = pack_all(source, folder, size, encoded)
    shape = "" if done.shape is None else f" of {' x '.join(map(str, done.shape))}"
    print(
        f"{folder}: {done.train} + {done.validation} images{shape} in {done.classes} classes, "
        f"{done.written} of {done.parts} parts written now"
    )
    if done.left_out:
        n, one = len(done.left_out), done.left_out[0]
        print(f"{n} files left out, not named as images or in no class: {one} for one")
    return DONE
