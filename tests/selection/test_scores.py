"""Score files: written and read on different numbers of ranks, and all ways to be wrong."""

import h5py
import numpy as np
import pytest

from kakurenbo_hpc.core.ledger import Homes
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.comm_threads import run_in_threads
from kakurenbo_hpc.errors import DataError
from kakurenbo_hpc.selection import score_file as scores
from kakurenbo_hpc.selection.score_file import (
    ScoreInfo,
    read_score_info,
    read_scores,
    read_weights,
    write_scores,
)

N = 23
ABOUT = ScoreInfo(
    "el2n", "10 models, 20 epochs each", "digits", "f00d", n=N, seconds=1.5, n_forward=460, n_backward=460
)
SCORE = np.random.default_rng(0).random(N)
LABEL = np.arange(N) % 3


@pytest.fixture
def path(tmp_path):
    write_scores(tmp_path / "scores.h5", ABOUT, SCORE, SerialComm(), LABEL)
    return str(tmp_path / "scores.h5")


def read(path, n=N, fingerprint="f00d", rows=None):
    return read_scores(
        [path] if isinstance(path, str) else path, range(n) if rows is None else rows, n, fingerprint
    )[0]


def refusal(*args, **options):
    with pytest.raises(DataError) as problem:
        read(*args, **options)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_what_was_written_is_read(path):
    score, label = read_scores([path], range(N), N, "f00d", labels=True)
    assert score.tolist() == SCORE.tolist() and label.tolist() == LABEL.tolist()
    assert read_score_info(path) == ABOUT


@pytest.mark.parametrize("at_once", [1 << 22, 5])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_any_number_of_ranks_writes_the_same_file(tmp_path, monkeypatch, n_ranks, at_once):
    monkeypatch.setattr(scores, "_AT_ONCE", at_once)
    homes, path = Homes(N, n_ranks), tmp_path / "new" / "scores.h5"

    def write(comm):
        first, last = homes.rows(comm.rank)
        write_scores(path, ABOUT, SCORE[first:last], comm, LABEL[first:last])

    run_in_threads(n_ranks, write)
    with h5py.File(path) as file:
        assert file["id"][:].tolist() == list(range(N))
        assert file["score"][:].tolist() == SCORE.tolist() and file["label"][:].tolist() == LABEL.tolist()
        assert dict(file.attrs) == vars(ABOUT)
    assert [p.name for p in path.parent.iterdir()] == ["scores.h5"]


def test_each_rank_reads_its_own_rows(path):
    assert read(path, rows=range(5, 9)).tolist() == SCORE[5:9].tolist()
    assert read(path, rows=range(5, 5)).tolist() == []


def test_several_files_are_their_mean(path, tmp_path):
    other = str(tmp_path / "other.h5")
    write_scores(other, ABOUT, 1 - SCORE, SerialComm())
    assert read([path, other]) == pytest.approx(np.full(N, 0.5))


def test_scores_of_another_data_set_are_refused(path):
    assert (
        refusal(path, n=24) == f"{path}: scores of 23 samples, but the data set has 24; score this data set"
    )
    line = (
        f"{path}: scores of data set digits (f00d), but this run's data is another (beef); score this "
        "data set"
    )
    assert refusal(path, fingerprint="beef") == line


def test_missing_ids_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["id"][7] = 8
    assert refusal(path) == f"{path}: id 7 is missing, 8 stands in its place; give all ids, in order"
    assert len(read(path, rows=range(8, N))) == 15  # the rank whose rows they are finds out


def test_what_is_no_score_file_is_refused(path, tmp_path):
    assert (
        refusal(str(tmp_path / "none.h5"))
        == f"{tmp_path}/none.h5: no such score file; write one with kakurenbo score"
    )
    (tmp_path / "text.h5").write_text("score")
    assert "not an HDF5 file; write one with kakurenbo score" in refusal(str(tmp_path / "text.h5"))
    with h5py.File(path, "r+") as file:
        del file.attrs["fingerprint"]
    assert "no score file, fingerprint is missing" in refusal(path)
    with h5py.File(path, "r+") as file:
        del file["score"]
    assert "no score file, score is missing" in refusal(path)


def test_weights_to_draw_by_are_not_negative(path, tmp_path):
    assert read_weights([path], range(N), N, "f00d").tolist() == SCORE.tolist()
    write_scores(tmp_path / "minus.h5", ABOUT, SCORE - (np.arange(N) == 4), SerialComm())
    with pytest.raises(
        DataError, match=r"minus.h5: id 4 has -0\.\d+, but weights to draw by cannot be negative"
    ):
        read_weights([str(tmp_path / "minus.h5")], range(3, 6), N, "f00d")


def test_a_file_that_cannot_be_written_is_one_line_on_every_rank(tmp_path):
    (tmp_path / "taken").write_text("")

    def write(comm):
        with pytest.raises(
            DataError, match=r"taken/scores.h5: cannot be written \(.*\); make room, or choose another place"
        ):
            write_scores(tmp_path / "taken" / "scores.h5", ABOUT, SCORE[comm.rank :: 2], comm)

    run_in_threads(2, write)
