"""Copies of the environment on the nodes' own disks: packed once, unpacked once a node, never in the way."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.environments import environment_like_this

from kakurenbo_hpc.cluster import unpack_environment
from kakurenbo_hpc.cluster.machine import Machine
from kakurenbo_hpc.cluster.stage_environment import pack_environment, staged_command
from kakurenbo_hpc.cluster.unpack_environment import LAST, unpack
from kakurenbo_hpc.errors import UserError

SHOW = "import sys; print(sys.prefix, sys.flags.isolated)"


@pytest.fixture
def prefix(tmp_path, monkeypatch) -> Path:
    """A small environment, as if it were the one of these tests."""
    folder = environment_like_this(tmp_path / "shared environment", sees_this=False)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "old-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "prefix", str(folder))
    monkeypatch.setattr(sys, "executable", f"{folder}/bin/python")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(packages))
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    return Machine(name="here", starter="mpirun", stage_environment="$NODE_DISK/x")


def program(machine: Machine) -> list[str]:
    return staged_command(machine, [sys.executable, "-c", SHOW])


def start(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def archives(prefix: Path) -> list[str]:
    return sorted(path.name for path in (prefix / ".staged").glob("*.tar*"))


def test_a_machine_without_it_starts_as_it_did(prefix):
    plain = Machine(name="here", starter="mpirun")
    assert pack_environment(plain) is plain and program(plain) == [sys.executable, "-c", SHOW]
    assert not (prefix / ".staged").exists()


def test_the_program_runs_in_the_copy_of_its_node(prefix, machine, tmp_path):
    pack_environment(machine)
    done = start(program(machine))
    [archive] = archives(prefix)
    copy = tmp_path / "node" / "x" / f"kakurenbo-{os.getuid()}" / archive.removesuffix(".tar")
    assert (done.stdout, done.stderr) == (f"{copy} 0\n", "")
    assert copy.parent.stat().st_mode & 0o077 == 0
    assert not (copy / ".staged").exists()


def test_it_is_packed_once_and_again_when_a_package_has_come(prefix, machine, capsys):
    pack_environment(machine)
    assert "packed into" in capsys.readouterr().out
    before = archives(prefix)
    pack_environment(machine)
    assert (capsys.readouterr().out, archives(prefix)) == ("", before)
    (Path(sysconfig.get_path("purelib")) / "new-1.0.dist-info").mkdir()
    torn = prefix / ".staged" / "x.tar.1.part"
    torn.touch()
    pack_environment(machine)
    assert len(before) == len(archives(prefix)) == 1 and before != archives(prefix)


def test_what_stays_where_it_is_is_named(prefix, machine, capsys):
    found = Path(sysconfig.get_path("purelib")) / "old-1.0.dist-info"
    (found / "METADATA").write_text("Name: old\n")
    (found / "direct_url.json").write_text('{"url": "file:///home/me/old", "dir_info": {"editable": true}}')
    config = prefix / "pyvenv.cfg"
    config.write_text(config.read_text().replace("packages = false", "packages = true"))
    pack_environment(machine)
    wanted = f"old (file:///home/me/old), packages of {sys.base_prefix}\n"
    assert capsys.readouterr().out.endswith(f"  ranks import from where they are: {wanted}")


def test_ranks_of_a_node_unpack_once_and_the_others_wait(prefix, machine, tmp_path, monkeypatch):
    pack_environment(machine)
    calls, extract = [], unpack_environment._extract
    monkeypatch.setattr(unpack_environment, "_extract", lambda *words: (calls.append(1), extract(*words)))
    archive = str(next((prefix / ".staged").glob("*.tar")))
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: unpack(archive, str(tmp_path / "node")), range(8)))
    assert (len(copies), len(calls)) == (1, 1)
    assert (Path(copies.pop()) / LAST).exists()


def test_of_a_node_where_it_fails_one_rank_says_why(prefix, machine, tmp_path, monkeypatch):
    def refuse(*words: str) -> None:
        time.sleep(0.3)
        raise OSError("No space left on device")

    def said(_: int) -> str:
        with pytest.raises((OSError, unpack_environment.NotUnpacked)) as raised:
            unpack("x.tar", str(tmp_path / "node"))
        return str(raised.value)

    monkeypatch.setattr(unpack_environment, "_extract", refuse)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(said, range(4))) == ["", "", "", "No space left on device"]


def cut_off(archive: Path, node: Path) -> None:
    """Without its last files, at the border of a file: tar alone would not tell."""
    with tarfile.open(archive) as tar:
        offset = tar.getmembers()[-1].offset
    os.truncate(archive, offset)


def somebody_elses(archive: Path, node: Path) -> None:
    (node / "x").mkdir(parents=True)
    (node / "x" / f"kakurenbo-{os.getuid()}").symlink_to("/tmp")


def not_to_be_run(archive: Path, node: Path) -> None:
    """As on a disk that is mounted noexec, or where a relative link leaves the environment."""
    (Path(unpack(str(archive), str(node / "x"))) / "bin" / "python").unlink()


HARMS = {
    "not to be run": (not_to_be_run, "cannot be run there (mounted noexec?)"),
    "cut off": (cut_off, "is damaged (cut off); remove it"),
    "cut inside a file": (lambda archive, node: os.truncate(archive, 15_000), "is damaged ("),
    "no archive": (lambda archive, node: archive.write_bytes(b"<html>"), "is damaged ("),
    "gone": (lambda archive, node: archive.unlink(), "No such file or directory"),
    "no folder": (lambda archive, node: node.touch(), "Not a directory"),
    "somebody else's": (somebody_elses, "belongs to somebody else"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_where_it_cannot_be_unpacked_ranks_start_from_the_shared_one(harm, prefix, machine, tmp_path):
    pack_environment(machine)
    do, said = HARMS[harm]
    do(next((prefix / ".staged").glob("*.tar")), tmp_path / "node")
    done = start(program(machine))
    warning, shown = done.stdout.splitlines()
    assert warning.startswith(f"warning: {os.uname().nodename} imports from the shared file system: ")
    assert said in warning and (shown, done.stderr) == (f"{prefix} 0", "")
    assert not list(tmp_path.glob("node/x/*/*.part"))


def test_what_a_cleaner_left_of_a_copy_is_made_again(prefix, machine):
    pack_environment(machine)
    copy = Path(start(program(machine)).stdout.split()[0])
    (copy / LAST).unlink()
    (copy / "pyvenv.cfg").unlink()
    assert start(program(machine)).stdout == f"{copy} 0\n" and (copy / "pyvenv.cfg").exists()


def test_what_somebody_else_has_packed_is_used_without_writing(prefix, machine, capsys):
    pack_environment(machine)
    capsys.readouterr()
    (prefix / ".staged" / "lock").unlink()
    (prefix / ".staged" / "lock").mkdir()  # root may write anywhere, but not open a folder
    assert pack_environment(machine) is machine and capsys.readouterr().out == ""


def test_a_variable_that_the_node_lacks_is_one_line(prefix, machine, monkeypatch):
    pack_environment(machine)
    monkeypatch.delenv("NODE_DISK")
    done = start(program(machine))
    wanted = "does not set that variable; give a folder\n"
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("kakurenbo: stage_environment is $NODE_DISK/x, but ")
    assert done.stderr.endswith(wanted)


def test_without_room_for_the_pack_ranks_start_as_they_did(prefix, machine, capsys):
    (prefix / ".staged").touch()
    assert pack_environment(machine).stage_environment is None
    assert capsys.readouterr().out.startswith(f"warning: {prefix}: cannot be packed (")


def test_the_systems_python_is_no_environment(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    for refuses in (pack_environment, program):
        with pytest.raises(UserError, match="this Python is the system's .*; make one with python -m venv"):
            refuses(machine)


def test_a_container_has_a_python_of_its_own():
    container = {"runtime": "apptainer", "image": "k.sif"}
    with pytest.raises(ValueError, match="container and stage_environment are both set, .*; remove one"):
        Machine(name="x", starter="mpirun", stage_environment="/tmp", container=container)
