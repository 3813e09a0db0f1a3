"""The commands of "ImageNet on your cluster" in jobs/README.md, as they stand there, on a real Slurm.

Only paths, nodes and walltime are those of this machine, and the run is of two short epochs.
"""

import os
import subprocess
from pathlib import Path

import pytest
from support.batch_runs import log, metrics
from support.paper_jobs import make_picture
from support.start_ranks import BIN, environment

README = Path(__file__).parents[2] / "jobs" / "README.md"
CLASSES = ("n01440764", "n01443537", "n02099601")
N_TRAIN, N_VALIDATION = 24, 6
SMALL = {"data.workers": 0, "training.epochs": 2, "training.batch_per_rank": 4, "training.warmup_epochs": 0}


@pytest.fixture
def imagenet(tmp_path):
    """A folder like ImageNet's, with a CMYK JPEG and a PNG named .JPEG among the images, as there."""
    root = tmp_path / "imagenet"
    for split, n in (("train", N_TRAIN), ("val", N_VALIDATION)):
        for i in range(n):
            path = root / split / CLASSES[i % 3] / f"ILSVRC2012_{split}_{i:08d}.JPEG"
            kind, mode = {1: ("JPEG", "CMYK"), 2: ("PNG", "RGB")}.get(i, ("JPEG", "RGB"))
            make_picture(i, (120, 90), mode, path, kind)
    return root


def commands(here: dict[str, str]) -> list[str]:
    """Return the commands of the walk, with what differs here in place of what stands there."""
    section = README.read_text(encoding="utf-8").split("## ImageNet on your cluster\n")[1]
    block = section.split("```\n")[1]
    for there, replacement in here.items():
        assert there in block, f"{there} stands nowhere in {README}"
        block = block.replace(there, replacement)
    return [line for line in block.splitlines() if line]


def test_the_walk_from_the_readme_trains_imagenet(imagenet, slurm, slurm_machine, tmp_path):
    sets = " ".join(f"--set {key}={value}" for key, value in SMALL.items())
    here = {
        "/data/imagenet": str(imagenet),
        "/work/imagenet": str(tmp_path / "packed"),
        "--walltime 1d --nodes 8": f"--walltime 10m --nodes 2 {sets}",
    }
    env = environment() | {"SLURM_CONF": str(slurm.conf), "PATH": f"{BIN}:{os.environ['PATH']}"}
    said = {}
    for line in commands(here):
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said[line.split()[1]] = done.stdout
        if line.startswith("kakurenbo new machine"):
            (tmp_path / "mine.yaml").write_bytes(slurm_machine().read_bytes())  # filled in
    run = tmp_path / "runs" / "kakurenbo_resnet50"
    assert (
        f"all {N_TRAIN + N_VALIDATION} samples can be read" in said["data"]
        or "images in 3 classes" in said["data"]
    )
    assert "OK    data" in said["doctor"] and "2 ranks, global batch 8" in said["doctor"]
    assert "job " in said["submit"] and "2 ranks on cpu" in said["logs"]
    assert [line["n_samples"] for line in metrics(run)] == [N_TRAIN] * 2, log(run)
    assert all(line["val_accuracy"] is not None for line in metrics(run))
    assert (tmp_path / "report.html").exists()
