"""The DeepCAM job on made data, on real ranks: from files that all share, and from stores of their own."""

import shutil

import h5py
import numpy as np
import pytest
import yaml
from support.oracle import kakurenbo
from support.runs import ledger, lines, meet, train_here
from support.start_ranks import train as train_by_command

from kakurenbo_hpc.data.tools.synthetic_deepcam import SyntheticSpec, make
from kakurenbo_hpc.errors import DONE, USER_ERROR, UserError

in_ranks = pytest.mark.ranks(2)
EPOCHS, N = 3, 24
SETS = [
    f"training.epochs={EPOCHS}",
    "training.global_batch=6",
    "training.warmup_steps=0",
    "training.correct_iou=0.3",  # so that there is something to hide after one epoch
    "selection.confidence=0.0",
    "record.ledger=true",
]


def train(comm, folder, name, placement):
    sets = [*SETS, f"data.path={folder / 'data'}", f"data.placement={placement}"]
    return train_here("deepcam_small", sets, folder / name, comm, scratch=str(folder / "scratch"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, module_comm):
    folder = tmp_path_factory.mktemp("deepcam")
    if module_comm.rank == 0:
        make(folder / "data", SyntheticSpec(N, 8, 32, 48, seed=1), processes=1)
    meet(module_comm)
    for placement in ("shared", "local"):
        assert train(module_comm, folder, placement, placement) == DONE
    module_comm.barrier()
    return folder


@in_ranks
@pytest.mark.parametrize("placement", ["shared", "local"])
def test_samples_are_hidden_and_both_ious_told(folder, placement):
    told = lines(folder / placement)
    assert len(told) == EPOCHS and sum(line["n_hidden"] for line in told) > 0
    assert all(0 < line[name] <= 1 for line in told for name in ("val_iou", "val_iou_corpus"))
    assert all(line["n_backward"] == N - line["n_hidden"] for line in told)


@in_ranks
@pytest.mark.parametrize("placement", ["shared", "local"])
def test_both_placements_plan_as_one_serial_sort_does(folder, placement):
    options = yaml.safe_load((folder / placement / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(folder / placement, epoch)
        known = [rows[column] for column in ("loss", "correct", "confidence")]
        assert (
            rows["train"] == kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0).train
        ).all()
        assert epoch == 0 or (np.isfinite(rows["loss"]) & (rows["seen_epoch"] == epoch - 1)).all(), (
            "all are trained or refreshed"
        )


@in_ranks
def test_each_file_lies_in_one_store_as_it_is_on_the_shared_file_system(folder):
    place = ledger(folder / "local", EPOCHS - 1)["place"]
    names = sorted(path.name for path in (folder / "data" / "train").iterdir())
    for rank in (0, 1):
        [store] = (folder / "scratch" / "kakurenbo").glob(f"deepcam-*/rank_{rank:04d}")
        assert sorted(path.name for path in (store / "train").iterdir()) == [
            names[id] for id in np.flatnonzero(place == rank)
        ]
        for path in store.rglob("*.h5"):
            assert path.read_bytes() == (folder / "data" / path.parent.name / path.name).read_bytes()


@in_ranks
@pytest.mark.parametrize(
    ("what", "said"),
    [("no stats", "kakurenbo data stats"), ("no data", r"must name a folder with train/\*.h5 in it")],
)
def test_what_is_missing_is_said_by_all_together(folder, comm, tmp_path, what, said):
    if comm.rank == 0 and what == "no stats":
        shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("manifest"))
        (tmp_path / "data" / "stats.h5").unlink()
    comm.barrier()
    with pytest.raises(UserError, match=said) as refused:
        train(comm, tmp_path, "run", "shared")
    assert refused.value.on_all_ranks and not (tmp_path / "run").exists()


def test_a_wrong_mask_is_said_with_its_rank(tmp_path):
    """It is found while it is trained, by one rank."""
    data = tmp_path / "data"
    make(data, SyntheticSpec(N, 8, 32, 48, seed=1), processes=1)
    path = sorted((data / "train").iterdir())[5]
    with h5py.File(path, "r+") as file:
        file["climate/labels_0"][...] = 7
    words = [word for setting in [*SETS, f"data.path={data}"] for word in ("--set", setting)]
    done = train_by_command(2, "deepcam_small", *words, "--run-dir", tmp_path / "run")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("kakurenbo: ")]
    assert done.returncode == USER_ERROR and "rank " in line
    told = f"{path}: climate/labels_0 holds 7.0, but classes are whole numbers from 0 to 2; mend the file"
    assert line.endswith(told), line
