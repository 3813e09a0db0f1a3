"""A checkpoint written while training goes on: what it holds, when it is one, what is kept, what a disk may
refuse.
"""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from kakurenbo_hpc.core.ledger import Ledger
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.rundir.checkpoint import async_writer as saving
from kakurenbo_hpc.rundir.checkpoint import retention
from kakurenbo_hpc.rundir.checkpoint import shards as parts
from kakurenbo_hpc.rundir.checkpoint.async_writer import CheckpointWriter
from kakurenbo_hpc.rundir.checkpoint.manifest import load_facts, validate_checkpoint
from kakurenbo_hpc.rundir.checkpoint.retention import newest_valid, remove_partial, set_aside
from kakurenbo_hpc.rundir.checkpoint.shards import RankState, checksum, load_ledger
from kakurenbo_hpc.rundir.checkpoint.snapshot import Snapshot


def saver(folder, comm=None, keep=2, told=None):
    return CheckpointWriter(
        folder,
        keep,
        comm or SerialComm(),
        Snapshot(),
        (told if told is not None else []).append,
        lambda: None,
    )


def part(rank=0, size=1, value=1.0):
    state = {
        "model": {"weight": torch.full((1000,), value)},
        "optimizer": {"state": {0: {"momentum": torch.zeros(3)}}, "lr": 0.1},
    }
    return RankState(state if rank == 0 else None, Ledger.unseen(10 * size, 10 * rank, 10 * rank + 10), {})


def saved(saver, *numbers, accuracy=0.5):
    for number in numbers:
        saver.save(f"epoch_{number:04d}", part(), {"epoch": number, "line": {"val_accuracy": accuracy}})
        assert saver.finish()


def there(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "best")


@pytest.fixture
def held(monkeypatch):
    """Writing threads wait for this event."""
    event = threading.Event()

    def when_let(*words, write=saving.write_shards):
        assert event.wait(10), "somebody waits for the disk"
        return write(*words)

    monkeypatch.setattr(saving, "write_shards", when_let)
    yield event
    event.set()


def test_it_holds_the_moment_of_the_call_whatever_is_trained_meanwhile(tmp_path, held):
    saving, mine = saver(tmp_path), part()
    saving.save("epoch_0000", mine, {"line": {}})
    mine.learner["model"]["weight"] += 1
    for _ in range(3):
        saving.poll()
    assert newest_valid(tmp_path) is None, "save has come back before anything is written"
    held.set()
    assert saving.finish()
    state = torch.load(newest_valid(tmp_path) / "learner.pt", weights_only=True)
    assert (state["model"]["weight"] == 1).all() and state["optimizer"]["lr"] == 0.1


def test_it_gets_its_name_between_steps_once_all_ranks_have_written(tmp_path, held):
    def rank(comm):
        one = saver(tmp_path, comm)
        one.save("epoch_0000", part(comm.rank, comm.size), {"line": {}, "epoch": 0})
        for _ in range(3):
            one.poll()
        comm.barrier()
        before = there(tmp_path)
        comm.barrier()
        held.set()
        while one._shards is not None:
            one.poll()
        one.finish()
        return before

    assert all("epoch_0000" not in before for before in run_in_threads(3, rank))
    assert there(tmp_path) == ["epoch_0000"]
    facts = json.loads((tmp_path / "epoch_0000" / "manifest.json").read_text())
    assert set(facts["files"]) == {*(f"ledger_{10 * rank:012d}.npz" for rank in range(3)), "learner.pt"}
    assert all(checksum(tmp_path / "epoch_0000" / name) == sums for name, sums in facts["files"].items())


def test_the_next_save_waits_for_the_last(tmp_path, held):
    one = saver(tmp_path)
    one.save("epoch_0000", part(value=0.0), {"line": {}})
    threading.Timer(0.2, held.set).start()
    one.save("epoch_0001", part(value=1.0), {"line": {}})
    assert "epoch_0000" in there(tmp_path)
    state = torch.load(tmp_path / "epoch_0000" / "learner.pt", weights_only=True)
    assert (state["model"]["weight"] == 0).all(), "one copy is written before the next is taken in its place"
    assert one.finish() and there(tmp_path) == ["epoch_0000", "epoch_0001"]


def test_every_file_and_folder_is_synced_before_the_next_one_leans_on_it(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)

        def noted(*words, name=name, real=real, **more):
            what = os.readlink(f"/proc/self/fd/{words[0]}") if name == "fsync" else str(words[1])
            events.append((name, Path(what).relative_to(tmp_path).as_posix()))
            return real(*words, **more)

        monkeypatch.setattr(os, name, noted)
    saved(saver(tmp_path), 0)
    beside = ".epoch_0000.part"
    named = events.index(("rename", "epoch_0000"))
    synced = [what for name, what in events[:named] if name == "fsync"]
    assert {f"{beside}/learner.pt", f"{beside}/ledger_000000000000.npz", beside} <= set(synced)
    assert synced[-2].startswith(f"{beside}/.manifest.json") and synced[-1] == beside
    assert events[named + 1] == ("fsync", "."), "the folder of checkpoints, once the name is there"


def test_a_disk_that_takes_it_slowly_is_told_of_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_IO_CHUNK", 1000)
    synced, told = [0], []
    monkeypatch.setattr(os, "fdatasync", lambda handle: synced.append(os.fstat(handle).st_size))
    parts.write_shards(
        tmp_path,
        0,
        RankState({"weight": torch.zeros(25_000)}, Ledger.unseen(0, 0, 0), {}),
        lambda: told.append(len(synced)),
    )
    size = (tmp_path / "learner.pt").stat().st_size
    assert size > 100_000 and max(np.diff([*synced, size])) <= 2000
    assert sorted(set(told)) == list(range(told[0], len(synced) + 1)), "after every piece"
    told.clear()
    read = parts.load_learner(tmp_path, torch.device("cpu"), lambda: told.append(1))
    assert torch.equal(read["weight"], torch.zeros(25_000)) and len(told) > 100, (
        "and it is read in pieces, too"
    )


def test_the_newest_and_the_best_are_kept(tmp_path):
    one = saver(tmp_path, keep=2)
    for number, accuracy in enumerate([0.3, 0.9, 0.5, 0.6, float("nan"), 0.7]):
        saved(one, number, accuracy=accuracy)
    assert there(tmp_path) == ["epoch_0001", "epoch_0004", "epoch_0005"]
    assert (tmp_path / "best").read_text() == "epoch_0001\n"
    saved(one, 6, accuracy=0.95)
    assert (
        there(tmp_path) == ["epoch_0005", "epoch_0006"] and (tmp_path / "best").read_text() == "epoch_0006\n"
    )


def test_what_was_passed_over_is_kept_under_another_name_and_gives_its_own_away(tmp_path):
    one = saver(tmp_path)
    for numbers in ((0, 1), (1,)):
        saved(one, *numbers)
        (tmp_path / "epoch_0001" / "learner.pt").write_bytes(b"torn")
        set_aside(tmp_path, tmp_path / "epoch_0000")
    saved(one, 1)
    assert there(tmp_path) == [
        "epoch_0000",
        "epoch_0001",
        "passed_over_1_epoch_0001",
        "passed_over_2_epoch_0001",
    ]
    assert newest_valid(tmp_path).name == "epoch_0001"


def test_an_epoch_that_is_left_again_is_never_without_a_checkpoint(tmp_path, monkeypatch):
    one = saver(tmp_path, keep=2)
    saved(one, 0, 1)
    inside = ["epoch_0002_inside_00009", "epoch_0002_inside_00010", "epoch_0002_inside_100000"]
    for i, name in enumerate(inside):
        one.save(name, part(), {"line": None, "steps": [1]})
        with monkeypatch.context() as killed:
            killed.setattr("shutil.rmtree", lambda *words, **more: None)
            one.finish()
        assert {name, inside[max(0, i - 1)]} <= set(there(tmp_path)), (
            "the one before goes only when this one is there"
        )
        assert newest_valid(tmp_path).name == name
        retention._remove_old(tmp_path, tmp_path / name, 2)
        assert there(tmp_path) == ["epoch_0001", name], "as many epochs stay as if it had been left once"
    saved(one, 2)
    assert newest_valid(tmp_path).name == "epoch_0002"


def test_the_newest_whole_epoch_stays_beside_one_that_was_left_inside(tmp_path):
    one = saver(tmp_path, keep=1)
    saved(one, 0, accuracy=0.9)
    saved(one, 1)
    one.save("epoch_0002_inside_00009", part(), {"line": None, "steps": [1]})
    assert one.finish() and there(tmp_path) == ["epoch_0000", "epoch_0001", "epoch_0002_inside_00009"]


def test_whatever_bit_of_a_manifest_flips_no_fact_changes(tmp_path):
    saved(saver(tmp_path), 0)
    checkpoint = tmp_path / "epoch_0000"
    path, facts = checkpoint / "manifest.json", load_facts(checkpoint)
    data = path.read_bytes()
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        assert validate_checkpoint(checkpoint) is not None or load_facts(checkpoint) == facts, bytes(flipped)
    path.write_bytes(data)
    assert validate_checkpoint(checkpoint) is None


def test_what_a_killed_run_left_is_neither_found_nor_kept(tmp_path):
    one = saver(tmp_path)
    saved(one, 0)
    (tmp_path / ".epoch_0001.part").mkdir()
    (tmp_path / ".epoch_0001.part" / "learner.pt").write_bytes(b"torn")
    assert newest_valid(tmp_path).name == "epoch_0000"
    remove_partial(tmp_path)
    assert there(tmp_path) == ["epoch_0000"]


@pytest.mark.parametrize("on", [0, 1])
def test_a_disk_that_refuses_one_ranks_part_is_told_once_and_the_checkpoint_before_stays(
    on, tmp_path, monkeypatch
):
    told = [[] for _ in range(2)]

    def refuses(folder, rank, part, on_progress, write=saving.write_shards):
        if rank == on and folder.name == ".epoch_0001.part":
            write(folder, rank, part, on_progress)
            raise OSError(28, "No space left on device")
        return write(folder, rank, part, on_progress)

    monkeypatch.setattr(saving, "write_shards", refuses)

    def rank(comm):
        one, whole = saver(tmp_path, comm, told=told[comm.rank]), []
        for number in range(3):
            one.save(f"epoch_{number:04d}", part(comm.rank, comm.size), {"line": {}, "epoch": number})
            whole.append(one.finish())
        return whole

    assert run_in_threads(2, rank) == [[True, False, True]] * 2
    assert there(tmp_path) == ["epoch_0000", "epoch_0002"]
    (line,) = told[0]
    assert (
        line.startswith("warning: checkpoint epoch_0001 could not be written")
        and f"rank {on}: No space left" in line
    )


def test_a_disk_that_refuses_the_manifest_keeps_nothing_of_it(tmp_path, monkeypatch):
    def refuses(checkpoint, facts, write=retention.write_manifest):
        if facts["epoch"] == 1:
            raise OSError(28, "No space left on device")
        write(checkpoint, facts)

    monkeypatch.setattr(retention, "write_manifest", refuses)
    one = saver(tmp_path, told=(told := []))
    saved(one, 0)
    one.save("epoch_0001", part(), {"line": {}, "epoch": 1})
    assert not one.finish() and "epoch_0001 could not be written (No space left" in told[0]
    saved(one, 2)
    assert there(tmp_path) == ["epoch_0000", "epoch_0002"], "it took room that the next one needs"


def test_any_other_error_of_the_writing_thread_ends_the_run(tmp_path, monkeypatch):
    def breaks(*words):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(saving, "write_shards", breaks)
    one = saver(tmp_path)
    one.save("epoch_0000", part(), {"line": {}})
    with pytest.raises(KeyError, match="a mistake of ours"):
        one.finish()


def test_a_copy_is_made_in_the_same_memory_again():
    snapshot, state = Snapshot(), {"a": [torch.ones(3), 2], "b": torch.zeros(())}
    first = snapshot.of(state)
    state["a"][0] += 1
    assert first["a"][0].tolist() == [1, 1, 1]
    again = snapshot.of(state)
    assert again["a"][0].data_ptr() == first["a"][0].data_ptr() and again["a"][0].tolist() == [2, 2, 2]


def test_a_ledger_in_many_pieces_is_read_by_any_number_of_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.rundir.checkpoint.shards._CHUNK", 7)

    def columns(ledger):
        value = (ledger.id * 0.5).astype(np.float32)
        return Ledger(
            60,
            ledger.start,
            value,
            ledger.id % 2 == 0,
            -value,
            ledger.id.astype(np.int32),
            {"place": ledger.id, "window": value[:, None] + np.arange(4, dtype=np.float32)},
        )

    def rank(comm):
        one = saver(tmp_path, comm)
        first, last = comm.rank * 60 // comm.size, (comm.rank + 1) * 60 // comm.size
        one.save(
            "epoch_0000",
            RankState({} if comm.rank == 0 else None, columns(Ledger.unseen(60, first, last)), {}),
            {"line": {}},
        )
        one.finish()

    run_in_threads(3, rank)
    facts = json.loads((tmp_path / "epoch_0000" / "manifest.json").read_text())
    for cuts in ([0, 60], [0, 13, 60], [0, 20, 40, 60], [0, 1, 2, 3, 60]):
        for first, last in zip(cuts, cuts[1:], strict=False):
            window = (np.dtype((np.float32, 4)), np.nan)
            fresh = Ledger.unseen(60, first, last, {"place": (np.int64, -1), "window": window})
            got, want = load_ledger(tmp_path / "epoch_0000", facts, fresh), columns(fresh)
            for name in ("loss", "correct", "confidence", "seen_epoch"):
                assert (getattr(got, name) == getattr(want, name)).all()
            assert (got.extra["place"] == want.id).all()
            assert got.extra["window"].shape == (last - first, 4) and got.extra["window"].dtype == np.float32
            assert (got.extra["window"] == want.extra["window"]).all()
