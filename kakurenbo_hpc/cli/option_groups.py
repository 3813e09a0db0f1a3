"""Options that several commands share, a dataclass for each group, and how a command takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import UserError
from .arguments import MachineOption, Nodes, Overrides, Oversubscribe, expand, set_words

if TYPE_CHECKING:
    from ..cluster.request import Request
    from ..cluster.work import Start
    from ..compare.spec import Comparison
    from ..selection.subsets.recipe import Recipe


def expand_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that takes each of its dataclass parameters as options, one for each field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    if not groups:
        return command
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        owner, owner_hints = (
            (group, get_type_hints(group, include_extras=True)) if group else (command, hints)
        )
        members = inspect.signature(owner).parameters.values() if group else [parameter]
        parameters += [
            member.replace(kind=member.KEYWORD_ONLY, annotation=owner_hints[member.name])
            for member in members
        ]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(
                **{field: values.pop(field) for field in inspect.signature(group).parameters}
            )
        return command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@dataclass(frozen=True)
class QueueOptions:
    """How a batch system is asked, by every command that submits."""

    machine: MachineOption
    walltime: Annotated[str, typer.Option(help="The most time that it takes: 2h, 90m, 1d or HH:MM:SS.")]
    name: Annotated[str | None, typer.Option(help="Of the run; the job's if not given.")] = None
    dependency: Annotated[
        str | None,
        typer.Option(
            help="Start after another job, in the batch system's syntax: afterok:ID, or singleton (Slurm). A "
            "requeued run has a new id on PBS: use --after."
        ),
    ] = None
    after: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=expand,
            help="Start once this run is done, however often it is requeued before.",
        ),
    ] = None
    queue: Annotated[
        str | None, typer.Option(help="Queue (PBS) or partition (Slurm), not the machine file's.")
    ] = None
    account: Annotated[str | None, typer.Option(help="Account, not the machine file's.")] = None
    qos: Annotated[str | None, typer.Option(help="Quality of service (Slurm).")] = None
    reservation: Annotated[str | None, typer.Option(help="A reservation.")] = None
    mail: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Send mail when the job ends.")] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script and the command, and submit nothing.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Skip the checks of queue, modules and names before it.")
    ] = False
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end, requeues included; exit with the run's code.")
    ] = False

    def request(self, nodes: tuple[int, ...], **more: Any) -> Request:
        """Return what is asked of the batch system. more: what only some commands have."""
        from ..cluster.request import Request
        from ..cluster.schedulers.scheduler import Options

        return Request(
            machine=self.machine,
            nodes=nodes,
            walltime=self.walltime,
            name=self.name,
            dependency=self.dependency,
            after=self.after,
            queue=self.queue,
            account=self.account,
            options=Options(self.qos, self.reservation, self.mail),
            force=self.force,
            wait=self.wait,
            **more,
        )


@dataclass(frozen=True)
class StartOptions:
    """How ranks are started here, for work that is no run."""

    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Ranks to start; as many as the nodes take if not given."),
    ] = None
    machine: MachineOption = "local"
    nodes: Nodes = None
    oversubscribe: Oversubscribe = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command line and start nothing.")] = (
        False
    )

    def start(self) -> Start:
        """Return them as the launcher takes them."""
        from ..cluster.work import Start

        return Start(self.machine, self.ranks, self.nodes, self.oversubscribe, self.dry_run)


@dataclass(frozen=True)
class ScoreOptions:
    """What a scoring method is told."""

    out: Annotated[Path, typer.Option(metavar="PATH", parser=expand, help="The score file to write.")] = Path(
        "scores.h5"
    )
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of training before samples are scored; the paper's if not given."),
    ] = None
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Initialisations to average over; the paper's if not given.")
    ] = None
    last_layer: Annotated[
        bool,
        typer.Option("--last-layer", help="grand: the gradient of the last layer alone, for large networks."),
    ] = False
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="hash:SHARE", help="irreducible: the share to train on, which gets no scores."),
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the method, such as fraction=0.7."),
    ] = None

    def recipe(self, method: str) -> Recipe:
        """Return method, epochs and repeats. Raises JobError if the method does not take what is given."""
        from ..selection.subsets.recipe import read_options, read_recipe

        given = [*(self.option or []), *["last_layer=true"] * self.last_layer]
        options = read_options(method, given, self.hold_out)
        return read_recipe(method, self.epochs, self.repeats, options)

    def check(self, method: str) -> None:
        """Raise UserError where ranks that score would; before they are started."""
        from ..rundir.path_checks import check_file

        self.recipe(method)
        check_file(self.out, "--out")

    def words(self) -> list[str]:
        """Return them as words of a command line."""
        words = ["--out", str(self.out.absolute())]
        for name in ("epochs", "repeats", "hold_out"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        words += ["--last-layer"] * self.last_layer
        return [*words, *(word for one in self.option or [] for word in ("--option", one))]


@dataclass(frozen=True)
class CompareOptions:
    """What a comparison is told."""

    methods: Annotated[str | None, typer.Option(help="Methods to compare on a job, separated by commas.")] = (
        None
    )
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Seeds 1 to this; the file's own if not given, or 3.")
    ] = None
    out: Annotated[
        Path, typer.Option(metavar="PATH", parser=expand, help="Where runs and tables are kept.")
    ] = Path("compare")
    quick: Annotated[bool, typer.Option("--quick", help="The file's smaller size.")] = False
    overrides: Overrides = None

    def load(self, file: str) -> tuple[Comparison, dict[str, dict]]:
        """Return the comparison of a file, or of methods on a job, and the values of each of its jobs."""
        from ..compare.spec import compare_methods, read_comparison
        from ..config.package_files import find_job

        if self.methods is None:
            return read_comparison(find_job(file), self.quick, self.seeds, self.overrides or [])
        if self.quick:
            raise UserError(
                "compare: --quick and --methods are both given, but only a comparison file has a smaller "
                "size; choose one"
            )
        return compare_methods(file, self.methods.split(","), self.seeds or 3, self.overrides or [])

    def words(self) -> list[str]:
        """Return them as words of a command line."""
        words = ["--out", str(self.out), *set_words(self.overrides), *["--quick"] * self.quick]
        words += ["--methods", self.methods] if self.methods else []
        return [*words, *(["--seeds", str(self.seeds)] if self.seeds else [])]
