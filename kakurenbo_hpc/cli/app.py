"""The command line: all commands by group, and how the process ends.

Add a command: a function in the file of its group here, whose first line is its help and which imports what
it needs when it is called; its name in ``COMMANDS``. Options of several commands: a group of option_groups.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

from .. import __version__
from ..errors import FAILED, USER_ERROR, UserError
from ..rundir.console import prepare_streams
from . import batch, data, lists, results, training
from .option_groups import expand_groups
from .output import abandon, print_problem

# click's, or the one of the copy that newer versions of typer carry
_UsageError: Any = typer.BadParameter.__base__

COMMANDS: dict[str, list[Callable[..., Any]]] = {
    "Train": [training.train, training.launch, training.compare, training.score],
    "Batch systems": [
        *(batch.submit, batch.status, batch.logs, batch.stop, batch.cancel),
        *(batch.doctor, batch.machines),
    ],
    "Results": [results.report, results.scaling, results.export],
    "What there is": [lists.methods, lists.scores, lists.datasets, lists.models, lists.explain, lists.schema],
}
"""Groups of the help and their commands, in its order; each is named as its function."""

GROUPS = {"data": data.data_app, "new": lists.new_app, "probe": results.probe_app}
"""Commands that have commands of their own."""

TWO_WORDS: dict[str, Callable[..., Any]] = {
    "launch compare": training.launch_compare,
    "launch score": training.launch_score,
    "submit compare": batch.submit_compare,
    "submit score": batch.submit_score,
}
"""Commands whose name is a command's and the word after it."""


class _Group(typer.core.TyperGroup):
    """Finds commands of two words."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command, the command, and the arguments after it."""
        name = " ".join(args[:2])
        if name in TWO_WORDS:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    help="Train large networks in less time: choose each epoch, across all MPI ranks at once, which samples "
    "deserve a backward pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(expand_groups(_command))
for _name, _command in TWO_WORDS.items():
    app.command(_name, rich_help_panel="Comparisons and scores")(expand_groups(_command))
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name, rich_help_panel="Files")


@app.callback(invoke_without_command=True)
def kakurenbo(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Answer --version."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and exit; a UserError is one line and exit code 2."""
    prepare_streams()
    # Else Pythons that we start (torchrun, DataLoader workers) import a random.py of the current folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        code = app(standalone_mode=False)
    except _UsageError as problem:
        command = problem.ctx.command_path if problem.ctx else "kakurenbo"
        print_problem(UserError(f"{problem.format_message().rstrip('.')}; see {command} --help"))
        code = USER_ERROR
    except typer.Abort:
        code = FAILED
    except UserError as problem:
        print_problem(problem)
        code = USER_ERROR
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as problem:
            abandon(stream, problem)
    gc.freeze()  # else the interpreter would look for garbage in all modules of torch, which takes seconds
    sys.exit(code if isinstance(code, int) else 0)
