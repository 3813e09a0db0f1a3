"""Kills of ranks at random moments of every stage, and runs that go on from them as if nothing had been.

A run is killed once in each of its first epochs, every time in another stage, and taken up again, until it is
done.
"""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from kakurenbo_hpc.cluster.failure_report import FailureReport
from support.slurm_cluster import SlurmHere
from support.start_ranks import command, environment, train

STRUCK_TRAIN = Path(__file__).parents[1] / "drills" / "programs" / "struck_train.py"
STAGES = ["plan", "train", "refresh", "evaluate", "checkpoint"]
EPOCHS = len(STAGES) + 1
KILLED_EPOCHS = range(0, EPOCHS, 2)  # of a launch: in the epoch between, a checkpoint becomes whole
JOB = ["digits_kakurenbo"]
for setting in [
    f"training.epochs={EPOCHS}",
    "model.options={width: 4, norm: batch}",
    "selection.confidence=0.3",
    "selection.fraction_epochs=[0]",
    "record.ledger=false",
    f"record.keep={EPOCHS}",
]:
    JOB += ["--set", setting]
MOST_S = 15  # until the other ranks have ended

LAUNCH = """
import sys
from kakurenbo_hpc.cluster import launch

strike = sys.argv[1:7]
struck = lambda *args, **more: [sys.executable, {struck!r}, *strike, *train(*args, **more)[4:]]
train, launch.train_command = launch.train_command, struck
from kakurenbo_hpc import cli
sys.argv = ["kakurenbo", "launch", *sys.argv[7:]]
cli.main()
"""


@dataclass(frozen=True)
class Killed:
    """One kill, and how long the other ranks lived on; of a launch, how long until they trained again.

    after_s: since its rank had come to the stage.
    """

    n: int
    rank: int
    epoch: int
    stage: str
    after_s: float
    ended_s: float

    def __str__(self):
        where = (
            f"rank {self.rank} of {self.n}, epoch {self.epoch}, {self.after_s * 1000:.0f} ms into "
            f"{self.stage}"
        )
        return f"{where}: {self.ended_s:.2f} s"


@dataclass(frozen=True)
class Nodes:
    """Nodes of a Slurm, one for each rank. python: the environment there, whose MPI is MPICH."""

    slurm: SlurmHere
    python: Path


def undisturbed(n: int, run: Path, starter: str = "mpirun", nodes: Nodes | None = None) -> dict:
    """Return what a run on n ranks leaves that nobody disturbs."""
    if nodes:
        nobody = ["SIGKILL", -1, -1, "none", 0, run.with_suffix(".told")]
        done = launched(starter, n, run, nobody, *JOB, nodes=nodes)
    else:
        done = train(n, *JOB, "--run-dir", run, timeout=400, starter=starter)
    assert done.returncode == 0, done.stderr[-3000:]
    return left(run)


def kills_of_launches() -> list[int]:
    """Return the kills of each launch of a drill, as many together as the variable KILLS says, or of one."""
    most = len(KILLED_EPOCHS)
    n_kills = int(os.environ.get("KILLS", most))
    return [min(most, n_kills - done) for done in range(0, n_kills, most)]


def killed_and_resumed(n: int, run: Path, whole: dict, n_kills: int, draws: random.Random) -> list[Killed]:
    """Kill a run on n ranks n_kills times, at most once an epoch, and let it end; fails where it differs from
    the whole one.
    """
    context, kills = draws.sample(STAGES, len(STAGES)), []
    for epoch, stage in enumerate(context[:n_kills]):
        kills.append(
            _kill(n, run, draws.randrange(n), epoch, stage, draws.random() * whole["seconds"][epoch][stage])
        )
        so_far = left(run)
        assert so_far["lines"] == whole["lines"][: len(so_far["lines"])], kills[-1]
        assert so_far["files"].items() <= whole["files"].items(), kills[-1]
    done = train(n, *JOB, "--run-dir", run, *["--resume"] * run.exists(), timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = left(run)
    assert (ended["lines"], ended["files"]) == (whole["lines"], whole["files"]), kills
    return kills


def killed_and_restarted(
    starter: str,
    n: int,
    run: Path,
    whole: dict,
    n_kills: int,
    draws: random.Random,
    nodes: Nodes | None = None,
) -> list[Killed]:
    """Kill a rank in each of a launch's first n_kills attempts; fails where the run is not the whole one."""
    epochs, stages = KILLED_EPOCHS[:n_kills], draws.sample(STAGES, n_kills)
    ranks = [draws.randrange(n) for _ in stages]
    seconds = [whole["seconds"][epoch][stage] for epoch, stage in zip(epochs, stages, strict=True)]
    after_s = [draws.random() * of_stage for of_stage in seconds]
    strikes = [",".join(map(str, part)) for part in (ranks, epochs, stages, after_s)]
    told = run.with_suffix(".told")
    done = launched(starter, n, run, ["SIGKILL", *strikes, told], *JOB, "--restarts", 1, nodes=nodes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("== restart 1 of 1, ") == len(stages), done.stdout
    ended = left(run)
    assert (ended["lines"], ended["files"]) == (whole["lines"], whole["files"]), strikes
    moments = [float(moment) for moment in told.read_text().splitlines()]
    again_s = [again - killed for killed, again in zip(moments[::2], moments[1::2], strict=True)]
    return [Killed(n, *kill) for kill in zip(ranks, epochs, stages, after_s, again_s, strict=True)]


def launched(
    starter: str, n: int, run: Path, strike: list, *words: object, nodes: Nodes | None = None
) -> subprocess.CompletedProcess[str]:
    """Launch a job on n ranks here, or on n nodes, which are struck; words: of ``kakurenbo launch``."""
    machine, facts = run.with_suffix(".yaml"), {"name": starter, "starter": starter}
    line = ["-c", LAUNCH.format(struck=str(STRUCK_TRAIN)), *strike, *words]
    line += ["--run-dir", run, "--ranks", n, "--machine", machine]
    if nodes:
        facts |= {"scheduler": "slurm", "ranks_per_node": 1, "mpi": "pmi2"}
        line = ["salloc", f"--nodes={n}", nodes.python / "bin" / "python", *line, "--nodes", n]
    else:
        line = [sys.executable, *line]
    machine.write_text(yaml.safe_dump(facts))
    env = environment() | ({"SLURM_CONF": str(nodes.slurm.conf)} if nodes else {})
    return subprocess.run(list(map(str, line)), env=env, capture_output=True, text=True, timeout=900)


def _kill(n: int, run: Path, victim: int, epoch: int, stage: str, after_s: float) -> Killed:
    told, words = run.with_suffix(".told"), ["--run-dir", run, *["--resume"] * run.exists()]
    line = [*command("mpirun", n), STRUCK_TRAIN, "SIGKILL", victim, epoch, stage, after_s, told, *JOB, *words]
    done = subprocess.run(list(map(str, line)), env=environment(), capture_output=True, timeout=400)
    killed = Killed(n, victim, epoch, stage, after_s, time.monotonic() - float(told.read_text().split()[-1]))
    assert done.returncode not in (0, 2, 75), (killed, done.stderr)
    assert killed.ended_s < MOST_S, (killed, done.stderr)
    last = FailureReport()  # as ``kakurenbo launch`` reads and repeats them
    for text in done.stderr.splitlines():
        last.add(text)
    assert f"rank {victim} on {os.uname().nodename}: killed by SIGKILL" in last.last_line(done.returncode), (
        killed,
        done.stderr,
    )
    return killed


def left(run: Path) -> dict:
    """Return what stands in a run directory: lines of metrics and their seconds, and what every file of whole
    checkpoints holds.
    """
    path = run / "metrics.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    seconds = [line.pop("seconds") for line in lines]
    lines = [{k: v for k, v in line.items() if not k.startswith("energy")} for line in lines]
    whole = [path.parent for path in run.glob("checkpoints/epoch_*/manifest.json")]
    files = {
        str(path.relative_to(run)): _held(path)
        for folder in whole
        for path in folder.iterdir()
        if path.suffix != ".json"
    }
    return {"lines": lines, "seconds": seconds, "files": files}


def _held(path: Path) -> object:
    # The same state comes in other bytes after a resume: pickles name equal strings once or twice.
    return _plain(torch.load(path, weights_only=True)) if path.suffix == ".pt" else path.read_bytes()


def _plain(value: object) -> object:
    """Return something that can be compared bit by bit."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
