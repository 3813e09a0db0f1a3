"""Scaling: planning on 1 to 128 real ranks, a cost model held against them, and training on 1, 2 and 4 ranks.

    python scripts/bench_scaling.py                           all of it: about 20 minutes, 12 GB
    python scripts/bench_scaling.py --n 1281167 --ranks 1,2,4 --train-ranks 1,2

Ranks beyond the physical cores are oversubscribed: they show counts, memory and a rank's own work, no times.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import scaling_ranks
from bench_common import environment, header, on_ranks, say, verdict
from scaling_model import (
    NETWORKS,
    WORST_PLAN,
    Network,
    Training,
    count_epoch,
    hidden_imbalance,
    limits,
    planning_seconds,
    training_seconds,
)

from kakurenbo_hpc.core.cpu_topology import count_physical_cores
from kakurenbo_hpc.distributed.comm import SerialComm, grid_width
from kakurenbo_hpc.report.records import read_records
from kakurenbo_hpc.report.scaling import measure_scaling, scaling_text

RANK_BYTES, ROW_BYTES, DENSE_BYTES = (
    75e6,
    150.0,
    72.0,
)  # of a rank; of a sample; of the authors', on each rank
LARGEST_SHARE = 1 << 18  # rows whose work is measured; that of more is in proportion


def memory_needed(n: int, n_ranks: int) -> float:
    """Return the bytes that all ranks together need for n samples."""
    authors = n_ranks * n * DENSE_BYTES if n_ranks <= scaling_ranks.MOST_OF_AUTHORS else 0.0
    return n_ranks * RANK_BYTES + max(n * ROW_BYTES, authors)


def check_memory(sizes: Sequence[int], ranks: Sequence[int]) -> None:
    """Exit with what is needed if it does not fit into the memory that is free."""
    needed, n, n_ranks = max((memory_needed(n, p), n, p) for n in sizes for p in ranks)
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    if needed > free:
        sys.exit(
            f"bench_scaling: {n:,} samples on {n_ranks} ranks need {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free; give smaller --n or --ranks"
        )


def own_seconds(n: int, n_ranks: int, batch_per_rank: int) -> dict[str, float]:
    """Return a rank's own work by stage, of one of n_ranks; of very many rows in proportion."""
    share = -(-n // n_ranks)
    largest = min(share, LARGEST_SHARE)
    own = scaling_ranks.measure_share(largest * n_ranks, n_ranks, batch_per_rank, SerialComm())
    return {stage: seconds * share / largest for stage, seconds in own.items()}


def compare_counts(run: dict, plan: list[int]) -> bool:
    """Return whether the model has the calls of real ranks: their kinds, bytes and messages."""
    expected = count_epoch(run["n"], run["n_trained"], run["ranks"], plan)
    found = {stage: [tuple(call) for call in facts["calls"]] for stage, facts in run["stages"].items()}
    return found == {stage: [tuple(call) for call in calls] for stage, calls in expected.items()}


def plan_bytes(run: dict) -> list[int]:
    """Return the bytes of each reduction of a plan on one rank."""
    return [n_bytes for _, n_bytes, _ in run["stages"]["plan"]["calls"]]


def report_ranks(found: dict[int, dict], cores: int) -> tuple[list[str], bool]:
    """Return the table of real ranks, and whether all results and counts are as they should be."""
    heads = (
        "         N ranks  results  counts  own work, ms  x P / 1   calls   MB sent   targets  MB grown"
        "  wall, ms"
    )
    lines, all_good = [heads], True
    runs = [run for part in found.values() for run in part["ours"] + part["two_hops"]]
    grids = [run for part in found.values() for run in part["two_hops"]]
    alone = {run["n"]: run for run in found[min(found)]["ours"]}
    for run in sorted(runs, key=lambda run: (run["n"], run["ranks"])):
        base, stages, p = alone[run["n"]], run["stages"].values(), run["ranks"]
        same = run["digest"] == base["digest"] and run["balance"] <= 1
        counts = compare_counts(run, plan_bytes(base))
        all_good &= same and counts
        own, own_of_1 = (sum(s["own_s"] for s in r["stages"].values()) for r in (run, base))
        calls = [call for stage in stages for call in stage["calls"]]
        wall = f"{1e3 * sum(s['wall_s'] for s in stages):>8.1f}" if p <= cores else "  oversubscribed"
        width = grid_width(p)
        grid = f"  in two hops, {width + p // width - 2} messages each" if run in grids else ""
        lines.append(
            f"{run['n']:>10,} {p:>5}  {'same' if same else 'DIFFER':>7}  "
            f"{'equal' if counts else 'DIFFER':>6}  {1e3 * own:>12.1f}  "
            f"{own * p / own_of_1 / base['ranks']:>7.2f}  {len(calls):>6}  "
            f"{sum(n for _, n, _ in calls) / p / 1e6:>8.2f}  {sum(m for _, _, m in calls):>8}  "
            f"{run['grown_bytes'] / 1e6:>8.1f}  {wall}{grid}"
        )
    lines += [
        "",
        "results: hidden set, order of both passes, ledger as on one rank; shards balanced to one sample.",
        "counts: kinds, bytes and messages of all calls as in the model. own work: of the slowest rank,",
        "outside MPI, which polls. MB sent: a rank's mean, what stays on it included. targets: other ranks",
        "that its exchanges have rows for. MB grown: peak resident memory of the rank that has most, beyond",
        "what it began with.",
        "",
        "the authors' way      N  ranks  own work, ms  MB sent  MB grown",
    ]
    for part in found.values():
        for run in part["authors"]:
            sent = sum(n for _, n, _ in run["calls"]) / run["ranks"] / 1e6
            lines.append(
                f"{run['n']:>21,}  {run['ranks']:>5}  {1e3 * run['own_s']:>12.1f}  {sent:>7.1f}  "
                f"{run['grown_bytes'] / 1e6:>8.0f}"
            )
    return lines, all_good


def report_times(found: dict[int, dict], cores: int) -> list[str]:
    """Return the model's seconds beside those of 1 and 2 real ranks, by the processor and by the clock."""
    heads = "N  ranks  own work: model, ms  measured  error   all: model, ms     clock  error"
    lines = [f"model's time against that of real ranks {heads}"]
    measured = found.get(2, {}).get("network") or [0.0, 1e9]
    network = Network("shared memory of this machine", *measured, "measured here")
    for p in sorted(p for p in found if p <= min(2, cores)):
        for run in found[p]["ours"]:
            calls = count_epoch(run["n"], run["n_trained"], p, plan_bytes(run))
            own = own_seconds(run["n"], p, scaling_ranks.GLOBAL_BATCH // p)
            model = planning_seconds(own, calls, p, network, local=True)
            work, clock = (sum(s[name] for s in run["stages"].values()) for name in ("own_s", "wall_s"))
            lines.append(
                f"{run['n']:>41,}  {p:>5}  {1e3 * sum(own.values()):>19.1f}  {1e3 * work:>8.1f}  "
                f"{sum(own.values()) / work - 1:>+5.0%}  {1e3 * model:>14.1f}  {1e3 * clock:>8.1f}  "
                f"{model / clock - 1:>+5.0%}"
            )
    if 2 in found:
        lines.append(f"between two ranks here: {1e6 * measured[0]:.1f} us, {measured[1] / 1e9:.1f} GB/s")
    return lines


def project(sizes: Sequence[int], ranks: Sequence[int], training: Training) -> list[str]:
    """Return projected tables: planning's share of an epoch, and the parts of an epoch."""
    lines = [
        f"projected, assuming {training.samples_per_s:g} samples/s and {training.batch_per_rank} samples a "
        f"step on each rank, {training.gradient_bytes / 1e6:g} MB of gradients,",
        f"whose exchange {training.overlap:.0%} of the backward pass hide, {training.hidden:.0%} of the "
        f"samples hidden, the slowest rank {training.slow_rank:g} times as slow",
    ]
    own = {(n, p): own_seconds(n, p, training.batch_per_rank) for n in sizes for p in ranks if n >= p}
    first_over: dict[str, str] = {}
    for network in NETWORKS:
        lines += [
            "",
            f"{network.name}: {network.latency_s * 1e6:g} us, {network.bytes_per_s / 1e9:.2f} GB/s a rank",
        ]
        lines += [f"  ({network.sources})", "planning's share of an epoch, all projected"]
        lines.append(" ranks  " + "  ".join(f"{f'N = {n:.0e}':>20}" for n in sizes))
        for p in ranks:
            cells = []
            for n in sizes:
                if (n, p) not in own:
                    cells.append("-")
                    continue
                calls = count_epoch(n, int((1 - training.hidden) * n), p, WORST_PLAN)
                plan_s = planning_seconds(own[n, p], calls, p, network)
                epoch_s = plan_s + training_seconds(n, p, network, training)[0]
                cells.append(f"projected {plan_s / epoch_s:.2%}")
                if plan_s > 0.01 * epoch_s:
                    first_over.setdefault(f"{network.name}, N = {n:.0e}", f"{p:,} ranks")
            lines.append(f"{p:>6}  " + "  ".join(f"{cell:>20}" for cell in cells))
    over = "; ".join(f"{where}: from {p}" for where, p in first_over.items()) or "nowhere"
    lines += ["", f"planning exceeds 1 % of an epoch (projected): {over}"]
    lines += ["", "parts of an epoch on Frontier's network, all projected"]
    lines.append(
        " ranks          N  epoch, s  gradients not hidden  a rank 1.5 times as slow  no exchange of shards"
    )
    for p in ranks:
        for n in sizes:
            if (n, p) in own and n // p <= 1 << 22:
                seconds, exposed = training_seconds(n, p, NETWORKS[0], training)
                slow = Training(**{**vars(training), "slow_rank": 1.5})
                slower = training_seconds(n, p, NETWORKS[0], slow)[0] / seconds - 1
                lines.append(
                    f"{p:>6}  {n:>9.0e}  {f'projected {seconds:.3g}':>16}  "
                    f"{f'projected {exposed / seconds:.1%}':>20}  {f'projected {slower:+.0%}':>16}  "
                    f"{f'projected {hidden_imbalance(n, p, training.hidden) - 1:+.1%} steps':>24}"
                )
    p, n = max(ranks), max(sizes)
    lines += ["", f"what grows with the ranks, at {p:,} (by count), before and now"]
    lines += [f"  {what:<58} {before:>20}  {now:>28}" for what, before, now in limits(p, n)]
    return lines


def train(ranks: Sequence[int], scaling: str, epochs: int) -> list[str]:
    """Return the scaling of real training with gradients, a run on each number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["launch", "digits_kakurenbo", "--ranks", ",".join(map(str, ranks)), "--scaling", scaling]
        words += ["--run-dir", folder, "--set", f"training.epochs={epochs}"]
        command = [sys.executable, "-m", "kakurenbo_hpc.cli", *words]
        done = subprocess.run(
            command, env=environment() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        found = measure_scaling(read_records([Path(folder)]).runs)
        assert found is not None
        return [
            f"training, {words[1]}, {epochs} epochs, one thread a rank",
            *scaling_text(found).splitlines(),
        ]


def main(words: Sequence[str]) -> None:
    def numbers(text: str) -> list[int]:
        return [int(float(word)) for word in text.split(",") if word]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=numbers, default=[1_281_167, 10_000_000], help="samples on real ranks")
    parser.add_argument(
        "--ranks", type=numbers, default=[1, 2, 4, 16, 64, 128], help="real ranks; 1 is among them"
    )
    parser.add_argument(
        "--project-n", type=numbers, default=[10**k for k in range(6, 11)], help="samples, projected"
    )
    parser.add_argument(
        "--project-ranks", type=numbers, default=[16, 256, 4096, 65536], help="ranks, projected"
    )
    parser.add_argument("--train-ranks", type=numbers, default=[1, 2, 4], help="ranks that train; none: ''")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of that training (default: %(default)s)"
    )
    given = parser.parse_args(words)
    ranks, cores = sorted({1, *given.ranks}), count_physical_cores()
    check_memory(given.n, ranks)
    found = {}
    for p in ranks:
        say(f"planning on {p} ranks ...")
        found[p] = on_ranks(p, scaling_ranks.__file__, [",".join(map(str, given.n))])
    table, good = report_ranks(found, cores)
    say("a rank's own work, for the model ...")
    times, projected = report_times(found, cores), project(given.project_n, given.project_ranks, Training())
    trained = []
    if given.train_ranks:
        say("training ...")
        trained = train(given.train_ranks, "strong", given.epochs)
    most = max(ranks)
    lines = [
        f"result:    planning on 1 to {most} ranks: {'the same' if good else 'NOT THE SAME'} hidden set, "
        "order and ledger, and the counts of the model",
        header(("numpy", "mpi4py"), "1 of each; times of 1 and 2 ranks are of a shared machine"),
        f"ranks:     one thread each, {cores} physical cores: more are oversubscribed, and get no times",
        "",
        *table,
        "",
        *times,
        "",
        *projected,
        "",
        *trained,
        "",
        verdict(good, f"identical results and counts on 1 to {most} ranks"),
    ]
    print("\n".join(lines))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
