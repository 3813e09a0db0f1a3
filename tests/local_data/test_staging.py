"""A shard on a node's disk: whole files or none, nothing of others touched, and what is needed is told before
it is copied.
"""

import os
from itertools import pairwise
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from ranks.programs.digit_files import DigitFiles, write_digits
from support.data_files import write_rows
from support.data_messages import told
from support.data_read import read

from kakurenbo_hpc.core.ledger import Homes, Ledger
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.data import retry as patience
from kakurenbo_hpc.data.dataset import SampleFiles
from kakurenbo_hpc.data.tools.pack import pack
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.distributed.world import World
from kakurenbo_hpc.errors import DataError, JobError
from kakurenbo_hpc.local_data import shards, staging
from kakurenbo_hpc.local_data.node_cache import NodeCache
from kakurenbo_hpc.local_data.shared_reading import Traffic
from kakurenbo_hpc.local_data.staging import Part, fetch_missing
from kakurenbo_hpc.rundir.path_checks import in_words


@pytest.fixture
def files(tmp_path):
    """Six files of 10, 20, ... 60 bytes on the shared file system."""
    names = [f"train/{number}.h5" for number in range(6)]
    for number, name in enumerate(names):
        path = tmp_path / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 10 * (number + 1))
    changed = [(tmp_path / "shared" / name).stat().st_mtime_ns for name in names]
    return SampleFiles(tmp_path / "shared", names, np.arange(10, 70, 10), np.array(changed))


def no_bar(items, n, label):
    return items


def world_of(comm):
    return World(comm, "node1", comm.rank, comm.size, torch.device("cpu"))


def staged(tmp_path, files, n_ranks=2, **options):
    """Stage every n_ranks-th file on each rank, all on one node; return the bytes copied."""

    def work(comm):
        store = NodeCache(tmp_path / f"rank_{comm.rank}", "cyclones")
        parts = [Part(files, range(comm.rank, 6, comm.size))]
        return fetch_missing(parts, store, world_of(comm), no_bar, **options).copied

    return run_in_threads(n_ranks, work)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_rank_gets_its_files_and_a_second_time_nothing(tmp_path, files):
    assert staged(tmp_path, files) == [210, 210]
    for rank in range(2):
        here = content(tmp_path / f"rank_{rank}")
        assert here.pop("kakurenbo.json")
        assert here == {name: (files.root / name).read_bytes() for name in files.names[rank::2]}
    assert staged(tmp_path, files) == [0, 0]


def test_what_was_half_written_or_changed_its_size_is_copied_again(tmp_path, files):
    staged(tmp_path, files)
    os.truncate(tmp_path / "rank_0" / "train/2.h5", 29)
    (tmp_path / "rank_1" / "train/3.h5").rename(tmp_path / "rank_1" / "train/3.h5.part")
    assert staged(tmp_path, files) == [70, 70]
    assert (tmp_path / "rank_1" / "train/3.h5").read_bytes() == bytes([3]) * 40


def test_what_was_changed_since_is_copied_again(tmp_path, files):
    staged(tmp_path, files)
    (files.root / "train/4.h5").write_bytes(bytes(50))
    os.utime(files.root / "train/4.h5", (0, 1000))
    files.changed[4] = 1000 * 10**9
    assert staged(tmp_path, files) == [50, 50]
    assert (tmp_path / "rank_0" / "train/4.h5").read_bytes() == bytes(50)
    assert staged(tmp_path, files) == [0, 0]


def test_a_changed_byte_is_found_where_files_are_compared(tmp_path, files):
    staged(tmp_path, files)
    copy = tmp_path / "rank_0" / "train/4.h5"
    copy.write_bytes(bytes(50))
    os.utime(copy, ns=(0, files.changed[4]))
    assert staged(tmp_path, files) == [0, 0]
    assert staged(tmp_path, files, compare=True) == [50, 50]
    assert (tmp_path / "rank_0" / "train/4.h5").read_bytes() == bytes([4]) * 50


@pytest.mark.parametrize(
    ("free", "spare", "said"),
    [
        (209, 0, "210 bytes must be copied there, but 209 bytes are free; give a larger scratch folder"),
        (
            2000,
            1_000_000,
            "210 bytes must be copied there, and 2 MB must be left for samples that move, but 2 kB are free",
        ),
    ],
)
def test_a_disk_that_is_too_small_for_the_ranks_of_a_node_is_told_before_anything_is_copied(
    tmp_path, files, monkeypatch, free, spare, said
):
    monkeypatch.setattr(staging, "free_bytes", lambda folder: (7, free))
    with pytest.raises(DataError, match=said) as raised:
        staged(tmp_path, files, spare=spare)
    assert raised.value.on_all_ranks and str(raised.value).startswith(f"{tmp_path} on node1: ")
    assert not list(tmp_path.glob("rank_*/train"))


def test_what_is_there_needs_no_room(tmp_path, files, monkeypatch):
    staged(tmp_path, files)
    monkeypatch.setattr(staging, "free_bytes", lambda folder: (7, 0))
    assert staged(tmp_path, files) == [0, 0]


def test_what_moves_later_needs_room_even_where_all_is_there(tmp_path, files, monkeypatch):
    staged(tmp_path, files)
    monkeypatch.setattr(staging, "free_bytes", lambda folder: (7, 1999))
    with pytest.raises(
        DataError,
        match="0 bytes must be copied there, and 2 kB must be left for samples that move, but 1.999 kB "
        "are free",
    ):
        staged(tmp_path, files, spare=1000)


@pytest.mark.parametrize(("n_ranks", "wanted"), [(2, [0.4, 4.4]), (1, [0])])
def test_room_is_left_for_what_may_lie_on_a_rank_whatever_lies_there_now(
    tmp_path, monkeypatch, n_ranks, wanted
):
    write_digits(tmp_path / "data", 6, 2)
    options = DigitFiles(name="digit_files", path=str(tmp_path / "data"), placement="local", exchange=0.5)
    monkeypatch.setattr(shards, "fetch_missing", lambda parts, store, world, bar, spare, *options: spare)

    def work(comm):
        world, data = world_of(comm), options.open()
        here = shards.Shards(options, data, str(tmp_path / "scratch"), world)
        homes = Homes(6, comm.size)
        ledger = here.assign_ranks(Ledger.unseen(6, *homes.rows(comm.rank)))
        crowded = np.where(ledger.id == 5, comm.size - 1, 0).astype(
            np.int32
        )  # all but one lie on the first rank
        return here.fill(ledger.with_columns({"place": crowded}), no_bar, 0.3)

    size = (tmp_path / "data" / "train" / "00000.npy").stat().st_size
    assert run_in_threads(n_ranks, work) == [int(n * size) for n in wanted]

    monkeypatch.setattr(shards.World, "detect", world_of)
    job = Namespace(data=options, seed=0, selection=Namespace(max_hidden_fraction=0.3))
    staged = run_in_threads(n_ranks, lambda comm: shards.stage(job, str(tmp_path / "staged"), comm, False)[1])
    assert sum(staged) == pytest.approx(sum(wanted) * size, abs=n_ranks), (
        "as much in all, from where samples lie first"
    )


def test_staging_takes_scratch_from_the_machine_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text("name: mine\nstarter: mpirun\nscratch: $LOCAL_DISK\n")
    monkeypatch.setattr(shards, "stage", lambda job, scratch, *options: (scratch, made[options[2]]))
    made = {False: Traffic(), True: Traffic(3000, 2000, 1e-6, 1000, 1e-6)}
    words = ["data", "stage", "digits_kakurenbo", "--machine", tmp_path / "mine.yaml"]
    assert told(words, monkeypatch, capsys) == "$LOCAL_DISK: 0 bytes copied for 1 rank\n"
    assert told([*words, "--scratch", "/disk"], monkeypatch, capsys).startswith("/disk: ")
    assert told([*words, "--exchange"], monkeypatch, capsys) == (
        "$LOCAL_DISK: 3 kB copied for 1 rank; 2 kB read from the shared file system at 2 GB/s, 1 kB sent "
        "between ranks at 1 GB/s\n"
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (os.unlink, "5.h5: cannot be copied to .* .No such file or directory."),
        (
            lambda path: os.truncate(path, 59),
            "5.h5: 59 bytes were copied, but 60 were expected; was the data set changed?",
        ),
    ],
)
def test_a_file_that_is_not_what_it_was_is_named_on_all_ranks(tmp_path, files, harm, said, monkeypatch):
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    harm(files.root / "train/5.h5")
    with pytest.raises(DataError, match=said) as raised:
        staged(tmp_path, files)
    assert raised.value.on_all_ranks
    assert not list(tmp_path.rglob("rank_1/train/5.h5*"))


def test_a_file_that_comes_back_is_copied(tmp_path, files, monkeypatch):
    away = (files.root / "train/5.h5").rename(tmp_path / "away")
    monkeypatch.setattr(
        patience.time, "sleep", lambda seconds: away.exists() and away.rename(files.root / "train/5.h5")
    )
    assert staged(tmp_path, files) == [210, 210]


def test_only_files_of_the_data_set_are_removed(tmp_path, files):
    staged(tmp_path, files, n_ranks=1)
    (tmp_path / "rank_0" / "train" / "thesis.part").write_text("seven years")
    (tmp_path / "rank_0" / "train" / "3.h5.part").write_text("half")
    NodeCache(tmp_path / "rank_0", "cyclones").keep(["train/1.h5"], files.names)
    assert set(content(tmp_path / "rank_0")) == {"kakurenbo.json", "train/1.h5", "train/thesis.part"}


def test_two_runs_do_not_share_a_store(tmp_path):
    one = NodeCache(tmp_path / "rank_0", "cyclones")
    with pytest.raises(DataError, match="in use by another run"):
        NodeCache(tmp_path / "rank_0", "cyclones")
    del one
    NodeCache(tmp_path / "rank_0", "cyclones")
    with pytest.raises(DataError, match="holds files of another data set"):
        NodeCache(tmp_path / "rank_0", "rivers")


def test_sizes_are_written_as_people_write_them():
    assert [in_words(n) for n in (0, 999, 56_600_000, 7_000_000_000, 6_910_000_000_000)] == [
        "0 bytes",
        "999 bytes",
        "56.6 MB",
        "7 GB",
        "6.91 TB",
    ]


def test_packed_images_are_staged_as_files_of_their_own(tmp_path):
    for split in ("train", "val"):
        for number in range(6):
            path = tmp_path / "images" / split / f"{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    pack(tmp_path / "images", tmp_path / "packed", encoded=True, part_bytes=500)
    options = DATASETS["image_folder"](
        name="image_folder",
        path=str(tmp_path / "packed"),
        placement="local",
        augmentation=[],
        evaluation=[],
    )

    def work(comm, compare=False):
        return stage_and_compare(options, tmp_path / "scratch", 6, comm, compare)

    sizes = sum(path.stat().st_size for path in (tmp_path / "images").rglob("*.png"))
    assert run_in_threads(2, work) == [(sizes, True)] * 2
    assert run_in_threads(2, work) == [(0, True)] * 2, "all are there"
    [harmed] = (tmp_path / "scratch").rglob("rank_0000/train/0/0.png")
    changed = harmed.stat().st_mtime_ns
    harmed.write_bytes(bytes(harmed.stat().st_size))
    os.utime(harmed, ns=(changed, changed))
    assert run_in_threads(2, lambda comm: work(comm, compare=True)) == [(harmed.stat().st_size, True)] * 2


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_rows_of_hdf5_files_are_staged_as_files_of_their_own(tmp_path, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 4)).astype(dtype)
    for split, cuts in (("train", (0, 4, 5, 7)), ("validation", (7, 9))):
        for part, (first, last) in enumerate(pairwise(cuts)):
            path = tmp_path / split / f"part_{part}.h5"
            write_rows(path, pixels[first:last], np.arange(first, last) % 2)
    options = DATASETS["hdf5"](name="hdf5", path=str(tmp_path), placement="local")

    def work(comm):
        return stage_and_compare(options, tmp_path / "scratch", 7, comm)

    assert run_in_threads(2, work) == [(pixels.nbytes, True)] * 2
    assert run_in_threads(2, work) == [(0, True)] * 2, "all are there"


@pytest.mark.parametrize(("labels", "how"), [((3, 4, 4), {}), ((3,), {"chunks": (1, 3, 4, 4)})])
def test_masks_that_share_a_file_and_rows_that_only_hdf5_can_read_are_not_staged(tmp_path, labels, how):
    for split in ("train", "validation"):
        inputs = np.zeros((3, 3, 4, 4), np.uint8)
        write_rows(tmp_path / split / "part_0.h5", inputs, np.zeros(labels, np.int64), **how)
    data = DATASETS["hdf5"](name="hdf5", path=str(tmp_path), n_classes=2).open()
    with pytest.raises(JobError, match="samples of hdf5 are not files of their own"):
        staging.open_store("hdf5", data, str(tmp_path), world_of(SerialComm()))


def stage_and_compare(options, scratch, n, comm, compare=False):
    """Stage a data set of n training samples; return the bytes copied by all ranks, and whether what this
    rank then reads from its disk is, to the bit, what lies on the shared file system.
    """
    data = options.open()
    here = shards.Shards(options, data, str(scratch), world_of(comm))
    ledger = here.assign_ranks(Ledger.unseen(n, *Homes(n, comm.size).rows(comm.rank)))
    n_bytes = here.fill(ledger, no_bar, 0.3, compare).copied
    mine = np.arange(comm.rank, n, comm.size)
    ours = read(here.with_local_files(data).train, mine)
    return n_bytes, all(torch.equal(*pair) for pair in zip(ours, read(data.train, mine), strict=True))
