"""Time and memory of one class's subset, against apricot-select, submodlib-py and DeepCore's Gram.

    python scripts/bench_subsets.py        a class of CIFAR-10: 5,000 x 512, 10 classes, 30 % kept
    python scripts/bench_subsets.py --n 1281 --width 2048 --classes 1000       a class of ImageNet

One rank's thread, random vectors, contenders on the same similarities. Install contenders first (pip install
apricot-select submodlib-py); what is not installed is left out. A rank's time is that of a class times its
share of the classes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from bench_common import header, median, say, verdict

from kakurenbo_hpc.selection.subsets.covering import cover_greedily
from kakurenbo_hpc.selection.subsets.exact import quantise, round_rows
from kakurenbo_hpc.selection.subsets.gradients import gram, similarities
from kakurenbo_hpc.selection.subsets.matching_pursuit import match_sum
from kakurenbo_hpc.selection.subsets.methods.craig import match_clusters
from kakurenbo_hpc.selection.subsets.scoring import residuals
from kakurenbo_hpc.selection.subsets.vectors import Vectors

FACILITY_LOCATION, GRAPH_CUT = "facility location", "graph cut"


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
            found["apricot-select", what] = lambda kind=kind: kind(n_picks, **options).fit(similarity)  # type: ignore[misc]
    if find_spec("submodlib"):
        import submodlib

        n = len(similarity)
        location = submodlib.FacilityLocationFunction(n=n, mode="dense", sijs=similarity, separate_rep=False)
        cut = submodlib.GraphCutFunction(n=n, mode="dense", lambdaVal=1.0, ggsijs=similarity)
        for what, function in ((FACILITY_LOCATION, location), (GRAPH_CUT, cut)):
            found["submodlib-py", what] = lambda function=function: function.maximize(  # type: ignore[misc]
                budget=n_picks, optimizer="LazyGreedy", show_progress=False, verbose=False,
                stopIfZeroGain=False, stopIfNegativeGain=False,
            )  # fmt: skip
    return found


def seconds(work: Callable[[], object], trials: int, name: str) -> float:
    """Return the median time of a piece of work."""
    times = []
    for _ in range(trials):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    say(f"{name}: {median(times):.2f} s")
    return median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("n", 5000), ("width", 512), ("classes", 10), ("ranks", 2), ("trials", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kept", type=float, default=0.3, help="share of the class that is kept")
    given = parser.parse_args()
    rows, n_picks = make_class(given.n, given.width, given.classes), int(given.kept * given.n)
    similarity = similarities(rows)
    greedy = {FACILITY_LOCATION: lambda: cover_greedily(similarity, n_picks),
              GRAPH_CUT: lambda: cut_greedily(similarity, n_picks)}  # fmt: skip
    lines, formula = (
        [],
        seconds(lambda: gram_by_outer_products(rows), given.trials, "Gram, DeepCore's formula"),
    )
    ours = seconds(lambda: similarities(rows), given.trials, "similarities")
    lines.append(f"similarities {ours:.2f} s; DeepCore's Gram {formula:.2f} s")
    own = {what: seconds(work, given.trials, what) for what, work in greedy.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for (library, what), work in contenders(similarity.copy(), n_picks).items():
        theirs = seconds(work, given.trials, f"{what}, {library}")
        whole = (theirs + formula) / (own[what] + ours)
        lines += [
            verdict(own[what] <= theirs, f"{what}: greedy {own[what]:.2f} s, {library} {theirs:.2f} s"),
            verdict(whole >= 3, f"{what}: 3 times as fast in the whole as {library}: {whole:.1f}"),
        ]
    gram_s = seconds(lambda: gram(rows), given.trials, "Gram of gradients")
    lines.append(
        verdict(formula >= 3 * gram_s, f"Gram {gram_s:.2f} s: 3 times DeepCore's: {formula / gram_s:.1f}")
    )
    craig_s = seconds(lambda: match_clusters(rows, n_picks), 1, "craig")
    matrix = gram(rows, "own_row")
    match_s = seconds(lambda: match_sum(matrix, n_picks, 0.5), 1, "grad_match")
    lines.append(f"craig {craig_s:.2f} s, grad_match without its Gram {match_s:.2f} s")
    lines.append(
        verdict(peak <= 1, f"at most 1 GB a rank before contenders: {peak:.2f} GB, one class at a time")
    )
    share = -(-given.classes // given.ranks)
    lines.append(
        f"a rank of {given.ranks} has {share} classes: {share * (ours + own[FACILITY_LOCATION]):.0f} s"
    )
    assert np.array_equal(similarity, quantise(similarity.copy(), given.n))
    print("\n".join([*lines, header(["numpy"], f"{given.trials}, one class, {given.n} x {given.width}")]))


if __name__ == "__main__":
    main()
