"""The doctor: it passes a good machine, and names each defect of a bad one, with what to do."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from support.pbs_site import PbsSite
from support.start_ranks import environment

from kakurenbo_hpc.cluster.doctor import checks, probes, site_checks
from kakurenbo_hpc.cluster.doctor.compute_capability import runs_on
from kakurenbo_hpc.cluster.doctor.findings import CheckWarning, Findings
from kakurenbo_hpc.cluster.doctor.run import doctor as diagnose
from kakurenbo_hpc.cluster.doctor.subprocess_json import run_probe
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.rundir.job_diff import check_run
from kakurenbo_hpc.rundir.path_checks import in_words
from kakurenbo_hpc.selection import METHODS

OPEN_MPI = [f"mpirun (Open MPI) {version}" for version in ("5.0.11", "4.1.8")]
GOOD = {
    "python": "3.11.7",
    "version": "2.13.0+cu126",
    "cuda": "12.6",
    "built_for": ["sm_70", "sm_80", "compute_90"],
    "nccl": "2.21.5",
}
GOOD |= {"gpus": [], "no_gpu": None}


@pytest.fixture(autouse=True)
def a_plain_shell(monkeypatch):
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def program(tmp_path):
    """Write a program that stands in for one of the machine's, and return its folder."""

    def write(name: str, text: str, interpreter: str = "/bin/sh") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!{interpreter}\n{text}\n")
        (folder / name).chmod(0o755)
        return folder

    return write


@pytest.fixture
def environment_that_says(program, tmp_path):
    """A Python environment of the machine whose probes print the given facts."""

    def write(**facts) -> dict:
        said = "".join(f"{what}) echo '{json.dumps(fact)}';;\n" for what, fact in facts.items())
        program("python", f'case "$3" in\n{said}esac')
        return {"python": str(tmp_path)}

    return write


def case(
    job: str | None = None, overrides: Sequence[str] = (), ranks=None, nodes=None, walltime=None, **facts
) -> Findings:
    read = read_job(find_job(job), overrides, DATASETS, METHODS) if job else None
    return Findings(
        Machine(**{"name": "own", "starter": "mpirun", **facts}),
        Path("own.yaml"),
        read,
        nodes,
        ranks,
        walltime,
    )


def found(check, of: Findings) -> tuple[str, str]:
    try:
        return "OK", check(of)
    except CheckWarning as doubt:
        return "WARN", str(doubt)
    except UserError as problem:
        return "FAIL", str(problem)


def doctor(*words: object, **changed: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the command and return its exit code, and the word and the reason of each check."""
    command = [sys.executable, "-m", "kakurenbo_hpc.cli", "doctor", *map(str, words)]
    done = subprocess.run(command, env=environment() | changed, capture_output=True, text=True, timeout=300)
    lines = [
        re.fullmatch(r"(OK|WARN|FAIL) +(\w+(?: \w+)?)  +(.+)", line) for line in done.stdout.splitlines()
    ]
    assert all(lines), done.stdout
    assert done.stderr == ""
    return done.returncode, {line[2]: (line[1], line[3]) for line in lines}


@pytest.mark.ranks
def test_nothing_is_wrong_with_a_good_machine_in_a_folder_of_other_modules(tmp_path, monkeypatch):
    clone = tmp_path / "clones/horovod/horovod"  # as git clone leaves it, beside a random.py of one's own
    clone.mkdir(parents=True)
    (clone / "__init__.py").touch()
    (tmp_path / "clones/random.py").write_text("raise SystemExit('not the module that was meant')")
    monkeypatch.chdir(tmp_path / "clones")
    machine = tmp_path / "machine.yaml"
    machine.write_text(yaml.safe_dump({"name": "here", "starter": "mpirun", "scratch": "$SCRATCH/of mine"}))
    code, said = doctor(
        "digits_kakurenbo", "--machine", machine, "--ranks", 2, "--walltime", "1h", SCRATCH=str(tmp_path)
    )
    # Two ranks on a single core are a reason to warn.
    assert code == 0 and {word for word, _ in said.values()} <= {"OK", "WARN"}
    assert [name for name, (word, _) in said.items() if word == "WARN"] in ([], ["binding"])
    of_other_machines = ("modules", "site", "peers", "network", "clocks")
    assert list(said) == [name for name, _ in checks.CHECKS if name not in of_other_machines]
    assert said["ranks"][1].startswith("2 talk to each other, on ")
    assert said["scratch"][1].startswith(f"{tmp_path}/of mine can be written to, ")
    assert re.fullmatch(
        r"16 KiB of a plan in \d+ us, 64 MiB of gradients at \d+\.\d\d GB/s", said["allreduce"][1]
    )
    assert said["data"][1].startswith("digits: 1437 samples, 360 for validation")
    assert said["job"][1] == "2 ranks, global batch 60"
    assert not list((tmp_path / "of mine").iterdir())


@pytest.mark.ranks
@pytest.mark.nightly
def test_what_fails_is_a_line_the_rest_is_still_looked_at_and_the_code_is_1(program):
    """An mpirun that knows nothing of the MPI that mpi4py loads: it starts processes, and each is alone."""
    singletons = f'[ "$1" = --version ] && echo "{OPEN_MPI[0]}" && exit\n'
    singletons += f'while [ "$1" != "{sys.executable}" ]; do shift; done\n"$@"; "$@"'
    code, said = doctor("digits_kakurenbo", PATH=f"{program('mpirun', singletons)}:{os.environ['PATH']}")
    assert code == 1
    assert (
        said["ranks"][0] == "FAIL"
        and "started 2 ranks, but each sees 1; it is not of the MPI that mpi4py loads" in said["ranks"][1]
    )
    assert said["binding"] == ("WARN", "not known as long as ranks do not talk")
    assert said["torch"][0] == said["data"][0] == said["job"][0] == "OK"


def test_what_the_user_mistypes_is_one_line_and_code_2():
    for words, message in [
        (
            ["--machine", "locl"],
            "locl: no such machine file, and no machine of that name comes with the package; did you mean "
            "local?",
        ),
        (["digits"], "digits: no such job file"),
        (["digits_everything", "--set", "seed=x"], "seed is 'x', but must be an integer"),
    ]:
        command = [sys.executable, "-m", "kakurenbo_hpc.cli", "doctor", *words]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("kakurenbo: ") and message in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kill -SEGV $$",
            "probe of torch: no result, but killed by SIGSEGV (no message); for all of it, run ",
        ),
        (
            "echo 'ImportError: libcudart.so.12: no such file' >&2; echo bye >&2; exit 1",
            "but exit code 1 (ImportError: libcudart.so.12: ",
        ),
        ('echo \'{"problem": "the disk is on fire; put it out"}\'', "the disk is on fire; put it out"),
    ],
)
def test_a_process_that_breaks_is_a_line(text, message, program, tmp_path):
    program("python", f"echo >> {tmp_path}/asked\n{text}")
    broken = case(python=str(tmp_path))
    word, said = found(checks.check_torch, broken)
    assert word == "FAIL" and message in said and "\n" not in said
    assert found(checks.check_cuda, broken) == ("WARN", "not known as long as torch does not load")
    assert (tmp_path / "asked").read_text() == "\n", "it is asked once: the next answer may take minutes, too"


def test_a_python_that_is_not_there_is_a_line(tmp_path):
    assert found(checks.check_python, case(python=str(tmp_path))) == (
        "FAIL",
        f"{tmp_path}/bin/python: cannot be run (No such file or directory); correct python in the machine "
        "file",
    )


def test_a_process_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    hang = f"trap 'touch {tmp_path}/asked; exit' TERM; sleep 600 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(UserError, match="^two ranks: no result in 10 s; to see where it hangs, run sh -c "):
        run_probe(["sh", "-c", hang], {}, "two ranks", limit_s=10)
    assert (tmp_path / "asked").exists()
    sleeper = int((tmp_path / "pid").read_text())
    give_up = time.monotonic() + 10
    while Path(f"/proc/{sleeper}").exists() and "Z" not in Path(f"/proc/{sleeper}/stat").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("torch", "machine", "word", "message"),
    [
        ({}, {}, "OK", "v100, sm_70, which torch is built for"),
        (
            {"built_for": ["sm_75", "sm_90"]},
            {},
            "FAIL",
            "v100 is sm_70, but torch .* is built for sm_75 sm_90; .* 12.6, .*v100.txt",
        ),
        (
            {"built_for": ["sm_75"]},
            {"gpu_type": "a100"},
            "FAIL",
            "a100 is sm_80, but .*; install torch's build for CUDA from pytorch.org",
        ),
        (
            {"cuda": None, "nccl": None},
            {},
            "FAIL",
            "own has 4 GPUs on a node, but torch .* is built for CPUs; install .*v100.txt",
        ),
        (
            {"gpus": [["Tesla V100", 7, 0]], "built_for": ["sm_80"]},
            {"gpu_type": "a100"},
            "FAIL",
            "Tesla V100 is sm_70, but",
        ),
        (
            {"no_gpu": "The NVIDIA driver is too old"},
            {},
            "FAIL",
            "torch cannot use the GPUs here: The NVIDIA driver is too old",
        ),
        (
            {"built_for": ["sm_75"]},
            {"gpu_type": "tesla_v100-sxm2-32gb"},
            "FAIL",
            "tesla_v100-sxm2-32gb is sm_70, but",
        ),
        (
            {},
            {"gpu_type": "x9"},
            "WARN",
            "gpu_type is x9, which is not a type known to doctor; run kakurenbo doctor where the GPUs are",
        ),
        ({}, {"gpu_type": None}, "WARN", "the machine file has no gpu_type; run"),
        ({}, {"gpus_per_node": 0}, "OK", "no GPUs here, none in the machine file"),
    ],
)
def test_a_torch_that_is_not_built_for_the_gpus_is_found(
    torch, machine, word, message, environment_that_says
):
    facts = {"gpus_per_node": 4, "gpu_type": "v100", **environment_that_says(torch=GOOD | torch), **machine}
    said = found(checks.check_cuda, case(**facts))
    assert said[0] == word and re.match(message, said[1])


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        *[
            (70, ["sm_70"], True),
            (75, ["sm_70"], True),
            (70, ["sm_75"], False),
            (90, ["sm_80"], False),
            (89, ["sm_80"], True),
        ],
        *[(90, ["compute_80"], True), (70, ["compute_80"], False), (100, ["sm_90", "compute_90"], True)],
        *[(90, ["sm_90a"], False), (70, [], False)],
    ],
)
def test_code_runs_on_its_generation_and_is_translated_for_newer_ones(capability, built_for, runs):
    assert runs_on(capability, built_for) == runs


def test_gradients_between_gpus_need_nccl(environment_that_says):
    facts = environment_that_says(torch=GOOD | {"nccl": None})
    assert found(checks.check_nccl, case(gpus_per_node=4, **facts))[0] == "FAIL"
    assert found(checks.check_nccl, case(**facts)) == ("OK", "not needed without GPUs")


@pytest.mark.parametrize(
    ("loaded", "mpirun", "word", "message"),
    [
        ("Open MPI v5.0.11", OPEN_MPI[0], "OK", "Open MPI v5.0.11, .*/bin/mpirun$"),
        (
            "Open MPI v5.0.11",
            OPEN_MPI[1],
            "WARN",
            "mpi4py loads Open MPI v5.0.11, but .*/mpirun is of Open MPI 4.1; use one",
        ),
        (
            "Open MPI v5.0.11",
            "HYDRA build details:",
            "FAIL",
            "mpi4py loads Open MPI v5.0.11, but .* is of MPICH or its kin; ",
        ),
        ("Intel(R) MPI Library 2021.19 for Linux* OS", "HYDRA build details:", "OK", "Intel"),
    ],
)
def test_the_mpirun_of_another_mpi_is_found(
    loaded, mpirun, word, message, environment_that_says, program, monkeypatch
):
    facts = environment_that_says(mpi={"version": loaded, "libraries": ["/lib/libmpi.so"]})
    monkeypatch.setenv("PATH", str(program("mpirun", f'echo "{mpirun}"')), prepend=":")
    said = found(checks.check_mpi, case(**facts))
    assert said[0] == word and re.match(message, said[1])


@pytest.mark.cluster
def test_mpich_starts_its_own_ranks_and_nobody_elses(mpich, monkeypatch):
    """For real: MPICH's mpirun, once with the mpi4py that loads MPICH, once with the one of here."""
    monkeypatch.setenv("PATH", f"{mpich}/bin", prepend=":")
    own = case(python=str(mpich))
    word, said = found(checks.check_mpi, own)
    assert word == "OK" and re.match(rf"MPICH Version: .*, {mpich}/bin/mpirun$", said)
    assert found(checks.check_ranks, own)[1].startswith("2 talk to each other")
    others = case()
    word, said = found(checks.check_mpi, others)
    assert word == "FAIL" and f", but {mpich}/bin/mpirun is of MPICH or its kin; " in said
    word, said = found(checks.check_ranks, others)
    assert word == "FAIL" and "the starter and mpi4py's MPI library are of different makes" in said


@pytest.mark.parametrize(
    ("loaded", "plugin", "word", "message"),
    [
        ("Open MPI v5.0.11", "pmix", "OK", "Open MPI v5.0.11, srun --mpi=pmix"),
        (
            "Open MPI v5.0.11",
            "pmix_v9",
            "FAIL",
            "mpi is pmix_v9, which this srun does not know; .* one of none, pmi2, pmix, pmix_v5",
        ),
        (
            "MPICH Version: 5.0.2",
            "pmix",
            "WARN",
            "mpi is pmix, but ranks of MPICH or its kin mostly meet by pmi2",
        ),
    ],
)
def test_srun_is_asked_for_the_way_that_ranks_meet(
    loaded, plugin, word, message, environment_that_says, program, monkeypatch
):
    facts = environment_that_says(mpi={"version": loaded, "libraries": ["/lib/libmpi.so"]})
    plugins = program(
        "srun",
        "printf 'MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n\\tpmix\\nspecific pmix plugin versions: "
        "pmix_v5\\n'",
    )
    monkeypatch.setenv("PATH", str(plugins), prepend=":")
    said = found(
        checks.check_mpi, case(starter="srun", scheduler="slurm", ranks_per_node=4, mpi=plugin, **facts)
    )
    assert said[0] == word and re.match(message, said[1])


def test_two_mpi_libraries_in_one_process_are_found(tmp_path):
    """A second one is really loaded: a library under such a name, by what every Python there runs first."""
    libz = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line
    )
    shutil.copy(libz, tmp_path / "libmpi.so.12")
    (tmp_path / "sitecustomize.py").write_text(
        f"import ctypes\nctypes.CDLL({str(tmp_path / 'libmpi.so.12')!r})\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    word, said = found(checks.check_one_mpi, case(environment={"PYTHONPATH": path}))
    assert (
        word == "FAIL"
        and "load 2 MPI libraries into one process: " in said
        and f"{tmp_path}/libmpi.so.12" in said
    )


@pytest.mark.parametrize(
    ("facts", "wanted", "word", "message"),
    [
        ({"version": None}, False, "OK", "not installed, not needed: world.gradients is ddp"),
        (
            {"version": None},
            True,
            "FAIL",
            "world.gradients is horovod, which is not installed; build it with scripts/install_horovod.sh",
        ),
        (
            {"version": "0.28.1", "mpi": True, "libraries": ["/a/libmpi.so"]},
            True,
            "OK",
            "0.28.1, built against /a/libmpi.so",
        ),
        (
            {"version": "0.28.1", "mpi": True, "libraries": ["/b/libmpi.so"]},
            True,
            "FAIL",
            "built against /b/libmpi.so, mpi4py against /a/",
        ),
        (
            {"version": "0.28.1", "mpi": True, "libraries": ["/b/libmpi.so"]},
            False,
            "WARN",
            "against /b/libmpi.so, mpi4py against /a/",
        ),
        (
            {"version": "0.28.1", "mpi": False, "libraries": []},
            True,
            "FAIL",
            "Horovod 0.28.1 is built without MPI, mpi4py against /a/",
        ),
    ],
)
def test_horovod_has_to_be_built_against_the_same_mpi(facts, wanted, word, message, environment_that_says):
    here = environment_that_says(
        horovod=facts, mpi={"version": "Open MPI v5.0.11", "libraries": ["/a/libmpi.so"]}
    )
    overrides = ["world.gradients=horovod"] if wanted else []
    said = found(checks.check_horovod, case("digits_kakurenbo", overrides, **here))
    assert said[0] == word and message in said[1]


def rank(number: int, cpus: list[int], gpu: str | None = None, scratch: dict | None = None) -> dict:
    return {
        "rank": number,
        "node": "n1",
        "cpus": cpus,
        "threads": len(cpus),
        "device": "cpu",
        "gpu": gpu,
        "scratch": scratch,
    }


@pytest.mark.parametrize(
    ("ranks", "machine", "word", "message"),
    [
        (
            [rank(0, [0, 1]), rank(1, [2, 3])],
            {"cores_per_node": 4},
            "OK",
            "a rank may use 2 hardware threads, computes with 2, has no GPU",
        ),
        ([rank(0, [0]), rank(1, [0])], {}, "WARN", "2 ranks on n1 share 1 of its hardware threads; "),
        (
            [rank(0, [0, 1]), rank(1, [2])],
            {"cores_per_node": 4},
            "WARN",
            "rank 1 on n1 may use 1 hardware threads, but own has 2 cores",
        ),
        (
            [rank(0, [0], "a"), rank(1, [1], "b")],
            {"gpus_per_node": 2},
            "OK",
            "a rank may use 1 hardware threads, computes with 1, has a GPU",
        ),
        (
            [rank(0, [0], "a"), rank(1, [1], "a")],
            {"gpus_per_node": 2},
            "FAIL",
            "2 ranks on n1 share 1 GPUs; start at most one",
        ),
        (
            [rank(0, [0], "a"), rank(1, [1])],
            {"gpus_per_node": 2},
            "FAIL",
            "rank 1 on n1 finds no GPU; ask for 2 GPUs on each node",
        ),
    ],
)
def test_ranks_that_stand_in_each_others_way_are_found(
    ranks, machine, word, message, environment_that_says, program, monkeypatch
):
    here = environment_that_says(world={"ranks": ranks})
    folder = program(
        "mpirun",
        f'[ "$1" = --version ] && echo "{OPEN_MPI[0]}" && exit\n"$(dirname "$0")/python" -m probes world',
    )
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    said = found(checks.check_binding, case(ranks=2, ranks_per_node=2, **here, **machine))
    assert said[0] == word and said[1].startswith(message)


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "file").touch()
    assert probes._scratch("$HERE/new/one").keys() == {"folder", "free"}
    assert probes._scratch("$HERE/file") == {"folder": f"{tmp_path}/file", "problem": "Not a directory"}
    assert probes._scratch("$NOT_HERE/a") == {"folder": "$NOT_HERE/a", "problem": "this variable is not set"}
    assert probes._scratch("") is None


@pytest.mark.parametrize("scheduler", ["none", "slurm"])
def test_scratch_that_only_the_nodes_have_is_no_failure_on_a_login_node(
    scheduler, environment_that_says, program, monkeypatch
):
    bad = {"folder": "$TMPDIR", "problem": "this variable is not set"}
    here = environment_that_says(world={"ranks": [rank(0, [0], scratch=bad), rank(1, [1], scratch=bad)]})
    folder = program(
        "mpirun",
        f'[ "$1" = --version ] && echo "{OPEN_MPI[0]}" && exit\n"$(dirname "$0")/python" -m probes world',
    )
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    said = found(checks.check_scratch, case(scratch="$TMPDIR", scheduler=scheduler, ranks_per_node=2, **here))
    assert said[0] == ("WARN" if scheduler == "slurm" else "FAIL")
    assert said[1].startswith("scratch $TMPDIR on n1: this variable is not set; ")


def test_srun_starts_no_ranks_on_a_login_node():
    alone = case(starter="srun", scheduler="slurm", ranks_per_node=4)
    assert found(checks.check_ranks, alone) == (
        "WARN",
        "srun starts ranks inside a job only; there, run kakurenbo doctor --ranks N",
    )


@pytest.mark.parametrize(
    ("overrides", "facts", "word", "message"),
    [
        (["data.drop_classes=[12]"], {}, "FAIL", "names class 12, but digits has classes 0 to 9"),
        (
            [],
            {"nodes": 500, "ranks_per_node": 4},
            "FAIL",
            "digits has 1437 samples for 2000 ranks; use at most one rank a sample",
        ),
        (
            ["data.placement=local"],
            {},
            "FAIL",
            "data.placement is local, but samples of digits are not files of their own",
        ),
    ],
)
def test_data_that_cannot_be_read_is_found(overrides, facts, word, message):
    said = found(checks.check_data, case("digits_kakurenbo", overrides, **facts))
    assert said[0] == word and message in said[1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: None, None),
        (lambda root: shutil.rmtree(root / "validation"), "validation"),
        (lambda root: os.truncate(root / "train" / "part_0000.h5", 3000), "part_0000.h5"),
    ],
    ids=["whole", "missing", "torn"],
)
def test_files_that_are_missing_or_torn_are_named(harm, message, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        with h5py.File(tmp_path / split / "part_0000.h5", "w") as file:
            file["inputs"] = np.zeros((8, 1, 16, 16), np.uint8)
            file["labels"] = np.arange(8)
    harm(tmp_path)
    files = yaml.safe_dump({"name": "hdf5", "path": str(tmp_path)}, default_flow_style=True)
    word, said = found(checks.check_data, case("digits_kakurenbo", [f"data={files}"]))
    if message is None:
        assert word == "OK" and said.startswith("hdf5: 8 samples, 8 for validation; some were read in ")
    else:
        assert word == "FAIL" and message in said and str(tmp_path) in said


SLURM = {"scheduler": "slurm", "ranks_per_node": 4, "queue": "gpu"}


@pytest.mark.parametrize(
    ("overrides", "facts", "word", "message"),
    [
        ([], {"nodes": 5}, "OK", "20 ranks, global batch 60"),
        (
            [],
            {"nodes": 16},
            "FAIL",
            "training.global_batch is 60, too small for 64 ranks x 1 accumulated batches; use at least 64",
        ),
        ([], {"ranks": 61}, "FAIL", "too small for 61 ranks"),
        (
            ["data.placement=local"],
            {},
            "FAIL",
            "data.placement is local, but own has no scratch folder; add scratch to its machine file",
        ),
        (
            ["training.precision=bf16"],
            {"gpus_per_node": 4, "gpu_type": "v100"},
            "WARN",
            "precision is bf16, which a v100 computes slowly",
        ),
        (
            ["training.precision=bf16"],
            {"gpus_per_node": 4, "gpu_type": "a100"},
            "OK",
            "4 ranks, global batch 60",
        ),
    ],
)
def test_a_job_that_does_not_fit_the_machine_is_found(overrides, facts, word, message):
    said = found(checks.check_job, case("digits_kakurenbo", overrides, **SLURM, **facts))
    assert said[0] == word and message in said[1]


@pytest.mark.parametrize(
    ("walltime", "word", "message"),
    [
        ("2h", "OK", "02:00:00, at most 21 times"),
        (
            "4m",
            "FAIL",
            "to leave 180 s before its end (grace_s of own), by Slurm up to 60 s earlier; give more",
        ),
        (
            "5m",
            "WARN",
            "--walltime 5m: a run is told to leave 180 s before its end, more than half of it; give more",
        ),
        ("2d", "FAIL", "--walltime 2d: the queue ends jobs after 24:00:00; give less"),
        ("bananas", "FAIL", "--walltime bananas: not a time; write 2h, 90m, 1d, or HH:MM:SS"),
    ],
)
def test_a_walltime_is_looked_at_with_a_job_or_without(walltime, word, message, program, monkeypatch):
    monkeypatch.setenv(
        "PATH", str(program("sinfo", "printf 'all*|up|infinite\\ngpu|up|1-00:00:00\\n'")), prepend=":"
    )
    said = found(checks.check_walltime, case(walltime=walltime, **SLURM))
    assert said[0] == word and message in said[1]


@pytest.mark.parametrize(
    ("sinfo", "queue", "word", "message"),
    [
        ("printf 'all*|up|infinite\\ngpu|up|30:00\\n'", None, "OK", "slurm answers, queue all"),
        (
            "printf 'all*|up|infinite\\ngpu|up|30:00\\n'",
            "gpu",
            "OK",
            "slurm answers, queue gpu, jobs of at most 00:30:00",
        ),
        (
            "printf 'all*|up|infinite\\ngpu|up|30:00\\n'",
            "gpus",
            "FAIL",
            "queue is gpus, but Slurm has no such partition; did you mean",
        ),
        (
            "printf 'all|up|infinite\\n'",
            None,
            "FAIL",
            "Slurm has no default partition; set queue in the machine file, known: all",
        ),
        ("printf 'all*|drain|infinite\\n'", None, "FAIL", "partition all is drain; wait"),
        (
            "echo 'Unable to contact slurm controller' >&2; exit 1",
            None,
            "FAIL",
            "sinfo gives no answer: Unable to contact slurm controller; try again later",
        ),
    ],
)
def test_slurm_is_asked_for_the_partition(sinfo, queue, word, message, program, monkeypatch):
    monkeypatch.setenv("PATH", str(program("sinfo", sinfo)), prepend=":")
    said = found(checks.check_scheduler, case(**SLURM | {"queue": queue}))
    assert said[0] == word and said[1].startswith(message)


@pytest.mark.parametrize(
    ("queue", "word", "message"),
    [
        (None, "OK", "pbs answers, queue workq, jobs of at most 24:00:00"),
        ("night", "OK", "pbs answers, queue night"),
        ("nights", "FAIL", "qstat refuses: qstat: Unknown queue nights; "),
    ],
)
def test_pbs_is_asked_for_the_queue(queue, word, message, tmp_path, monkeypatch):
    site = PbsSite(tmp_path / "pbs", queues={"workq": {"resources_max.walltime": "24:00:00"}, "night": {}})
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    said = found(checks.check_scheduler, case(scheduler="pbs", ranks_per_node=2, queue=queue))
    assert said[0] == word and said[1].startswith(message)


@pytest.mark.parametrize(
    ("facts", "nodes", "message"),
    [
        ({"chunk": ["ngpus=1"]}, 1, "a chunk asks for ngpus, which no node of PBS has"),
        ({}, 3, "--nodes is 3, but PBS has 2 such nodes"),
        (
            {"starter": "torchrun"},
            2,
            "here: torchrun starts on 2 nodes through Slurm only, but scheduler is pbs",
        ),
    ],
)
def test_doctor_knows_what_pbs_would_keep_for_ever(facts, nodes, message, tmp_path, monkeypatch):
    for name, value in PbsSite(tmp_path / "pbs").environment.items():
        monkeypatch.setenv(name, value)
    here = case(nodes=nodes, name="here", scheduler="pbs", ranks_per_node=2, **facts)
    word, said = found(checks.check_scheduler, here)
    assert word == "FAIL" and said.startswith(message)


def test_doctor_loads_the_modules():
    word, said = found(checks.check_modules, case(modules=["none_such"]))
    assert word == "FAIL" and said.startswith("module load none_such: fails in a login shell (")


@pytest.mark.parametrize(("scheduler", "missing"), [("slurm", "sinfo"), ("pbs", "qstat")])
def test_a_batch_system_that_is_not_here_is_found(scheduler, missing, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = found(checks.check_scheduler, case(scheduler=scheduler, ranks_per_node=4))
    assert said == (
        "FAIL",
        f"no {missing} on the PATH; run this where the batch system is, or choose another --machine",
    )


def test_the_reason_of_a_probe_is_no_remark_of_srun(tmp_path):
    remark = "srun: cluster configuration lacks support for cpu binding"
    for said, reason in [
        (f"{remark}\\nsrun: error: n1: task 0: Exited with exit code 7", "srun: error: n1: task 0: Exited"),
        (f"{remark}\\nsome library is missing", "some library is missing"),
        (f"{remark}\\n", "no message"),
    ]:
        with pytest.raises(UserError, match=rf"^x: no result, but exit code 7 \({reason}"):
            run_probe(["sh", "-c", f"printf '{said}' >&2; exit 7"], {}, "x", 30)


PEERS = """\
 \tGPU0\tGPU1\tGPU2\t
 GPU0\tX\tOK\tCNS\t
 GPU1\tOK\tX\tOK\t
 GPU2\tCNS\tOK\tX\t

Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
"""
NCCL_LOG = """\
node1:12:12 [0] NCCL INFO Bootstrap: Using ib0:10.0.0.1<0>
node1:12:40 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.0.0.1<0>
node1:12:40 [0] NCCL INFO Using network IB
"""  # as of NCCL 2.1x to 2.2x
SOCKETS = "node1:12:40 [0] NCCL INFO Using network Socket\n"
MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,localflock 0 0
10.0.0.1@o2ib:/work /work lustre rw,lazystatfs 0 0
server:/home /home\\040of\\040all nfs4 rw,local_lock=none 0 0
"""


def test_parsers_of_sites_answers():
    assert site_checks.pairs_without_access(PEERS) == [(0, 2)]
    assert site_checks.pairs_without_access("Failed to initialize NVML: Driver mismatch") is None
    assert site_checks.nccl_network(NCCL_LOG) == "IB" and site_checks.nccl_network("") is None
    kinds = {"/scratch/x": "lustre", "/home of all/me": "nfs4", "/srv": "ext4"}
    assert {path: site_checks.file_system(Path(path), MOUNTS)[0] for path in kinds} == kinds
    assert "localflock" in site_checks.file_system(Path("/scratch"), MOUNTS)[1]


@pytest.mark.parametrize(
    ("check", "ranks", "facts", "expected"),
    [
        ("clocks", [("a", 1.0), ("b", 1.3)], {}, ("OK", "2 nodes agree within 0.30 s")),
        (
            "clocks",
            [("a", 1.0), ("b", 9.3)],
            {},
            ("WARN", "the clock of b is 8.3 s ahead of that of a; tell"),
        ),
        ("energy", [("a", 1.0)], {}, ("OK", "joules of cpu and gpu can be read")),
        ("network", [("a", 1.0), ("b", 1.0)], {"nccl_log": NCCL_LOG}, ("OK", "NCCL uses IB")),
        ("network", [("a", 1.0), ("b", 1.0)], {"nccl_log": SOCKETS}, ("WARN", "NCCL has fallen back to")),
    ],
)
def test_what_ranks_found_of_a_site(check, ranks, facts, expected):
    machine = Machine(name="here", starter="mpirun", ranks_per_node=1, gpus_per_node=1)
    findings = Findings(machine, Path("machine.yaml"), n_ranks=2)
    about = [{"node": node, "clock": clock, "energy": ["cpu", "gpu"]} for node, clock in ranks]
    findings.__dict__["world"] = {"ranks": about, **facts}
    word, said = found(getattr(site_checks, f"check_{check}"), findings)
    assert word == expected[0] and said.startswith(expected[1])


def test_the_file_system_of_runs_is_told_with_its_free_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to("elsewhere")
    findings = Findings(Machine(name="here", starter="mpirun"), Path("machine.yaml"))
    said = found(site_checks.check_runs, findings)[1]
    free = shutil.disk_usage(tmp_path).free
    assert said.startswith(f"{tmp_path}/elsewhere is ") and f" {in_words(free)[:2]}" in said


@pytest.mark.parametrize(
    ("facts", "sets", "word", "message"),
    [
        (
            {"learner": 2e6, "samples": 10**5},
            [],
            "OK",
            "4 checkpoints of 3.3 MB (record.keep, the best, the one",
        ),
        ({"learner": 2e6, "samples": 10**5}, ["record.keep=5"], "OK", "7 checkpoints of 3.3 MB ("),
        ({"learner": 2e6, "samples": 10**5}, [], "OK", "being written), and 45.6 MB of ledger files; "),
        ({"learner": 2e6, "samples": 10**5}, ["record.ledger=false"], "OK", "being written); "),
        (
            {"learner": 1e18, "samples": 10**5},
            [],
            "WARN",
            " free, but the run needs 4e+06 TB: 4 checkpoints of",
        ),
        ({"problem": "no such file"}, [], "OK", "not known: no such file"),
    ],
)
def test_free_space_is_compared_with_what_the_whole_run_writes(
    facts, sets, word, message, environment_that_says, tmp_path
):
    here = environment_that_says(checkpoint={"row": 13, **facts})
    findings = replace(case("digits_kakurenbo", sets, **here), run=tmp_path / "runs" / "mine")
    said = found(site_checks.check_space, findings)
    assert said[0] == word and message in said[1]
    assert "problem" in facts or str(tmp_path) in said[1]


def test_what_is_found_is_kept_in_a_run_directory_where_a_run_may_begin(tmp_path, monkeypatch):
    def doubt(findings):
        raise CheckWarning("2 ranks on one core")

    checked = [("python", lambda findings: "3.11"), ("binding", doubt), ("modules", lambda findings: None)]
    monkeypatch.setattr("kakurenbo_hpc.cluster.doctor.run.CHECKS", checked)
    run = tmp_path / "runs" / "mine"
    assert diagnose("local", None, None, None, None, run) == 0
    kept = json.loads((run / "preflight.json").read_text())
    assert kept["machine"] == "local" and kept["checks"] == [
        {"result": "OK", "check": "python", "message": "3.11"},
        {"result": "WARN", "check": "binding", "message": "2 ranks on one core"},
    ]
    check_run(run, None, resume=False)
