"""Commands on finished runs: report, scaling, export, probe."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DONE, UserError
from .arguments import RunArgument, expand
from .output import output_is_all
from .ranks import read_job_together, run_on_ranks

if TYPE_CHECKING:
    from ..distributed.comm import Comm

probe_app = typer.Typer(help="Measure at a run's newest checkpoint.", no_args_is_help=True)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", parser=expand, help="Run directories, comparisons, or folders of runs."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", parser=expand, help="The page; report.html if not given. With --figure: its file."
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the report; draw nothing.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=expand, help="Write all numbers as CSV files, too.")
    ] = None,
    figure: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw this figure alone, into a file.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of that file: svg, png or pdf.")] = "svg",
    share: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="loss_top_bottom: the share of the highest losses.")
    ] = 0.02,
    epoch: Annotated[
        int | None, typer.Option(min=0, help="Figures of one epoch's samples: which; the last if not given.")
    ] = None,
    ids: Annotated[int, typer.Option(min=1, max=8, help="sample_history: how many samples.")] = 5,
    weighted: Annotated[
        bool, typer.Option("--weighted", help="loss_histogram: with samples counted by their weights.")
    ] = False,
    by: Annotated[str, typer.Option(help="samples: chosen by loss or by weight.")] = "loss",
    extreme: Annotated[str, typer.Option(help="samples: highest or lowest; both if not given.")] = "",
) -> None:
    """Show what runs did: one HTML page of figures and tables, or text."""
    from ..report.command import report as show
    from ..report.records import Choices

    choices = Choices(share, epoch, ids, weighted, by, extreme)
    with output_is_all() if text else contextlib.nullcontext():
        show(runs, out, text=text, csv=csv, figure=figure, form=form, choices=choices)


def scaling(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", parser=expand, help="The sweep's folder.")],
    csv: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=expand, help="Write the table as CSV, too.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=expand, help="Write it as JSON, too.")
    ] = None,
) -> None:
    """Show samples/s, speed-up, efficiency, stages and cost of runs on several numbers of ranks."""
    from ..report.scaling import show_scaling

    with output_is_all():
        show_scaling(sweep, csv, json)


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="The safetensors file to write.")],
    average: Annotated[
        bool,
        typer.Option(
            "--average/--no-average", help="Of a job with training.ema: the average of the weights, or not."
        ),
    ] = True,
) -> None:
    """Write the network of a run to a file that timm, torchvision and model.weights_from load."""
    from ..training.pretrained import export as write

    epochs = write(run, out, average)
    print(f"{out}: the network of {run} after {epochs} epochs")


@probe_app.command("gradients")
def probe_gradients(
    run: RunArgument,
    samples: Annotated[int, typer.Option(min=2, help="Random samples that the full gradient is of.")] = 1024,
) -> int:
    """Compare gradients of parts of the data with the full one. Runs on ranks, as train does."""

    def work(comm: Comm) -> int:
        if not comm.on_rank_zero((run / "job.yaml").exists):
            missing = UserError(f"probe: {run} is no run directory (job.yaml is missing); name one")
            missing.on_all_ranks = True
            raise missing
        checked = read_job_together(comm, str(run / "job.yaml"), None)
        from ..engine.gradient_probe import probe_gradients as probe

        found = probe(checked, run, samples, comm)
        if comm.rank == 0:
            print(f"{run}/gradients.json: of {found['n']} samples after epoch {found['epoch'] + 1}")
        return DONE

    return run_on_ranks(work)
