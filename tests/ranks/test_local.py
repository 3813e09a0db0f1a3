"""Placement local on real ranks: what is trained, where samples lie, what a killed rank leaves, and how the
run goes on.
"""

import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from ranks.programs.digit_files import leave_in_third_epoch, note_trained, use_digit_files, write_digits
from support.oracle import kakurenbo
from support.runs import ledger, lines, meet, same_parameters, train_here
from support.start_ranks import PROGRAMS, start

from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE, REQUEUE, UserError
from kakurenbo_hpc.local_data.shards import stage
from kakurenbo_hpc.selection import METHODS

in_ranks = pytest.mark.ranks(3)
EPOCHS, N, N_VALIDATION = 4, 150, 50
JOB = {
    "name": "digit_files",
    "seed": 1,
    "data": {"name": "digit_files", "placement": "local", "exchange": 0.1},
    "model": {"name": "small_cnn"},
    "training": {"epochs": EPOCHS, "global_batch": 30, "lr": 0.05, "warmup_epochs": 1},
    "selection": {"method": "kakurenbo", "max_fraction": 0.3},
    "record": {"ledger": True},
}


@pytest.fixture(scope="module", autouse=True)
def data_set():
    with pytest.MonkeyPatch.context() as patch:
        use_digit_files(patch)
        yield


def write_job(path, data):
    path.write_text(yaml.safe_dump({**JOB, "data": {**JOB["data"], "path": str(data)}}))
    return path


def train(comm, folder, name, *sets, job=None, **more):
    """Train the folder's job, or another one's, with run directory and scratch folder in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        note_trained(patch, folder / name)
        scratch = str(folder / f"scratch_{name}")
        return train_here(str(job or folder / "job.yaml"), sets, folder / name, comm, scratch=scratch, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, module_comm, module_comm_of):
    """Runs of the same job: local on 2 and 3 ranks, and shared on 3."""
    folder = tmp_path_factory.mktemp("local")
    if module_comm.rank == 0:
        write_digits(folder / "data", N, N_VALIDATION)
        write_job(folder / "job.yaml", folder / "data")
    module_comm.barrier()
    assert train(module_comm_of(2), folder, "local2") in (DONE, None)
    meet(module_comm)
    assert train(module_comm, folder, "local3") == DONE
    assert train(module_comm, folder, "shared3", "data.placement=shared") == DONE
    module_comm.barrier()
    return folder


def results(run):
    """Return what an epoch's line says of the training, without how long it took."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "exchange")} for line in lines(run)]


def trained(run):
    """Return, for each rank, the (epoch, id) that it trained, in order."""
    files = sorted(run.glob("trained_*"))
    return [[tuple(map(int, line.split())) for line in file.read_text().splitlines()] for file in files]


def stored(scratch):
    """Return, for each rank, the ids of the training samples in its store."""
    stores = sorted((scratch / "kakurenbo").glob("digit_files-*/rank_*"))
    return [sorted(int(path.stem) for path in (store / "train").glob("*.npy")) for store in stores]


@in_ranks
@pytest.mark.parametrize("name", ["local2", "local3", "shared3"])
def test_from_the_same_ledger_all_plan_the_same(folder, name):
    options = yaml.safe_load((folder / name / "job.yaml").read_text())["selection"]
    for epoch in range(EPOCHS):
        rows = ledger(folder / name, epoch)
        known = [rows[column] for column in ("loss", "correct", "confidence")]
        want = kakurenbo(options, epoch, EPOCHS, *known, rows["seen_epoch"] >= 0)
        assert (rows["train"] == want.train).all()
    assert np.count_nonzero(rows["train"] == 0) > 10, "there was something to hide"


@in_ranks
@pytest.mark.parametrize("name", ["local2", "local3", "shared3"])
def test_every_visible_sample_is_trained_once_in_as_many_steps(folder, name):
    times = Counter(entry for rank in trained(folder / name) for entry in rank)
    for epoch, line in enumerate(lines(folder / name)):
        (visible,) = np.nonzero(ledger(folder / name, epoch)["train"])
        assert {id: n for (when, id), n in times.items() if when == epoch} == dict.fromkeys(
            visible.tolist(), 1
        )
        assert line["steps"] == -(-len(visible) // 30) and line["n_backward"] == len(visible)


@in_ranks
@pytest.mark.parametrize("name", ["local2", "local3"])
def test_every_rank_trains_what_the_ledger_places_there_and_as_much_as_the_others(folder, name):
    ranks = trained(folder / name)
    for epoch in range(EPOCHS):
        rows = ledger(folder / name, epoch)
        here = [sorted(id for when, id in entries if when == epoch) for entries in ranks]
        assert here == [
            np.flatnonzero((rows["place"] == rank) & (rows["train"] > 0)).tolist()
            for rank in range(len(ranks))
        ]
        assert max(map(len, here)) - min(map(len, here)) <= 1


@in_ranks
@pytest.mark.parametrize("name", ["local2", "local3"])
def test_every_sample_lies_in_one_place_and_that_is_the_ledgers(folder, name):
    place = ledger(folder / name, EPOCHS - 1)["place"]
    stores = stored(folder / f"scratch_{name}")
    assert stores == [np.flatnonzero(place == rank).tolist() for rank in range(len(stores))]
    for path in (folder / f"scratch_{name}").rglob("*.npy"):
        assert path.read_bytes() == (folder / "data" / path.parent.name / path.name).read_bytes()
    assert not list((folder / f"scratch_{name}").rglob("*.part"))


@in_ranks
def test_what_moved_is_told(folder):
    for line, before, after in zip(lines(folder / "local3"), [None, *range(EPOCHS - 1)], range(EPOCHS)):
        place = np.arange(N) % 3 if before is None else ledger(folder / "local3", before)["place"]
        n_moved = np.count_nonzero(place != ledger(folder / "local3", after)["place"])
        size = (folder / "data" / "train" / "00000.npy").stat().st_size
        assert line["exchange"]["n_moved"] == n_moved >= 3 * (line["n_backward"] // 3 // 10)
        assert line["exchange"]["bytes_moved"] == n_moved * size and line["exchange"]["waited"] > 0
    assert "exchange" not in lines(folder / "shared3")[0]


def check_gone_on(run, uninterrupted):
    """Fail where a run that was interrupted is not the one that was not."""
    assert results(run) == results(uninterrupted)
    assert same_parameters(run, uninterrupted, EPOCHS - 1)


@pytest.mark.ranks(3, limit_s=300)
@pytest.mark.parametrize("harm", ["killed", pytest.param("killed_later", marks=pytest.mark.nightly)])
def test_a_run_whose_rank_was_killed_between_exchange_and_checkpoint_goes_on_as_if_it_had_not(
    folder, comm, tmp_path, harm, capsys
):
    run, scratch = tmp_path / "run", tmp_path / "scratch_run"
    if comm.rank == 0:
        words = [harm, run, folder / "job.yaml", "--scratch", scratch]
        died = start(3, PROGRAMS / "digit_files.py", *words)
        assert died.returncode not in (0, 2)
        kept = sorted(path.name for path in (run / "checkpoints").glob("epoch*"))
        assert kept == ["epoch_0000", "epoch_0001"]
        for path in run.glob("trained_*"):
            path.unlink()
        next(scratch.rglob("rank_0002/train/*.npy")).unlink()  # a node's disk forgets
    meet(comm)
    assert train(comm, tmp_path, "run", job=folder / "job.yaml", resume=True) == DONE
    assert "resuming after epoch_0001" in comm.broadcast(capsys.readouterr().out)
    check_gone_on(run, folder / "local3")
    assert stored(scratch) == stored(folder / "scratch_local3")
    later = [[entry for entry in rank if entry[0] >= 2] for rank in trained(folder / "local3")]
    assert trained(run) == later


@in_ranks
def test_a_run_that_was_left_in_the_middle_of_an_epoch_is_taken_up_as_if_it_had_not(
    folder, comm, comm_of, tmp_path, capsys
):
    run, job = tmp_path / "run", folder / "job.yaml"
    with pytest.MonkeyPatch.context() as patch:
        leave_in_third_epoch(patch)
        assert train(comm, tmp_path, "run", job=job) == REQUEUE
    assert "leaving in epoch 3" in comm.broadcast(capsys.readouterr().out)
    if comm.rank == 0:
        shutil.copytree(run, tmp_path / "anew", ignore=shutil.ignore_patterns("trained_*"))
        shutil.copytree(run, tmp_path / "lost")
        for whole in (tmp_path / "lost" / "checkpoints").glob("epoch_000?"):
            shutil.rmtree(whole)
    comm.barrier()
    if two := comm_of(2):
        with pytest.raises(UserError) as refused:
            train(two, tmp_path, "lost", job=job, resume=True)
        lies = "taken inside an epoch whose samples are on the disks of 3 ranks, but this run has 2, and no "
        lies += "checkpoint of a whole epoch is left; resume on 3 ranks"
        assert "checkpoints/epoch_0002_inside_" in str(refused.value) and lies in str(refused.value)
        del refused  # its traceback holds the locks of the stores
        capsys.readouterr()
        assert train(two, tmp_path, "anew", job=job, resume=True) == DONE
        said = two.broadcast(capsys.readouterr().out)
        assert "samples were on the disks of 3 ranks, which begins anew on 2; passed over" in said
        assert "resuming after epoch_0001" in said
        two.barrier()
        again = sorted(id for rank in trained(tmp_path / "anew") for epoch, id in rank if epoch == 2)
        assert again == np.flatnonzero(ledger(tmp_path / "anew", 2)["train"]).tolist()
    meet(comm)
    assert train(comm, tmp_path, "run", job=job, resume=True) == DONE
    comm.barrier()
    check_gone_on(run, folder / "local3")
    assert trained(run) == trained(folder / "local3"), "no step was done twice"


@in_ranks
def test_on_another_number_of_ranks_places_are_dealt_anew(folder, comm, comm_of, tmp_path):
    run = tmp_path / "local3"
    if comm.rank == 0:
        shutil.copytree(folder / "local3", run)
        shutil.rmtree(run / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    comm.barrier()
    job = folder / "job.yaml"
    assert train(comm_of(2), tmp_path, "local3", job=job, resume=True) in (DONE, None)
    meet(comm)
    place = ledger(run, EPOCHS - 1)["place"]
    assert stored(tmp_path / "scratch_local3") == [np.flatnonzero(place == rank).tolist() for rank in (0, 1)]
    assert lines(run)[-1]["n_hidden"] == lines(folder / "local3")[-1]["n_hidden"]


@pytest.mark.ranks(3, limit_s=300)
def test_what_was_staged_before_is_not_copied_again(folder, comm, comm_of, tmp_path):
    scratch = tmp_path / "scratch_run"
    if comm.rank == 0:
        words = ["staged", tmp_path / "run", folder / "job.yaml", "--scratch", scratch]
        done = start(2, PROGRAMS / "digit_files.py", *words)
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*.npy"))
        [folder_of_ranks] = (scratch / "kakurenbo").iterdir()
        assert f"{folder_of_ranks}: {size / 1000:.4g} kB copied for 2 ranks" in done.stdout, done.stderr
        assert stored(scratch) == [list(range(rank, N, 2)) for rank in range(2)]
    meet(comm)
    if two := comm_of(2):
        job = read_job(folder / "job.yaml", [], DATASETS, METHODS)
        [folder_of_ranks] = (scratch / "kakurenbo").iterdir()
        for exchange in (False, True):
            staged, traffic = stage(job, str(scratch), two, False, exchange)
            assert (staged, traffic.copied) == (folder_of_ranks, 0)


@in_ranks
def test_a_store_of_another_data_set_is_left_alone(folder, comm, comm_of, tmp_path):
    scratch, theirs = tmp_path / "scratch_run", stored(folder / "scratch_local2")
    if comm.rank == 0:
        write_digits(tmp_path / "other", 50, 20)
        write_job(tmp_path / "job.yaml", tmp_path / "other")
        shutil.copytree(folder / "scratch_local2", scratch)
    comm.barrier()
    if two := comm_of(2):
        stage(read_job(tmp_path / "job.yaml", [], DATASETS, METHODS), str(scratch), two, False)
        two.barrier()
        assert sorted(map(len, stored(scratch))) == sorted([25, 25, *map(len, theirs)])


@in_ranks
def test_a_folder_of_nobody_is_left_alone(folder, comm_of, tmp_path):
    if one := comm_of(1):
        [theirs] = (folder / "scratch_local2" / "kakurenbo").iterdir()
        theirs = tmp_path / "scratch_run" / "kakurenbo" / theirs.name / "rank_0000" / "thesis.txt"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("seven years")
        with pytest.raises(UserError, match="not empty, and not staged by kakurenbo"):
            train(one, tmp_path, "run", job=folder / "job.yaml")
        assert theirs.read_text() == "seven years"


# Bad input.


@pytest.mark.unit
def test_a_data_set_without_files_is_refused(tmp_path):
    told = "samples of digits are not files of their own, which data.placement: local needs; set it to shared"
    with pytest.raises(UserError, match=told):
        sets = ["data.placement=local"]
        train_here("digits_everything", sets, tmp_path / "run", SerialComm(), scratch=str(tmp_path))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        (None, "no scratch folder is named; give --scratch DIR"),
        ("$NOBODY_SET_THIS/x", "scratch is $NOBODY_SET_THIS/x, but"),
        ("/proc/version", "cannot be written to (Not a directory)"),
    ],
)
def test_a_scratch_folder_that_is_none_is_refused(tmp_path, scratch, said):
    write_digits(tmp_path / "data", 60, 20)
    job = write_job(tmp_path / "job.yaml", tmp_path / "data")
    with pytest.raises(UserError) as refused:
        train_here(str(job), [], tmp_path / "run", SerialComm(), scratch=scratch)
    assert said in str(refused.value)
