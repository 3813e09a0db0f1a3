import json

import pytest

from kakurenbo_hpc.core import cpu_topology
from kakurenbo_hpc.core.cpu_topology import (
    count_physical_cores,
    format_cpu_list,
    group_by_core,
    parse_cpu_list,
)
from kakurenbo_hpc.rundir.provenance import write_provenance


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Three cores of two hardware threads are online, a fourth is not; this process may use one."""
    monkeypatch.setattr(cpu_topology, "_CPUS", tmp_path)
    monkeypatch.setattr(cpu_topology.os, "sched_getaffinity", lambda process: {1, 4})
    (tmp_path / "online").write_text("0-5\n")
    for thread in range(6):
        (tmp_path / f"cpu{thread}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{thread}/topology/thread_siblings_list").write_text(
            f"{thread % 3},{thread % 3 + 3}\n"
        )
    (tmp_path / "cpu6").mkdir()
    return tmp_path


def test_hardware_threads_of_one_core_count_once(machine):
    assert group_by_core([0, 1, 2, 3, 4, 5]) == [[0, 3], [1, 4], [2, 5]]
    assert (count_physical_cores(), count_physical_cores(of_machine=True)) == (1, 3)


def test_where_the_kernel_does_not_tell_hardware_threads_count(machine, monkeypatch):
    monkeypatch.setattr(cpu_topology, "_CPUS", machine / "missing")
    monkeypatch.setattr(cpu_topology.os, "cpu_count", lambda: 7)
    assert (count_physical_cores(), count_physical_cores(of_machine=True)) == (2, 7)


def test_provenance_names_the_cores_of_the_machine_not_of_the_process(machine, tmp_path):
    write_provenance(tmp_path, {})
    assert json.loads((tmp_path / "provenance.json").read_text())["physical_cores"] == 3


def test_numbers_survive_the_kernels_notation():
    assert parse_cpu_list("0-2,7,\n") == {0, 1, 2, 7} and parse_cpu_list("\n") == set()
    assert format_cpu_list({0, 1, 2, 7}) == "0-2,7"
