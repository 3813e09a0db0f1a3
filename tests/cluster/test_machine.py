"""Machine files: the ones that are shipped are right, and each mistake is one line."""

import itertools
import os
import shlex
import sys
from pathlib import Path

import pytest

from kakurenbo_hpc.cluster.container import Container, inside_container
from kakurenbo_hpc.cluster.launchers import launcher_line
from kakurenbo_hpc.cluster.launchers.launcher import Layout
from kakurenbo_hpc.cluster.machine import Machine, detect_machine, read_machine
from kakurenbo_hpc.cluster.request import Request
from kakurenbo_hpc.cluster.submit import submit
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import find_job, launch_dir
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection import METHODS

SHIPPED = sorted((launch_dir() / "machines").glob("*.yaml"))


def test_local_comes_with_the_package():
    assert read_machine("local") == Machine(name="local", starter="mpirun")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_machine_is_right_and_explains_each_key(path):
    assert read_machine(str(path)) == read_machine(path.stem)
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, line in keys(lines).items():
        assert lines[line - 1].startswith("# "), f"{key} has no comment"


def test_each_key_stands_in_a_shipped_machine():
    shown = set().union(*(keys(path.read_text(encoding="utf-8").splitlines()) for path in SHIPPED))
    assert shown == set(Machine.model_fields)


def keys(lines: list[str]) -> dict[str, int]:
    """Return the line of each key that is given, or shown behind a '# '."""
    return {
        key: i
        for i, line in enumerate(lines)
        for key in Machine.model_fields
        if line.removeprefix("# ").startswith(f"{key}:")
    }


def test_a_machine_of_ones_own_is_named_by_its_path(tmp_path):
    own = tmp_path / "own machine.yaml"
    own.write_text(
        'name: own\nstarter: mpirun\nranks_per_node: 4\nenvironment: {NCCL_DEBUG: "INFO", EMPTY: ""}\n'
    )
    assert read_machine(str(own)) == Machine(
        name="own", starter="mpirun", ranks_per_node=4, environment={"NCCL_DEBUG": "INFO", "EMPTY": ""}
    )


def test_the_home_folder_may_stand_for_itself_in_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("name: own\nstarter: mpirun\npython: ~/venv\n")
    assert read_machine(str(tmp_path / "own.yaml")).python == f"{tmp_path}/venv"


def test_a_folder_of_that_name_does_not_hide_a_shipped_machine(tmp_path, monkeypatch):
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_machine("local").name == "local"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "locl",
            "locl: no such machine file, and no machine of that name comes with the package; did you mean "
            "local?",
        ),
        ("/none/local.yaml", "/none/local.yaml: no such machine file, .*; did you mean local"),
        ("", ": no such machine file, .*; known: .*local"),
        ("x" * 5000, "x: no such machine file, .*; known: .*local"),
    ],
)
def test_an_unknown_machine_names_the_nearest(name, said):
    with pytest.raises(JobError, match=said) as raised:
        read_machine(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("starter: mpirun", "name is missing; add it"),
        ("name: x", "starter is missing; add it"),
        ("name: 3\nstarter: mpirun", "name is 3, but .*must be a string"),
        (
            "name: x\nstarter: srn",
            "starter is 'srn', but there is no such launcher; did you mean srun.*\\?$",
        ),
        ("name: x\nstarter: srun", "starter is srun, but scheduler is none; set it to slurm"),
        (
            "name: x\nstarter: mpirun\nscheduler: lsf",
            "scheduler is 'lsf', but there is no such scheduler; known: flux, none, pbs, slurm$",
        ),
        (
            "name: x\nstarter: mpirun\nscheduler: slurm",
            "scheduler is slurm, but ranks_per_node is missing; add it",
        ),
        (
            "name: x\nstarter: mpirun\nmpi: pmix",
            "mpi is pmix, but starter mpirun does not use it; remove mpi",
        ),
        (
            "name: x\nstarter: mpirun\nchunk: [ngpus=4]",
            "chunk is an entry of PBS's select, but scheduler is none; remove chunk",
        ),
        ("name: x\nstarter: mpirun\nqueue: a b", "queue is 'a b', but must be one word"),
        ("name: x\nstarter: mpirun\naccount: $(id)", "account is '\\$\\(id\\)', but must be one word"),
        ("name: x\nstarter: mpirun\nmodules: [-l]", "modules.0 is '-l', but must be one word"),
        ('name: x\nstarter: mpirun\nextra: ["a\\nb"]', "extra.0 is 'a.*b', but must be one line"),
        (
            "name: x\nstarter: mpirun\nranks_per_node: 5\ngpus_per_node: 4",
            "ranks_per_node is 5, but gpus_per_node is 4; start at most",
        ),
        (
            "name: x\nstarter: mpirun\ngpu_numa: [0]\ngpus_per_node: 2",
            "gpu_numa names 1 GPUs, but gpus_per_node is 2; give one",
        ),
        ("name: x\nstarter: mpirun\nmemory_gib: 360GB", "memory_gib is '360GB', but .*must be an integer"),
        (
            "name: x\nstarter: mpirun\nranks_per_nod: 4",
            "unknown key ranks_per_nod; did you mean ranks_per_node?",
        ),
        (
            "name: x\nstarter: mpirun\nranks_per_node: 0",
            "ranks_per_node is 0, but must be greater than or equal to 1",
        ),
        ("name: x\nstarter: mpirun\nranks_per_node: '4'", "ranks_per_node is '4', but .*must be an integer"),
        ("name: x\nstarter: mpirun\nenvironment: {A: 1}", "environment.A is 1, but .*must be a string"),
        (
            "name: x\nstarter: mpirun\nenvironment: [A]",
            "environment is \\['A'\\], but .*must be a dictionary",
        ),
        (
            "name: x\nstarter: mpirun\nenvironment: {'A B': c}",
            "environment: 'A B' is not the name of a variable; use letters",
        ),
        (
            "name: x\nstarter: mpirun\nenvironment: {'A=$(x)': c}",
            "environment: 'A=\\$\\(x\\)' is not the name of a variable",
        ),
        (
            'name: x\nstarter: mpirun\nenvironment: {A: "b\\0c"}',
            "environment: the value of A contains a null character; remove it",
        ),
        (
            "name: x\nstarter: mpirun\ncontainer: foo",
            "container is 'foo', but must be a section of keys; write container: {runtime: ..., image: ...}$",
        ),
        (
            "name: x\nstarter: mpirun\ncontainer: {runtime: pyxis, image: k, binds: ['/a,/b']}",
            "container: binds has '/a,/b', but pyxis takes a comma for the end of a bind; give each folder",
        ),
        ("name: x\nname: y", "key name stands twice, line 2"),
        ("- name", "found \\['name'\\], but a mapping"),
        (
            "name: x\nstarter: mpirun\npython: venv/here",
            "python is 'venv/here', but must be the absolute path of a folder, or begin with",
        ),
        ("name: [", "not valid YAML"),
        ("", "found None, but a mapping"),
    ],
)
def test_a_bad_machine_file_is_one_line(text, said, tmp_path):
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=said) as raised:
        read_machine(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


SITES = ("frontier", "lumi_g", "perlmutter", "polaris")


@pytest.mark.parametrize("name", SITES)
def test_the_script_of_a_site_is_golden(name, tmp_path, monkeypatch, capsys):
    """After a wanted change: GOLDEN=write pytest tests/cluster/test_machine.py, and read the diff."""
    monkeypatch.chdir(tmp_path)

    def read(overrides):
        return read_job(find_job("digits_everything"), overrides, DATASETS, METHODS)

    sets = ("training.global_batch=64",)
    request = Request(machine=name, nodes=(2,), walltime="2h", account="abc123", overrides=sets)
    assert submit(read, request, dry_run=True) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path), "HERE")
    found = printed.replace(str(Path(sys.executable).parent), "PYTHON")
    golden = Path(__file__).parents[1] / "golden" / f"site_{name}.sh"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()


@pytest.mark.parametrize("name", SITES)
def test_each_line_of_a_site_quotes_its_source(name):
    path = launch_dir() / "machines" / f"{name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, line in keys(lines).items():
        above = itertools.takewhile(lambda text: text.startswith("# "), reversed(lines[:line]))
        quoted = '"' in "".join(above) or key in ("name", "untried")
        assert quoted, f"{key} quotes no source"
    assert read_machine(name).untried


@pytest.mark.parametrize(
    ("host", "machine"),
    [
        ("login12.frontier.olcf.ornl.gov", "frontier"),
        ("lumi-uan02.csc.fi", "lumi_g"),
        ("uan04", "lumi_g"),
        ("polaris-login-01.hsn.cm.polaris.alcf.anl.gov", "polaris"),
        ("login07.chn.perlmutter.nersc.gov", "perlmutter"),
        ("login07", None),
        ("login12.frontier.example.org", None),
        ("laptop", None),
    ],
)
def test_a_login_node_is_known_by_its_name(host, machine):
    assert detect_machine(host) == machine


PROGRAM = [sys.executable, "-m", "kakurenbo_hpc.cli", "train", "job.yaml"]


def contained(runtime, starter="srun", **more):
    container = {"runtime": runtime, "image": "/images/k.sif", "binds": ["/data", "/a:/b"], **more}
    facts = {"scheduler": "slurm" if starter == "srun" else "none", "ranks_per_node": 4, "gpus_per_node": 4}
    return Machine(name="here", starter=starter, container=Container(**container), **facts)


def test_ranks_start_inside_a_container():
    inside = "python -m kakurenbo_hpc.cli train job.yaml"
    apptainer = inside_container(contained("apptainer", options=["--nv"]), PROGRAM)
    assert shlex.join(apptainer) == (f"apptainer exec --nv --bind /data --bind /a:/b /images/k.sif {inside}")
    line = str(launcher_line(contained("pyxis"), Layout(8, 2), PROGRAM, {}))
    assert line.startswith("srun --nodes=2 --ntasks=8 ")
    flags = "--container-image=/images/k.sif --container-mounts=/data:/data,/a:/b"
    assert line.endswith(f"{flags} {inside}")
    with pytest.raises(ValueError, match="runtime is pyxis, but starter mpirun does not start it"):
        contained("pyxis", "mpirun")


def test_pals_binds_by_depth_unless_ranks_bind_themselves(tmp_path, monkeypatch):
    (tmp_path / "mpiexec").write_text("#!/bin/sh\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = {"name": "x", "scheduler": "pbs", "starter": "pals", "ranks_per_node": 4, "cores_per_node": 32}
    line = launcher_line(Machine(**facts), Layout(8, 2), ["train"], {})
    assert str(line) == f"{tmp_path}/mpiexec -n 8 --ppn 4 --depth=8 --cpu-bind depth train"
    numa = {"gpus_per_node": 4, "gpu_numa": [3, 2, 1, 0]}
    line = launcher_line(Machine(**facts, **numa), Layout(8, 2, ("a", "b")), ["train"], {})
    assert str(line) == f"{tmp_path}/mpiexec -n 8 --ppn 4 --hosts a,b --cpu-bind none train"
