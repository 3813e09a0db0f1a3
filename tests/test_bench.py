"""The benchmarks run, in a tiny setting, and their first lines say what was measured on what. No speed is
asserted.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.start_ranks import environment, start

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TINY = ["--n", "3000,6000", "--trials", "2", "--project", "1000000,1024"]


def bench(script, *words):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def first_words(lines):
    return [line.split()[0] for line in lines if line and not line.startswith(" ")]


def test_the_plan_is_measured_beside_the_authors_way_and_projected():
    lines = bench("bench_selection.py", *TINY, "--ranks", "1,2")
    assert first_words(lines)[:6] == ["result:", "hardware:", "versions:", "trials:", "numpy:", "data:"]
    measured = [line.split() for line in lines if line.lstrip().startswith(("3,000 ", "6,000 "))]
    assert [row[:2] for row in measured] == [["3,000", "1"], ["6,000", "1"], ["3,000", "2"], ["6,000", "2"]]
    assert {row[8] for row in measured if row[0] == "3,000"} == {f"{3 * 8 * 3000:,}"}
    assert any("1,000,000 samples on 1,024 ranks" in line for line in lines)


def test_every_method_that_plans_an_epoch_can_be_measured():
    lines = bench("bench_selection.py", "--methods", "all", "--n", "2000", "--trials", "2", "--ranks", "2")
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert int(rows["infobatch"][2].replace(",", "")) > 0
    assert {"kakurenbo", "everything", "rank", "static"} <= rows.keys()


def test_balance_between_shards_is_measured_in_steps_samples_and_files():
    lines = bench(
        "bench_exchange.py", "--ranks", "4,8", "--real", "2", "--files", "1", "--mb", "0.1", "--trials", "2"
    )
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    rows = {row[0]: row for row in map(str.split, lines) if row and row[0] in ("4", "8")}
    assert all(float(row[2]) <= float(row[3]) for row in rows.values()) and len(rows) == 2
    assert any("2 ranks: through MPI" in line for line in lines)


def test_under_a_starter_it_measures_on_those_ranks():
    done = start(2, SCRIPTS / "bench_selection.py", *TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 ranks" in done.stdout.splitlines()[0]


def test_a_method_that_nobody_knows_is_named():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_selection.py", "--methods", "kakurenbi"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "kakurenbi" in done.stderr


def test_drawing_images_is_measured_beside_reading_them_from_memory():
    lines = bench("bench_data.py", "visual_atoms", "--trials", "2")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert sum(" px " in line for line in lines) == 3 and any("random_erasing" in line for line in lines)


def test_reading_is_measured_beside_the_references_way_and_its_memory_beside_what_is_in_flight():
    lines = bench("bench_data.py", "deepcam", "--files", "3", "--size", "32,48", "--trials", "2")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert any("3 files of 0 MB, samples 32 x 48 x 16 float32" in line for line in lines)
    assert [
        line.split()[-1] for line in lines if " of " in line and line.split()[1].startswith("thread")
    ] == ["3", "4", "6", "10"]


def test_staging_by_exchange_is_measured_beside_each_rank_for_itself():
    words = ["--ranks", "2", "--files", "4", "--mb", "0.1", "--mb-per-s", "10", "--trials", "2"]
    lines = bench("bench_staging.py", *words)
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert sum(line.startswith("    by exchange") and " sent at " in line for line in lines) == 2


def test_images_are_measured_beside_torchvisions_folder_and_packed_beside_both():
    lines = bench("bench_data.py", "images", "--files", "4", "--trials", "2")
    assert first_words(lines)[:5] == ["result:", "result:", "hardware:", "versions:", "trials:"]
    assert sum(line.startswith("  packed, scaled") for line in lines) == 4


def test_a_save_in_the_background_is_measured_beside_one_that_is_waited_for(tmp_path):
    lines = bench(
        "bench_checkpoint.py", "--parameters", "5000000", "--trials", "2", "--folder", str(tmp_path)
    )
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert any("8,388,608 parameters" in line for line in lines)
    assert ["the call" in line for line in lines[-2:]] == [True, False] and "what steps take longer" in lines[
        -1
    ]


def test_a_ledger_a_plan_and_an_order_fit_into_25_bytes_a_sample():
    lines = bench("bench_memory.py", "--n", "4000000")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert float(lines[0].split(", ")[-1].split()[0]) <= 25
    assert "at most 2.5 GB in all for 4,000,000 samples" in lines[-1]


def test_the_checks_of_a_gpu_run_on_a_cpu_and_name_what_they_did_not_exercise(tmp_path):
    out = tmp_path / "checks.json"
    checks = [sys.executable, SCRIPTS.parent / "tests/gpu/checks.py", "--device", "cpu", "--out", out]
    done = subprocess.run(checks, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(check["passed"] for check in json.loads(out.read_text())["checks"].values())
    assert "not exercised here: one_rank_group: NCCL" in done.stdout


def test_a_gpu_is_measured_beside_a_bare_loop_and_its_ideal_also_with_the_device_swapped(tmp_path):
    out = tmp_path / "gpu.json"
    lines = bench("bench_gpu.py", "--device", "cpu", "--quick", "--out", str(out))
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert not any("failed" in line for line in lines)
    assert len(json.loads(out.read_text())["cases"]) == 3


def test_the_exchange_that_backward_does_not_hide_is_measured_by_options():
    lines = bench("bench_gradients.py", "--ranks", "2", "--width", "4", "--trials", "2")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "data:"]
    assert sum(line.startswith("  2 ranks, ") for line in lines) == 5


def test_one_command_runs_all_and_names_what_fails(tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    shutil.copy(SCRIPTS / "bench_all", folder)
    good = "def main():\n    print('result:    7 of\\n           9')\n    print('trials:    3')\n\nmain()\n"
    (folder / "bench_good.py").write_text(f"\n{good}")
    (folder / "bench_bad.py").write_text("\ndef main():\n    raise SystemExit(3)\n\nmain()\n")
    (folder / "bench_common.py").write_text("")
    done = subprocess.run([sys.executable, folder / "bench_all"], capture_output=True, text=True)
    rows = [line.split(" | ")[:3] for line in done.stdout.splitlines() if line.startswith("| `")]
    assert rows == [
        ["| `bench_bad.py`", "**failed** with code 3", ""],
        ["| `bench_good.py`", "7 of 9", "3"],
    ]
    assert done.returncode == 1 and "failed: bench_bad.py" in done.stderr


def test_the_driver_is_measured_beside_a_bare_loop_and_its_ideal():
    lines = bench("bench_epoch.py", "--widths", "4,4", "--trials", "2", "--threads", "1")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "network:"]
    assert any("backward / forward" in line for line in lines)
    assert sum("wanted: choose larger --widths" in line for line in lines) == 2


def test_scaling_is_measured_on_real_ranks_and_projected():
    words = ["--n", "30000", "--ranks", "2,4,16", "--train-ranks", "1,2", "--epochs", "2"]
    lines = bench("bench_scaling.py", *words, "--project-n", "1e6,1e10", "--project-ranks", "65536")
    assert first_words(lines)[:5] == ["result:", "hardware:", "versions:", "trials:", "ranks:"]
    measured = [line.split() for line in lines if line.lstrip().startswith("30,000 ")]
    rows = [row for row in measured if "same" in row]
    assert [row[1] for row in rows] == ["1", "2", "4", "16", "16"] and {row[3] for row in rows} == {"equal"}
    assert sum("projected" in line and "%" in line for line in lines) >= 3
    assert any("messages of an exchange" in line and "1,020" in line for line in lines)
    assert "strong scaling" in lines and lines[-1].startswith("reached")


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench_selection import Counted

    from kakurenbo_hpc.distributed.comm import SerialComm

    return Counted(SerialComm())


def test_what_a_rank_hands_to_mpi_is_counted(counted):
    counted.sum(np.zeros(2048, np.int64))
    counted.max(np.zeros(1))
    assert (counted.sent, counted.messages) == (2048 * 8 + 8, 2)
    assert counted.size == 1


def test_what_stays_on_a_rank_is_not_counted_as_sent(counted):
    counted.alltoallv([np.zeros(100)])
    assert counted.sent == 8  # the count alone


def test_the_cost_of_subsets_is_judged_at_full_size_only():
    lines = bench("bench_subsets.py", "--n", "60", "--width", "4", "--classes", "3", "--trials", "1")
    judged = [line for line in lines if line.startswith(("reached", "MISSED"))]
    assert not judged and sum("not judged at this size" in line for line in lines) >= 2


def test_predicted_losses_are_compared_with_a_fresh_pass():
    lines = bench("bench_predicted_loss.py", "digits_everything", "--set", "training.epochs=9")
    rows = [line.split() for line in lines if line.split()[:1] in (["1"], ["3"], ["5"])]
    assert len(rows) == 3 and all(-1 <= float(row[1]) <= 1 for row in rows)
