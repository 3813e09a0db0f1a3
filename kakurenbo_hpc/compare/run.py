"""Runs of a comparison: contenders, seeds and controls one after another, and one table."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from ..distributed.comm import Comm
from ..engine.run import run
from ..engine.score import score
from ..errors import DONE, FAILED, RunDirectoryError, UserError
from ..rundir.atomic_io import write_whole
from ..rundir.console import print_line
from ..rundir.metrics import finite
from ..rundir.path_checks import check_place
from ..rundir.provenance import provenance
from ..selection import METHODS
from ..selection.score_file import read_score_info
from ..selection.subsets.recipe import read_recipe
from .controls import controls
from .entries import Entry, digest
from .metrics import Curve
from .spec import Comparison
from .table import Lines, curve, markdown, run_lines, table


def compare(
    comparison: Comparison, entries: Mapping[str, Entry], out: Path, comm: Comm, scratch: str | None = None
) -> int:
    """Run what has not been run yet, on these ranks, and write and print the table; return the exit code.

    out: holds ``runs/`` and ``scores/``, shared by all comparisons there, ``NAME/comparison.json`` and
    ``NAME/table.md``. Runs are of so many ranks; on other hardware another ``out`` keeps their seconds apart.
    scratch: a folder on each node's own disk, for jobs with ``data.placement`` local.
    A run that fails is named, and the others go on; a table of which nothing failed is not replaced then.
    """
    comm.on_rank_zero(lambda: _check_out(out))
    results = _Results(comparison, entries, out, comm, scratch)
    for name, entry in entries.items():
        if code := results.add(name, entry):
            return code
    for name, entry in results.expect(controls(comparison, entries, results.spent())):
        if code := results.add(name, entry):
            return code
    if comm.rank == 0:
        results.write()
    return FAILED if results.failed else DONE


class _Results:
    """Runs entries, seed by seed, and keeps what came of them."""

    def __init__(
        self,
        comparison: Comparison,
        entries: Mapping[str, Entry],
        out: Path,
        comm: Comm,
        scratch: str | None = None,
    ):
        self._scratch = scratch
        self.failed: dict[str, str] = {}
        self._comparison, self._out, self._comm = comparison, out, comm
        self._lines: dict[str, list[Lines]] = {}
        self._curves: dict[str, list[Curve]] = {}  # with the cost of scores
        self._against: dict[str, str] = {}
        self._directories: dict[str, list[str]] = {}  # below runs/
        self._n_done, self._n_runs = 0, len(entries) * len(comparison.seeds)

    def expect(self, more: Iterator[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
        """Return the entries that are still to come, and count their runs."""
        entries = list(more)
        self._n_runs += len(entries) * len(self._comparison.seeds)
        return entries

    def spent(self) -> dict[str, list[Curve]]:
        """Return the curves of what ran, without the cost of scores."""
        return {name: [curve(lines) for lines in runs] for name, runs in self._lines.items()}

    def add(self, name: str, entry: Entry) -> int:
        """Run an entry with all seeds; return 0, or the exit code of a run that was stopped early."""
        self._against[name] = entry.against
        for seed in self._comparison.seeds:
            self._n_done += 1
            which = f"run {self._n_done} of {self._n_runs}: {name}, seed {seed}"
            try:
                with _written_to(self._out / "log.txt", self._comm):
                    scores, cost = self._scored(entry, seed)
                    job = entry.named(seed, self._comm.size, scores)
                    directory = self._out / "runs" / job.name
                    begun = self._comm.on_rank_zero((directory / "job.yaml").exists)
                    # By its name it is this job; only what it keeps on disk may have been another.
                    if code := run(job, directory, self._comm, begun, self._scratch, allow_changes=True):
                        return code
                    # On a shared file system other nodes may not see it yet.
                    lines = self._comm.on_rank_zero(lambda: run_lines(directory, job.training.epochs))  # noqa: B023, called at once
            except Exception as problem:
                if self._comm.size > 1 and not (isinstance(problem, UserError) and problem.on_all_ranks):
                    raise  # some ranks may not know of it
                self.failed.setdefault(name, f"{problem}")
                self._say(f"{which}: {problem}")
                continue
            reached = curve(lines).after(*cost)
            self._lines.setdefault(name, []).append(lines)
            self._directories.setdefault(name, []).append(job.name)
            self._curves.setdefault(name, []).append(reached)
            self._say(f"{which}: {reached.accuracy[-1]:.4f} in {reached.seconds[-1]:.1f} s")
        return DONE

    def _scored(self, entry: Entry, seed: int) -> tuple[Path | None, tuple[int, int, int, float]]:
        """Compute the scores that an entry selects by; return their file and their cost.

        The cost is steps, forward and backward samples, seconds; 0 without scores.
        """
        if entry.scores is None:
            return None, (0, 0, 0, 0.0)
        made_by = entry.job.model_copy(
            update={"seed": seed, "selection": METHODS["everything"](method="everything")}
        )
        wanted = entry.scores
        path = (
            self._out
            / "scores"
            / f"{wanted.method}-{digest(made_by, self._comm.size, wanted.model_dump())}.h5"
        )
        if not self._comm.on_rank_zero(path.exists):
            recipe = self._comm.run_or_raise_together(
                lambda: read_recipe(wanted.method, wanted.epochs, wanted.repeats, wanted.options)
            )
            score(recipe, made_by, path, self._comm)
        about = self._comm.on_rank_zero(lambda: read_score_info(str(path)))
        steps = -(-about.n_backward // entry.job.training.batch(self._comm.size))
        return path, (steps, about.n_forward, about.n_backward, about.seconds)

    def _say(self, text: str) -> None:
        if self._comm.rank == 0:
            print_line(text)

    def write(self) -> None:
        """Write and print the table. On rank 0 alone."""
        comparison = self._comparison
        folder = self._out / comparison.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = table(self._curves, self._lines, self._against) if self._curves else {}
        whole = {
            "name": comparison.name,
            "shows": comparison.shows,
            "seeds": comparison.seeds,
            "pictures": comparison.pictures,
            "failed": self.failed,
            "contenders": rows,
            "runs": self._directories,
            "curves": {
                name: [{k: v.tolist() for k, v in asdict(c).items()} for c in runs]
                for name, runs in self._curves.items()
            },
            "ranks": self._comm.size,
            **provenance(),
        }
        text = markdown(rows)
        print_line(
            f"\n{comparison.name}: {comparison.shows or comparison.job}; seeds {comparison.seeds}\n\n{text}"
        )
        for name, problem in self.failed.items():
            print_line(f"failed: {name}: {problem}")
        kept = folder / "comparison.json"
        if self.failed and kept.exists() and not json.loads(kept.read_text(encoding="utf-8"))["failed"]:
            print_line(f"{kept}: kept as it is, since nothing had failed in it")
            return
        write_whole(kept, json.dumps(finite(whole), indent=1) + "\n")
        write_whole(folder / "table.md", text)


def _check_out(out: Path) -> None:
    """Raise RunDirectoryError unless results can be kept there."""
    check_place(out, "--out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        open(out / "log.txt", "a").close()
    except OSError as problem:
        raise RunDirectoryError(
            f"{out}: cannot be written to ({problem.strerror}); give another --out"
        ) from None


@contextlib.contextmanager
def _written_to(path: Path, comm: Comm) -> Iterator[None]:
    """Let what runs print on rank 0 go to a file, and what stops one as well."""
    if comm.rank:
        yield
        return
    log = open(path, "a", encoding="utf-8")
    try:
        with contextlib.redirect_stdout(log):
            yield
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc(file=log)
        raise
    finally:
        with contextlib.suppress(OSError):  # on a full disk it is the log that is lost, not the run
            log.close()
