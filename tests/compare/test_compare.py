"""Comparisons run for real: on one rank and two, taken up again, the short form; and what is wrong in a file
is told first.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.comparisons import of_methods, read_comparison
from support.start_ranks import start

from kakurenbo_hpc.compare.controls import controls
from kakurenbo_hpc.compare.metrics import Curve
from kakurenbo_hpc.compare.run import _written_to, run_lines
from kakurenbo_hpc.compare.run import compare as run_all
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE, FAILED, REQUEUE, TERMINATED, JobError, RunDirectoryError

TINY = {
    "name": "tiny",
    "shows": "a try",
    "job": "digits_everything",
    "set": {"training": {"epochs": 3, "warmup_epochs": 0}},
    "contenders": {
        "kakurenbo": {
            "selection": {
                "method": "kakurenbo",
                "move_back": False,
                "reduce_fraction": False,
                "max_fraction": 0.5,
            }
        }
    },
    "seeds": [1],
}


def written(folder, **changed):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changed}, sort_keys=False), encoding="utf-8")
    return path


def compare(folder, file, *sets, comm=None):
    """Compare on these ranks, or in this process alone; return the exit code."""
    return run_all(*read_comparison(file, overrides=list(sets)), folder / "out", comm or SerialComm())


def started(folder, *words, n=1, starter="mpirun"):
    """Run ``kakurenbo compare`` in processes of its own."""
    words = ["-m", "kakurenbo_hpc.cli", "compare", *words, "--out", folder / "out"]
    return start(n, *words, starter=starter, timeout=300)


def comparison(folder, name="tiny"):
    return json.loads((folder / "out" / name / "comparison.json").read_text(encoding="utf-8"))


def test_a_comparison_runs_its_contenders_and_controls_and_is_taken_up_again(tmp_path, capsys):
    file = written(tmp_path, controls=["rs2"])
    assert compare(tmp_path, file) == DONE
    told, rows = capsys.readouterr().out, comparison(tmp_path)["contenders"]
    share = rows["kakurenbo"]["hidden_fraction"]
    controls = [name for name in rows if name not in ("everything", "kakurenbo")]
    assert list(rows)[:2] == ["everything", "kakurenbo"] and share > 0.1
    (by_epoch, random, rs2) = (name for name in controls if name.startswith("r"))
    assert by_epoch == "random as kakurenbo"
    assert rows[by_epoch]["n_backward"] == pytest.approx(rows["kakurenbo"]["n_backward"], abs=3)
    assert random.startswith("random ") and rs2 == "rs2 " + random.split()[1]
    assert abs(float(random.split()[1]) - share) <= 0.025 + 1e-9
    assert "2 epochs" in controls
    assert rows["everything"]["n_backward"] == 3 * 1437 and rows["2 epochs"]["n_backward"] == 2 * 1437
    assert rows["everything"]["speed_up"]["0.0"] == 1.0
    assert all(f"| {name} " in told for name in rows)
    assert (tmp_path / "out" / "tiny" / "table.md").read_text(encoding="utf-8") in told

    runs = sorted((tmp_path / "out" / "runs").iterdir())
    assert len(runs) == len(rows)
    before = {run: (run / "metrics.jsonl").stat().st_mtime_ns for run in runs}
    shutil.rmtree(max((runs[0] / "checkpoints").iterdir()))  # as if it had been killed in its last epoch
    begun = time.time_ns()
    assert (
        compare(tmp_path, file, "record.ledger=true") == DONE
    )  # keeps more on disk, and is the same comparison
    assert comparison(tmp_path)["contenders"].keys() == rows.keys()
    again = [run for run in runs if (run / "metrics.jsonl").stat().st_mtime_ns > begun]
    assert again == runs[:1] and all(
        (run / "metrics.jsonl").stat().st_mtime_ns == before[run] for run in runs[1:]
    )

    whole = comparison(tmp_path)
    assert compare(tmp_path, file, "model.name=resnet_of_nobody") == FAILED
    assert "comparison.json: kept as it is" in capsys.readouterr().out
    assert comparison(tmp_path) == whole


def check_short_form(folder):
    told = comparison(folder, "digits_everything_infobatch")
    assert list(told["contenders"])[:2] == ["everything", "infobatch"]
    assert told["ranks"] == 2 and told["seeds"] == [1, 2]


@pytest.mark.ranks(2)
def test_the_short_form_compares_methods_on_two_ranks(comm, tmp_path):
    sets = ["training.epochs=2", "training.warmup_epochs=0"]
    assert run_all(*of_methods("digits_everything", ["infobatch"], 2, sets), tmp_path / "out", comm) == DONE
    comm.barrier()
    check_short_form(tmp_path)


@pytest.mark.ranks
@pytest.mark.nightly
def test_the_short_form_compares_methods_under_torchrun(tmp_path):
    words = ["digits_everything", "--methods", "infobatch", "--seeds", "2"]
    words += ["--set", "training.epochs=2", "--set", "training.warmup_epochs=0"]
    ended = started(tmp_path, *words, n=2, starter="torchrun")
    assert ended.returncode == 0, ended.stderr
    check_short_form(tmp_path)


@pytest.mark.nightly
def test_the_components_of_kakurenbo_compare_quickly(tmp_path):
    ended = started(tmp_path, "jobs/evidence/kak_t5.yaml", "--quick")
    assert ended.returncode == 0, ended.stderr
    assert "| v1111 " in ended.stdout and "| everything " in ended.stdout


def test_scores_are_made_first_and_their_cost_is_added(tmp_path):
    contenders = {
        "el2n": {"scores": {"method": "el2n", "epochs": 1, "repeats": 1}, "selection": {"fraction": 0.4}}
    }
    assert compare(tmp_path, written(tmp_path, contenders=contenders)) == DONE
    row = comparison(tmp_path)["contenders"]["el2n"]
    kept = 1437 - int(0.4 * 1437)
    assert row["n_backward"] == 1437 + 3 * kept, "one epoch of everything for the scores"
    assert row["n_forward"] == 2 * 1437 + 3 * kept


@pytest.mark.ranks(2)
def test_one_run_that_fails_does_not_stop_the_others(comm, tmp_path, capsys):
    contenders = {
        "broken": {"model": {"name": "resnet_of_nobody"}},
        "diverges": {"training": {"lr": 1e30}},
        **TINY["contenders"],
    }
    file = comm.on_rank_zero(lambda: written(tmp_path, contenders=contenders))
    assert compare(tmp_path, file, comm=comm) == FAILED
    told = comm.broadcast(capsys.readouterr().out)
    assert "failed: broken: model.name is 'resnet_of_nobody'" in told
    assert "failed: diverges: the gradient was not finite in 10 steps in a row" in told
    assert "kakurenbo" in comparison(tmp_path)["contenders"]


@pytest.mark.parametrize("code", [REQUEUE, TERMINATED])
def test_a_run_that_was_asked_to_leave_ends_the_comparison(code, tmp_path, monkeypatch):
    monkeypatch.setattr("kakurenbo_hpc.compare.run.run", lambda *given, **more: code)
    assert run_all(*read_comparison(written(tmp_path)), tmp_path / "out", SerialComm()) == code
    assert not (tmp_path / "out" / "tiny").exists()


def test_a_log_that_the_disk_refuses_fails_no_run():
    with _written_to(Path("/dev/full"), SerialComm()):
        print("epoch 1 of 3")


def test_a_run_without_all_its_lines_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(
        RunDirectoryError, match="metrics.jsonl: has no line of each of the run's 3 epochs; remove"
    ):
        run_lines(tmp_path, 3)


def spent(forward, backward):
    """One run of one epoch that spent this."""
    return [Curve(*(np.array([value], float) for value in (0.5, 10, forward, backward, 1.0)))]


def test_controls_are_made_of_what_contenders_really_spent(tmp_path):
    noisy = {"data": {"label_noise": 0.2}}
    contenders = {
        "much": {"selection": {"method": "infobatch"}},
        "little": {"selection": {"method": "random", "fraction": 0.1}},
        "noise": noisy,
        "in noise": {**noisy, "against": "noise", "selection": {"method": "infobatch"}},
    }
    training = {"epochs": 20, "warmup_epochs": 4, "schedule": "multistep", "milestones": [10, 15]}
    file = written(tmp_path, contenders=contenders, set={"training": training})
    comparison, entries = read_comparison(file)
    curves = {
        "everything": spent(100, 100),
        "much": spent(100, 40),
        "little": spent(89, 89),
        "noise": spent(100, 100),
        "in noise": spent(70, 70),
    }
    made = dict(controls(comparison, entries, curves))  # random at 0.10 is in already
    assert list(made) == ["random 0.60", "noise: random 0.30", "12 epochs", "18 epochs", "noise: 14 epochs"]
    assert made["random 0.60"].job.selection.fraction == 0.6 and made["random 0.60"].job.data.label_noise == 0
    assert (
        made["noise: random 0.30"].job.data.label_noise == 0.2
        and made["noise: random 0.30"].against == "noise"
    )
    shorter = made["12 epochs"].job  # (100 + 2 x 40) / 300 of 20
    assert (shorter.selection.method, shorter.training.epochs) == ("everything", 12)
    assert shorter.training.milestones == pytest.approx(
        [6, 9]
    ) and shorter.training.warmup_epochs == pytest.approx(2.4)


def test_a_contender_of_another_job_has_a_baseline_and_controls_of_its_own(tmp_path):
    contenders = {
        "here": {"selection": {"method": "infobatch"}},
        "there": {"job": "evidence/base/visual_atoms"},
        "infobatch there": {
            "job": "evidence/base/visual_atoms",
            "against": "there",
            "selection": {"method": "infobatch"},
        },
    }
    file = written(tmp_path, contenders=contenders)
    comparison, entries = read_comparison(file, overrides=["training.lr=0.3"])
    assert [entry.job.data.name for entry in entries.values()] == ["digits"] * 2 + ["visual_atoms"] * 2
    assert {(entry.job.training.lr, entry.job.training.epochs) for entry in entries.values()} == {(0.3, 3)}
    curves = {
        "everything": spent(100, 100),
        "here": spent(100, 100),
        "there": spent(50, 50),
        "infobatch there": spent(40, 40),
    }
    made = dict(controls(comparison, entries, curves))
    assert list(made) == ["there: random 0.20", "there: 2 epochs"]
    assert {control.job.data.name for control in made.values()} == {"visual_atoms"}


def test_random_is_compared_at_each_contenders_share_in_each_epoch(tmp_path):
    contenders = {"much": {"selection": {"method": "infobatch"}}}
    comparison, entries = read_comparison(written(tmp_path, contenders=contenders))

    def of_epochs(*backward):
        sums = np.cumsum(np.array(backward, float))
        return [Curve(sums / sums[-1], sums, sums, sums, sums)]

    curves = {"everything": of_epochs(100, 100, 100), "much": of_epochs(100, 70, 40.04)}
    made = dict(controls(comparison, entries, curves))
    assert made["random as much"].job.selection.fractions == [0.0, 0.3, 0.6]
    assert made["random as much"].job.training == entries["everything"].job.training
    assert "random 0.30" in made, "the constant share"


def test_smaller_training_images_are_a_control_at_the_same_compute_where_they_are_wanted(tmp_path):
    contenders = {"much": {"selection": {"method": "infobatch"}}}
    file = written(
        tmp_path,
        contenders=contenders,
        controls=["resolution"],
        set={"data": {"augmentation": ["flip"], "repeats": [["flip"], []]}},
    )
    comparison, entries = read_comparison(file)
    curves = {"everything": spent(100, 100), "much": spent(100, 40)}
    made = dict(controls(comparison, entries, curves))
    control = made["resolution 0.75"].job  # the root of (100 + 2 x 40) / 300, to 0.05
    smaller = {"downscale": {"side": 0.75}}
    assert control.data.augmentation == ["flip", smaller]
    assert control.data.repeats == [["flip", smaller], [smaller]]
    assert control.selection.method == "everything"
    unwanted = comparison.model_copy(update={"controls": []})
    assert "resolution 0.75" not in dict(controls(unwanted, entries, curves))


def test_who_scales_is_compared_with_not_scaling_unless_that_is_there_already(tmp_path):
    contenders = {
        "kakurenbo": {"selection": {"method": "kakurenbo"}},
        "infobatch": {"selection": {"method": "infobatch"}},
        "soft": {"selection": {"method": "infobatch", "rescale": False}},
        "random": {"selection": {"method": "random"}},
    }
    _, entries = read_comparison(written(tmp_path, contenders=contenders, controls=["rs2", "unscaled"]))
    assert list(entries) == ["everything", *contenders, "kakurenbo, unscaled"]
    assert not entries["kakurenbo, unscaled"].job.selection.scale_lr


def test_the_same_job_has_one_run_whatever_it_is_called(tmp_path):
    same = {"selection": {"method": "random", "fraction": 0.2}}
    _, entries = read_comparison(
        written(tmp_path, contenders={"a": same, "b": {**same, "record": {"keep": 1}}, "c": {}})
    )
    a, b, c, everything = (
        entries[name].named(seed=1, ranks=2).name for name in ("a", "b", "c", "everything")
    )
    assert a == b and c == everything != a
    assert len({a, entries["a"].named(seed=2, ranks=2).name, entries["a"].named(seed=1, ranks=4).name}) == 3


def test_the_short_form_takes_the_jobs_own_settings_for_its_own_method():
    _, entries = of_methods(
        "digits_kakurenbo", ["kakurenbo", "infobatch", "kakurenbo"], 2, ["selection.max_fraction=0.2"]
    )
    assert (
        list(entries) == ["everything", "kakurenbo", "infobatch"]
        and entries["kakurenbo"].job.selection.max_fraction == 0.2
    )


WRONG = {
    "a key nobody knows": ({"contender": {}}, "unknown key contender; did you mean contenders"),
    "no contenders": ({"contenders": {}}, "contenders is {}, but"),
    "no seeds": ({"seeds": []}, "seeds is \\[\\]"),
    "a seed twice": ({"seeds": [1, 1]}, "each may stand once"),
    "a job nobody has": ({"job": "digits_evrything"}, "no such job file.*digits_everything"),
    "a method nobody knows": (
        {"contenders": {"a": {"selection": {"method": "kakurembo"}}}},
        "contender a: unknown selection.method 'kakurembo'",
    ),
    "an option nobody knows": (
        {"contenders": {"a": {"selection": {"method": "random", "share": 0.1}}}},
        "contender a: unknown key selection.share",
    ),
    "a section nobody knows": (
        {"contenders": {"a": {"selektion": {}}}},
        "unknown key contenders.a.selektion",
    ),
    "the baseline's name": ({"contenders": {"everything": {}}}, "a contender is called everything"),
    "a picture nobody draws": ({"pictures": ["convergance"]}, "pictures"),
    "a quick contender that is none": ({"quick": {"contenders": ["b"]}}, "quick.contenders names b"),
    "a line that is not there": ({"contenders": {"a": {"against": "b"}}}, "contender a: against names b"),
    "a line of itself": ({"contenders": {"a": {"against": "a"}}}, "against names a, which is no other"),
    "a job that scores": ({"set": {"scores": {"method": "el2n"}}}, "unknown key set.scores"),
    "a control nobody knows": ({"controls": ["nothing"]}, "controls"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_told_before_anything_runs(tmp_path, what):
    changed, message = WRONG[what]
    with pytest.raises(JobError, match=message) as problem:
        read_comparison(written(tmp_path, **changed), quick=True)
    assert (
        "\n" not in str(problem.value) and str(tmp_path / "tiny.yaml") in str(problem.value) or "job" in what
    )


def test_nothing_is_made_where_the_file_is_wrong(tmp_path):
    ended = started(tmp_path, written(tmp_path, seeds=[]))
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
