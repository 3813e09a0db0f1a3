"""Time and bytes of one plan on real MPI ranks, against the authors' way and a gather, all in one run.

    python scripts/bench_selection.py                                KAKURENBO: 1.28M and 10M samples, 1, 2
    and 4 ranks python scripts/bench_selection.py --methods kakurenbo,infobatch  any methods (or all): 1.28M
    samples, 1 and 2 ranks

It starts its own ranks with mpirun; started by mpirun or srun itself, it measures on those ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from bench_common import LEAST_TRIALS, header, median, on_ranks, say, verdict
from counted_comm import Counted

from kakurenbo_hpc.core.ledger import Homes, Ledger
from kakurenbo_hpc.core.plan import Epoch, Plan
from kakurenbo_hpc.distributed.comm import Comm
from kakurenbo_hpc.distributed.launch_env import read_launch_env
from kakurenbo_hpc.distributed.world import World, open_comm
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.batch_level import BatchMethod
from kakurenbo_hpc.selection.global_stats import GlobalStats
from kakurenbo_hpc.selection.method import Method
from kakurenbo_hpc.selection.threshold import find_threshold

IMAGENET = 1_281_167
EPOCH = Epoch(
    31, 90, 1
)  # a plan from the middle of a run: past every method's warm-up, and one in which ucb chooses anew
OPTIONS = {"static": {"scores": ["-"]}}  # what a method cannot be made without
TIE = np.float32(2.0**-23)  # the losses of confident samples are small multiples of float32's step at 1
LATENCY_S, BYTES_PER_S = (
    5e-6,
    1e10,
)  # of the network in the projection: one message between two ranks of two nodes

Trial = Callable[[], int]


def samples(n: int, ties: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (n,) loss, correct, confidence: exponential losses, a share of them tied as confident samples'
    losses are.
    """
    rng = np.random.default_rng(n)
    loss = rng.standard_exponential(n, np.float32)
    tied = rng.random(n, np.float32) < ties
    loss[tied] = TIE * (rng.geometric(0.5, int(tied.sum())) - 1).astype(np.float32)
    probability = np.exp(-loss)
    return loss, rng.random(n, np.float32) < probability, np.maximum(probability, 1 - probability)


def ledger_of(n_total: int, start: int, loss, correct, confidence, columns=None) -> Ledger:
    """Return the ledger of rows that were all seen in the epoch before, with plausible values in a method's
    columns.
    """
    seen = np.full(len(loss), EPOCH.number - 1, np.int32)
    extra = {
        name: _plausible(name, np.dtype(dtype), loss, start) for name, (dtype, _) in (columns or {}).items()
    }
    return Ledger(n_total, start, loss, correct, confidence, seen, extra)


def _plausible(name: str, dtype: np.dtype, loss: np.ndarray, start: int) -> np.ndarray:
    rng = np.random.default_rng(start)
    p = np.exp(-loss)
    known = {
        "probability": p,
        "el2n": 1.2 * (1 - p),
        "grad_norm": 5 * (1 - p),
        "importance": np.sqrt(1 - p),
        "mean": p if dtype == np.float64 else loss,  # spv's history is of probabilities, ucb's of losses
        "label": rng.integers(0, 1000, len(loss)),
        "n_noted": np.full(len(loss), EPOCH.number - 1),
    }
    if name in known:
        return known[name].astype(dtype)
    if dtype is bool:
        return rng.random(len(loss)) < 0.7
    if dtype.kind in "iu":
        return rng.integers(0, EPOCH.number, len(loss)).astype(dtype)
    return rng.random(len(loss)).astype(dtype)


def planned(method: Method, ledger: Ledger, comm) -> Plan:
    return method.plan(EPOCH, ledger, GlobalStats(comm))


def authors(n: int, mine: slice, columns, method: Method, comm) -> Trial:
    """The way of the authors' code: three dense float64 arrays summed over ranks, then a full sort on every
    rank.

    In their favour: what they do to each candidate in a Python loop is done here at once.
    """
    dense = np.zeros((3, n))
    for row, column in zip(dense, columns, strict=True):
        row[mine] = column[mine]

    def trial() -> int:
        loss, correct, confidence = (comm.sum(row) for row in dense)
        _, order = torch.sort(torch.from_numpy(loss))
        easy = order[: int(method.ceiling_of(EPOCH) * n)].numpy()
        trains = np.ones(n, bool)
        trains[easy[(correct[easy] == 1) & (confidence[easy] >= method.confidence)]] = False
        return n - int(np.count_nonzero(trains))

    return trial


def gathered(n: int, mine: slice, columns, method: Method, comm) -> Trial:
    """The short way: every rank gathers all losses and partitions them; ties fall as they may."""
    loss, correct, confidence = (column[mine] for column in columns)
    sizes = np.diff(Homes(n, comm.size).starts).tolist()

    def trial() -> int:
        everything = comm.allgatherv(loss, sizes)
        k = int(method.ceiling_of(EPOCH) * n)
        threshold = np.partition(everything, k - 1)[k - 1]
        hidden = (loss <= threshold) & correct & (confidence >= method.confidence)
        return int(comm.sum(np.array([np.count_nonzero(hidden)]))[0])

    return trial


def measure(trials: dict[str, Trial], n_trials: int, comm: Comm) -> dict[str, list[float]]:
    """Return the seconds of each contender, in turn, after one turn to warm up; a trial takes as long as its
    slowest rank.
    """
    seconds = {name: [] for name in trials}
    for number in range(n_trials + 1):
        for name, trial in trials.items():
            comm.barrier()
            begun = time.perf_counter()
            trial()
            took = comm.max(np.array([time.perf_counter() - begun]))[0]
            if number:
                seconds[name].append(float(took))
    return seconds


def bench_kakurenbo(n: int, ties: float, n_trials: int, comm: Comm) -> dict:
    """Return seconds and bytes of our plan and its contenders; ours is first held against one stable sort of
    all N.
    """
    method = METHODS["kakurenbo"](method="kakurenbo")
    columns = samples(n, ties)
    mine = slice(*Homes(n, comm.size).rows(comm.rank))
    ledger = ledger_of(n, mine.start, *(column[mine] for column in columns))

    easy = np.argsort(columns[0], kind="stable")[: int(method.ceiling_of(EPOCH) * n)]
    trains = np.ones(n, bool)
    trains[easy[columns[1][easy] & (columns[2][easy] >= method.confidence)]] = False
    if not np.array_equal(planned(method, ledger, comm).train, trains[mine]):
        raise AssertionError(f"the plan of {n} samples on {comm.size} ranks is not that of one sort")

    counted = Counted(comm)
    contenders = {"ours": lambda: planned(method, ledger, counted).train.size}
    contenders["authors"] = authors(n, mine, columns, method, counted)
    contenders["gather"] = gathered(n, mine, columns, method, counted)
    if comm.size == 1:  # what the rows of one rank cost at least
        k = int(method.ceiling_of(EPOCH) * n)
        contenders["threshold"] = lambda: find_threshold(ledger.loss, None, k, comm).k
        contenders["partition"] = lambda: np.partition(ledger.loss, k - 1).size
    sent = {}
    for name, trial in contenders.items():
        counted.sent = counted.messages = 0
        trial()
        sent[name] = int(comm.max(np.array([counted.sent]))[0]), counted.messages
    return {"n": n, "ranks": comm.size, "seconds": measure(contenders, n_trials, comm), "sent": sent}


def bench_methods(names: Sequence[str], n: int, ties: float, n_trials: int, comm: Comm) -> list[dict]:
    """Return seconds and bytes of each method's plan."""
    mine = slice(*Homes(n, comm.size).rows(comm.rank))
    columns = [column[mine] for column in samples(n, ties)]
    lines = []
    for name in names:
        method = METHODS[name](method=name, **OPTIONS.get(name, {}))
        ledger = ledger_of(n, mine.start, *columns, method.columns)
        counted = Counted(comm)
        planned(method, ledger, counted)
        seconds = measure(
            {name: lambda method=method, ledger=ledger: planned(method, ledger, comm).train.size},
            n_trials,
            comm,
        )
        sent = int(comm.max(np.array([counted.sent]))[0])
        lines.append(
            {
                "method": name,
                "n": n,
                "ranks": comm.size,
                "seconds": seconds[name],
                "sent": [sent, counted.messages],
            }
        )
    return lines


def bench_share(n_total: int, n_ranks: int, ties: float, n_trials: int, comm: Comm) -> dict:
    """Return seconds and bytes of the plan of one of n_ranks ranks' rows, those in the middle, on this rank
    alone.
    """
    method = METHODS["kakurenbo"](method="kakurenbo")
    start, stop = Homes(n_total, n_ranks).rows(n_ranks // 2)
    ledger = ledger_of(n_total, start, *samples(stop - start, ties))
    counted = Counted(comm)
    planned(method, ledger, counted)
    seconds = measure({"ours": lambda: planned(method, ledger, comm).train.size}, n_trials, comm)["ours"]
    return {"rows": stop - start, "seconds": seconds, "sent": [counted.sent, counted.messages]}


def bench(given: argparse.Namespace, comm: Comm) -> dict:
    """Measure on these ranks all that was asked for."""
    World.detect(comm)  # torch's threads as in a run: the node's cores divided by its ranks
    found = {"ranks": comm.size, "mpi": _mpi_library()}
    if given.methods != ["kakurenbo"]:
        return found | {"methods": bench_methods(given.methods, given.n[0], given.ties, given.trials, comm)}
    found["kakurenbo"] = [bench_kakurenbo(n, given.ties, given.trials, comm) for n in given.n]
    if comm.size == 1 and given.project:
        found["share"] = bench_share(*given.project, given.ties, given.trials, comm)
    return found


def _mpi_library() -> str:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return "no MPI"
    return MPI.Get_library_version().split(",")[0].splitlines()[0].strip()


def report(found: list[dict], given: argparse.Namespace) -> str:
    body = (
        _report_methods(found, given) if given.methods != ["kakurenbo"] else _report_kakurenbo(found, given)
    )
    result, rest = body
    micro_batches = "contenders in turn, " if given.methods == ["kakurenbo"] else ""
    trials = (
        f"median of {given.trials}, {micro_batches}after one to warm up; a trial is as long as on its "
        "slowest rank"
    )
    top = header(("numpy", "torch", "mpi4py"), trials, found[0]["mpi"])
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    top += f"\nnumpy:     SIMD {', '.join([*simd['baseline'], *simd.get('found', [])])}"
    data = (
        f"data:      exponential losses, {given.ties:.0%} of them tied as confident samples' are (0, "
        "2^-23, 2^-22, ...)"
    )
    return "\n".join([*result, top, data, "", *rest])


def _report_kakurenbo(found: list[dict], given: argparse.Namespace) -> tuple[list[str], list[str]]:
    rows = [row for part in found for row in part["kakurenbo"]]
    ratios = {
        (row["n"], row["ranks"], name): median(
            b / a for a, b in zip(row["seconds"]["ours"], row["seconds"][name], strict=True)
        )
        for row in rows
        for name in row["seconds"].keys() - {"ours"}
    }
    sent = sorted({row["sent"]["ours"][0] for row in rows})
    main = next((row for row in rows if row["ranks"] == 2), rows[0])
    faster = ratios[main["n"], main["ranks"], "authors"]
    result = [
        f"result:    KAKURENBO's plan of {main['n']:,} samples on {_ranks(main['ranks'])}: {faster:.1f} "
        "times as fast as the authors' way, "
        f"{ratios[main['n'], main['ranks'], 'gather']:.1f} times as fast as allgather + partition",
        f"           bytes sent per rank: {' to '.join(f'{b:,}' for b in sent)}, whatever N and the ranks; "
        f"the authors' way: {main['sent']['authors'][0]:,}",
    ]
    rest = ["                      times as fast as    milliseconds                  bytes sent per rank"]
    rest += [
        "         N  ranks    authors    gather      ours   authors    gather      ours       authors      "
        "  gather"
    ]
    for row in rows:
        ms = [1e3 * median(row["seconds"][name]) for name in ("ours", "authors", "gather")]
        b = [row["sent"][name][0] for name in ("ours", "authors", "gather")]
        a, g = (ratios[row["n"], row["ranks"], name] for name in ("authors", "gather"))
        rest.append(
            f"{row['n']:>10,}  {row['ranks']:>5}  {a:>9.1f} {g:>9.1f} {ms[0]:>9.2f} {ms[1]:>9.1f} "
            f"{ms[2]:>9.1f} "
            f"{b[0]:>9,} {b[1]:>13,} {b[2]:>13,}"
        )
    rest += [
        "",
        "authors: three dense float64 arrays of length N summed over ranks (MPI), torch.sort on every "
        "rank; their Python loop",
        "over the candidates is done at once here, in their favour. gather: MPI allgather of the losses, "
        "np.partition on every",
        "rank; it receives all N losses, and where losses tie it hides too many. Ours: its hidden set was "
        "compared with that of",
        "one stable sort of all N on every rank, and is the same. Bytes: what a rank hands to MPI.",
        "",
        verdict(
            faster >= 10,
            f"at least 10 x faster than the authors' way ({main['n']:,} samples, {_ranks(main['ranks'])}): "
            f"{faster:.1f}",
        ),
        verdict(sent[-1] <= 1 << 16, f"at most 64 KB sent by a rank, whatever N: {sent[-1]:,}"),
        *_beside_partition(rows),
    ]
    share = next((part["share"] for part in found if "share" in part), None)
    return result, rest + (_projected(share, given) if share else [])


def _beside_partition(rows: list[dict]) -> list[str]:
    """Return the plan and its search for the threshold in units of one np.partition, and 2 ranks' gather."""
    lines = []
    for row in rows:
        seconds = row["seconds"]
        if row["ranks"] == 1:
            plan, search = (
                median(a / b for a, b in zip(seconds[name], seconds["partition"], strict=True))
                for name in ("ours", "threshold")
            )
            lines += [
                verdict(search <= 2.5, f"threshold of {row['n']:,}, in np.partitions (2.5): {search:.2f}"),
                verdict(plan <= 4, f"plan of {row['n']:,}, in np.partitions (4): {plan:.2f}"),
            ]
        elif row["ranks"] == 2:
            faster = median(b / a for a, b in zip(seconds["ours"], seconds["gather"], strict=True))
            lines.append(
                verdict(faster > 1, f"faster than gather + partition at 2 ranks: {faster:.2f} times")
            )
    return lines


def _projected(share: dict, given: argparse.Namespace) -> list[str]:
    n, n_ranks = given.project
    n_bytes, n_messages = share["sent"]
    rounds = int(np.ceil(np.log2(n_ranks)))
    network_s = rounds * (n_messages * LATENCY_S + n_bytes / BYTES_PER_S)
    return [
        "",
        f"{n:,} samples on {n_ranks:,} ranks",
        f"  measured:  {1e3 * median(share['seconds']):.2f} ms of one rank's work on its {share['rows']:,} "
        "rows, with the ids it would",
        f"             have; it ran alone on this machine. It handed {n_bytes:,} bytes in {n_messages} "
        "allreduces to MPI,",
        "             for any N and ranks.",
        f"  projected: {1e3 * network_s:.2f} ms for these allreduces in {rounds} rounds each, at "
        f"{1e6 * LATENCY_S:g} us and "
        f"{BYTES_PER_S / 1e9:g} GB/s a message:",
        f"             {1e3 * (median(share['seconds']) + network_s):.1f} ms a plan. No {n_ranks:,} ranks "
        "were started.",
        f"             The authors' way would hand {3 * 8 * n:,} bytes to MPI on every rank, and sort "
        f"{n:,} values there.",
    ]


def _report_methods(found: list[dict], given: argparse.Namespace) -> tuple[list[str], list[str]]:
    rows = {(row["method"], row["ranks"]): row for part in found for row in part["methods"]}
    ranks = [part["ranks"] for part in found]
    result = [
        f"result:    milliseconds per plan of {given.n[0]:,} samples on {_ranks(ranks[0])}, fastest first"
    ]
    by_time = sorted(given.methods, key=lambda name: median(rows[name, ranks[0]]["seconds"]))
    result += [
        "           "
        + ", ".join(f"{name} {1e3 * median(rows[name, ranks[0]]['seconds']):.1f}" for name in by_time)
    ]
    rest = [
        "method                    " + "".join(f"{_ranks(r):>11}: ms    bytes sent  messages" for r in ranks)
    ]
    for name in given.methods:
        cells = [rows[name, r] for r in ranks]
        rest.append(
            f"{name:<26}"
            + "".join(
                f"{1e3 * median(c['seconds']):>15.1f} {c['sent'][0]:>13,} {c['sent'][1]:>9}" for c in cells
            )
        )
    if ("infobatch", 1) in rows and given.n[0] == IMAGENET:
        ms = 1e3 * median(rows["infobatch", 1]["seconds"])
        rest += ["", verdict(ms < 15, f"InfoBatch's plan on one rank under 15 ms: {ms:.1f}")]
    return result, rest


def _ranks(n: int) -> str:
    return "1 rank" if n == 1 else f"{n} ranks"


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument(
        "--methods", default="kakurenbo", help=f"names with commas, or all; of {', '.join(METHODS)}"
    )
    parser.add_argument(
        "--n", type=numbers, help="samples (default: 1281167,10000000; the first alone with --methods)"
    )
    parser.add_argument("--ranks", type=numbers, help="ranks to start (default: 1,2,4; 1,2 with --methods)")
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS + 1, help="default: %(default)s")
    parser.add_argument(
        "--ties",
        type=float,
        default=0.5,
        help="share of tied losses (default: %(default)s, so that they straddle the threshold)",
    )
    parser.add_argument(
        "--project", type=numbers, default=[10**9, 1024], help="samples and ranks (default: 1000000000,1024)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    epoch_level = [name for name, method in METHODS.items() if not issubclass(method, BatchMethod)]
    given.methods = epoch_level if given.methods == "all" else given.methods.split(",")
    unknown = [name for name in given.methods if name not in epoch_level]
    if unknown:
        parser.error(
            f"--methods: {', '.join(unknown)}: no method that plans an epoch; known: {', '.join(epoch_level)}"
        )
    alone = given.methods == ["kakurenbo"]
    given.n = given.n or ([IMAGENET, 10_000_000] if alone else [IMAGENET])
    given.ranks = given.ranks or ([1, 2, 4] if alone else [1, 2])
    return given


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    if read_launch_env(os.environ):
        comm = open_comm()
        found = bench(given, comm)
        if comm.rank == 0 and given.child:
            Path(given.child).write_text(json.dumps(found))
        elif comm.rank == 0:
            print(report([found], given))
        return
    found = []
    for n in given.ranks:
        say(f"measuring on {_ranks(n)} ...")
        found.append(on_ranks(n, __file__, [*words, "--child"]))
    print(report(found, given))


if __name__ == "__main__":
    main(sys.argv[1:])
