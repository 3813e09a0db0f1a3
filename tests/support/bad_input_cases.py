"""A desk full of mistakes: job files, machine files, runs, scores and data sets, with one thing wrong in
each.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import yaml
from PIL import Image

from kakurenbo_hpc.config.package_files import jobs_dir

GOOD = "digits_kakurenbo"
LONG = "n" * 3000  # longer than a name can be
JOB = (jobs_dir() / f"{GOOD}.yaml").read_text(encoding="utf-8")

COMPARISON = {
    "name": "c",
    "job": "digits_everything",
    "contenders": {"a": {"selection": {"method": "random"}}},
    "seeds": [1],
}
SUBMISSION = {"system": "slurm", "name": "a", "machine": "m", "nodes": 1, "ranks": 4, "walltime_s": 60}
ABOUT = {"method": "el2n", "how": "h", "data": "digits", "fingerprint": "another", "n": 1437}
ABOUT |= {"seconds": 1.0, "n_forward": 1, "n_backward": 1}


class Harm:
    """What makes the file ``ran`` once it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


PICKLE = pickle.dumps(Harm())

FILES = {
    "file": "a file",
    "junk": bytes(range(256)) * 8,
    "pickle": PICKLE,
    "object.yaml": "name: !!python/object/apply:os.mkdir [ran]\n",
    # job files
    "broken.yaml": "a: [1",
    "list.yaml": "- a",
    "word.yaml": "hello",
    "empty.yaml": "",
    "comment.yaml": "# nothing yet",
    "two.yaml": f"{JOB}---\n{JOB}",
    "tab.yaml": "name: x\ntraining:\n\tepochs: 1\n",
    "utf16.yaml": JOB.encode("utf-16"),
    "null.yaml": "name: a\0b",
    "twice.yaml": JOB + "seed: 1\nseed: 2\n",
    "deep.yaml": "a: " + "{a: " * 20_000,
    "laughs.yaml": "x0: &x0 [x]\n"
    + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    "merges.yaml": "x0: &x0 {a: 1}\n"
    + "".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}\n" for i in range(1, 10)),
    "keys.yaml": "".join(f"key {i}: 1\n" for i in range(20_000)),
    "windows.yaml": "\ufeff" + JOB.replace("\n", "\r\n") + "speed: high\r\n",
    # machine files
    "slurm.yaml": "name: s\nscheduler: slurm\nstarter: srun\nranks_per_node: 4\n",
    "pbs.yaml": "name: p\nscheduler: pbs\nstarter: mpirun\nranks_per_node: 4\n",
    "many.yaml": "name: x\nstarter: mpirun\nranks_per_node: many\n",
    "huge.yaml": "name: x\nstarter: mpirun\nranks_per_node: 1000000000000000000000\n",
    "shell.yaml": "name: x\nstarter: mpirun\nmodules: ['openmpi; touch ran']\n",
    "lsf.yaml": "name: x\nstarter: mpirun\nscheduler: lsf\n",
    # what submit is said to have written
    "nothing_submitted/metrics.jsonl": "{}\n",
    "never_accepted/batch/submission.json": json.dumps(SUBMISSION),
    "of_lsf/batch/submission.json": json.dumps({**SUBMISSION, "system": "lsf"}),
    "of_a_list/batch/submission.json": json.dumps({**SUBMISSION, "system": ["slurm"]}),
    "list/batch/submission.json": "[1]",
    "junk_run/batch/submission.json": bytes(range(256)),
    "deep_run/batch/submission.json": "[" * 100_000,
    "option/batch/submission.json": json.dumps(SUBMISSION),
    "option/batch/jobs.txt": "12\n--user=me\n",
    # data
    "images/train/cat/a.png": "no image",
    "images/validation/cat/a.png": "no image",
    "no_images/train/cat/readme.txt": "",
    "junk_data/train/data-1.h5": "no HDF5",
    "junk_data/validation/data-1.h5": "no HDF5",
    "pickled/train/data-1.h5": "no HDF5",
    "pickled/validation/data-1.h5": "no HDF5",
    "pickled/manifest/train.npz": PICKLE,
    "no_hdf5/train/readme.txt": "",
    "no_hdf5/validation/readme.txt": "",
}

COMPARISONS = {
    "up.yaml": {"name": "../elsewhere/x"},
    "of_junk.yaml": {"job": "junk"},
    "of_itself.yaml": {"job": "of_itself.yaml"},
    "no_contenders.yaml": {"contenders": {}},
    "bad_contender.yaml": {"contenders": {"a": {"selection": {"method": "randm"}}}},
    "bad_scores.yaml": {"contenders": {"a": {"scores": {"method": "craig", "options": {"fractoin": 0.7}}}}},
    "bad_seeds.yaml": {"seeds": [-1]},
    "huge_seeds.yaml": {"seeds": [2**40]},
    "bad_set.yaml": {"set": {"training": {"epochs": "x"}}},
    "good.yaml": {},
}

SCORES = {  # columns, and what differs from what the file should say of itself
    "few.h5": ({"id": np.arange(10), "score": np.zeros(10)}, {}),
    "another.h5": ({"id": np.arange(1437), "score": np.zeros(1437)}, {}),
    "words.h5": ({"id": np.arange(3), "score": ["a", "b", "c"]}, {}),
    "square.h5": ({"id": np.arange(3), "score": np.zeros((3, 3))}, {}),
    "no_score.h5": ({"id": np.arange(3)}, {}),
    "lists.h5": ({"id": np.arange(3), "score": np.zeros(3)}, {"seconds": np.zeros(3)}),
}


def lay(desk: Path) -> None:
    """Put everything on the desk."""
    for name, content in FILES.items():
        path = desk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, differs in COMPARISONS.items():
        (desk / name).write_text(yaml.safe_dump({**COMPARISON, **differs}))
    for name, (columns, differs) in SCORES.items():
        with h5py.File(desk / name, "w") as file:
            for column, values in columns.items():
                file[column] = values
            file.attrs.update(ABOUT | differs)
    with h5py.File(desk / "endless.h5", "w") as file:
        for column in ("id", "score"):
            file.create_dataset(column, (2**50,), "f8", chunks=(1024,))
        file.attrs.update(ABOUT)
    for name in ("no_data", "endless", "words"):
        (desk / name / "train").mkdir(parents=True)
        with h5py.File(desk / name / "train" / "data-1.h5", "w") as file:
            if name == "no_data":
                file["other"] = 1
            elif name == "endless":
                file.create_dataset("climate/data", (2**20, 2**20, 2**10), "f4", chunks=(64, 64, 1))
            else:
                file["climate/data"] = np.full((4, 4, 2), "a", "S1")
    (desk / "images_no_validation/train/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(desk / "images_no_validation/train/cat/a.png")
    for folder in ("folder/inside", "elsewhere", "linked", "empty", "linked_batch", "images_empty/train"):
        (desk / folder).mkdir(parents=True)
    (desk / "linked/checkpoints").symlink_to(desk / "elsewhere")
    (desk / "linked_batch/batch").symlink_to(desk / "elsewhere")
    (desk / "gone.yaml").symlink_to("nowhere")
    (desk / "loop.yaml").symlink_to("loop.yaml")


def listing(folder: Path) -> dict[str, tuple]:
    """Return everything below a folder: kind, size, time of last change, where a link leads."""
    found = {}
    for path in folder.rglob("*"):
        fact = path.lstat()
        found[str(path.relative_to(folder))] = (
            fact.st_mode,
            fact.st_size,
            fact.st_mtime_ns,
            path.is_symlink() and path.readlink(),
        )
    return found
