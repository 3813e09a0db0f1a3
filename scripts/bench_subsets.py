"""Time and memory of subsets of classes, against apricot-select, submodlib-py and DeepCore's Gram.

    python scripts/bench_subsets.py        CIFAR-10 on two ranks: 10 classes of 5,000 x 512, 30 % kept; and
    ImageNet, 1,000 classes of 1,281 x 2,048, projected from the classes of one rank of 32

Random vectors; every rank has one thread, and contenders have the same similarities of one class. Install
contenders first (pip install apricot-select submodlib-py); what is not installed is left out. Targets are
judged at full size alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from bench_common import header, median, on_ranks, say, verdict

from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import open_comm
from kakurenbo_hpc.selection.subsets.covering import cover_greedily
from kakurenbo_hpc.selection.subsets.exact import round_rows
from kakurenbo_hpc.selection.subsets.gradients import gram, similarities
from kakurenbo_hpc.selection.subsets.matching_pursuit import match_sum
from kakurenbo_hpc.selection.subsets.methods.craig import match_clusters
from kakurenbo_hpc.selection.subsets.owners import assign_owners
from kakurenbo_hpc.selection.subsets.scoring import residuals
from kakurenbo_hpc.selection.subsets.vectors import Vectors

FACILITY_LOCATION, GRAPH_CUT = "facility location", "graph cut"
FULL = {"n": 5000, "width": 512, "classes": 10, "ranks": 2, "kept": 0.3}  # where targets are judged
IMAGENET = {"n": 1281, "width": 2048, "classes": 1000, "ranks": 32}


def make_class(n: int, width: int, n_classes: int, seed: int = 0) -> Vectors:
    """Return a class in clusters, as features of a trained network are."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(20, width))
    h = (centers[rng.integers(0, 20, n)] + 0.5 * rng.normal(size=(n, width))).clip(0).astype(np.float32)
    logits = rng.normal(size=(n, n_classes))
    logits[:, 0] += 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.zeros(n, np.int64)
    r = residuals(p.astype(np.float32), label)
    return Vectors(np.arange(n), label, round_rows(h), round_rows(r), p.astype(np.float32))


def cut_greedily(similarity: np.ndarray, n_picks: int) -> list[int]:
    """Return the greedy picks of graph cut, as the method's page has them."""
    value, picks = similarity.sum(axis=0), []
    for _ in range(n_picks):
        picks.append(int(np.argmax(value)))
        value = value - 2 * similarity[picks[-1]]
        value[picks[-1]] = -np.inf
    return picks


def gram_by_outer_products(rows: Vectors) -> np.ndarray:
    """Return the Gram as DeepCore computes it: every gradient as C (D + 1) float32 numbers."""
    with_bias = np.hstack([rows.h, np.ones((len(rows), 1), np.float32)])
    gradients = (rows.r[:, :, None] * with_bias[:, None, :]).reshape(len(rows), -1)
    return gradients @ gradients.T


def contenders(similarity: np.ndarray, n_picks: int) -> dict[tuple[str, str], Callable[[], object]]:
    """Return the greedy searches of libraries that are installed, by their names and what they maximise."""
    found: dict[tuple[str, str], Callable[[], object]] = {}
    if find_spec("apricot"):
        import apricot

        options = {"metric": "precomputed", "optimizer": "lazy"}
        for what, kind in (
            (FACILITY_LOCATION, apricot.FacilityLocationSelection),
            (GRAPH_CUT, apricot.GraphCutSelection),
        ):
            found["apricot-select", what] = lambda kind=kind: kind(n_picks, **options).fit(similarity)
    if find_spec("submodlib"):
        import submodlib

        n = len(similarity)
        location = submodlib.FacilityLocationFunction(n=n, mode="dense", sijs=similarity, separate_rep=False)
        cut = submodlib.GraphCutFunction(n=n, mode="dense", lambdaVal=1.0, ggsijs=similarity)
        for what, function in ((FACILITY_LOCATION, location), (GRAPH_CUT, cut)):
            found["submodlib-py", what] = lambda function=function: function.maximize(
                budget=n_picks, optimizer="LazyGreedy", show_progress=False, verbose=False,
                stopIfZeroGain=False, stopIfNegativeGain=False,
            )  # fmt: skip
    return found


def seconds(work: dict[str, Callable[[], object]], trials: int) -> dict[str, float]:
    """Return the median time of each piece of work; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(trials):
        for name, one in work.items():
            begin = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - begin)
    for name, taken in times.items():
        say(f"{name}: {median(taken):.2f} s")
    return {name: median(taken) for name, taken in times.items()}


def one_class(given: argparse.Namespace, judge: Callable[[bool, str], str]) -> list[str]:
    """Return what one class takes, beside contenders."""
    rows, n_picks = make_class(given.n, given.width, given.classes), int(given.kept * given.n)
    similarity = similarities(rows)
    whole = seconds(
        {
            "Gram, DeepCore's formula": lambda: gram_by_outer_products(rows),
            "Gram": lambda: gram(rows),
            "similarities": lambda: similarities(rows),
            FACILITY_LOCATION: lambda: cover_greedily(similarity, n_picks),
            GRAPH_CUT: lambda: cut_greedily(similarity, n_picks),
        },
        given.trials,
    )
    formula, ours, gram_s = whole["Gram, DeepCore's formula"], whole["similarities"], whole["Gram"]
    lines = [
        f"a class: similarities {ours:.2f} s, its Gram by DeepCore's formula {formula:.2f} s",
        judge(formula >= 3 * gram_s, f"Gram {gram_s:.2f} s: 3 times DeepCore's: {formula / gram_s:.1f}"),
    ]
    for (library, what), work in contenders(similarity.copy(), n_picks).items():
        (theirs,) = seconds({f"{what}, {library}": work}, 1).values()  # minutes, at full size
        in_all = (theirs + formula) / (whole[what] + ours)
        lines += [
            judge(whole[what] <= theirs, f"{what}: greedy {whole[what]:.2f} s, {library} {theirs:.2f} s"),
            judge(in_all >= 3, f"{what}: 3 times as fast in the whole as {library}: {in_all:.1f}"),
        ]
    matrix = gram(rows, "own_row")
    weighted = seconds(
        {
            "craig": lambda: match_clusters(rows, n_picks),
            "grad_match without its Gram": lambda: match_sum(matrix, n_picks, 0.5),
        },
        1,
    )
    lines.append(", ".join(f"{name} {taken:.2f} s" for name, taken in weighted.items()))
    return lines


def own_classes(given: argparse.Namespace, rank: int, most: int | None = None) -> dict[str, float]:
    """Return seconds of facility location and of graph cut on all classes of a rank, and its peak in GB."""
    owner = assign_owners(np.full(given.classes, given.n), given.ranks)
    classes = np.flatnonzero(owner == rank)[:most]
    n_picks, taken = int(given.kept * given.n), {FACILITY_LOCATION: 0.0, GRAPH_CUT: 0.0}
    for number in classes:
        rows = make_class(given.n, given.width, given.classes, int(number))
        for what, pick in ((FACILITY_LOCATION, cover_greedily), (GRAPH_CUT, cut_greedily)):
            begin = time.perf_counter()
            pick(similarities(rows), n_picks)
            taken[what] += time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**taken, "peak": peak, "classes": len(classes)}


def whole(words: Sequence[str], given: argparse.Namespace, judge: Callable[[bool, str], str]) -> list[str]:
    """Return what all classes take on real ranks."""
    say(f"all classes on {given.ranks} ranks ...")
    found: list[dict] = on_ranks(given.ranks, __file__, [*words, "--child"])  # type: ignore[assignment]
    slowest = {what: max(of_rank[what] for of_rank in found) for what in (FACILITY_LOCATION, GRAPH_CUT)}
    peak = max(of_rank["peak"] for of_rank in found)
    times = ", ".join(f"{what} {taken:.1f} s" for what, taken in slowest.items())
    return [
        f"{given.classes} classes on {given.ranks} ranks, with similarities: {times}",
        judge(peak <= 1, f"at most 1 GB a rank: {peak:.2f} GB"),
    ]


def projected(given: argparse.Namespace) -> list[str]:
    """Return what ImageNet would take, from the classes of one rank."""
    share = argparse.Namespace(**{**vars(given), **IMAGENET})
    say(f"the classes of one of {share.ranks} ranks of ImageNet ...")
    found = own_classes(share, rank=0)
    times = ", ".join(f"{what} {found[what]:.0f} s" for what in (FACILITY_LOCATION, GRAPH_CUT))
    return [f"ImageNet, {found['classes']} of its classes, those of one of {share.ranks} ranks: {times}"]


def main(words: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in FULL.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.child and read_launch_env(os.environ):
        comm = open_comm()
        found = comm.gather(own_classes(given, comm.rank))
        if comm.rank == 0:
            Path(given.child).write_text(json.dumps(found))
        return
    is_full = all(getattr(given, name) == size for name, size in FULL.items())
    judge = verdict if is_full else lambda met, target: f"not judged at this size  {target}"
    lines = [*one_class(given, judge), *whole(words, given, judge), *(projected(given) if is_full else [])]
    top = header(["numpy"], f"{given.trials}, of contenders 1")
    print("\n".join([f"result:    {lines[0].strip()}", top, "", *lines]))


if __name__ == "__main__":
    main(sys.argv[1:])
