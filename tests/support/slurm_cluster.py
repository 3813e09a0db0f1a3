"""A Slurm of two nodes, both this machine: real slurmctld, slurmd and munged, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")

CONF = """\
ClusterName=here
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
# PMIx refuses a step whose number another Slurm of this machine has left a folder of.
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
KillWait=5
# A job that was requeued may not begin before twice this and a second.
SlurmctldTimeout=10
SlurmdTimeout={node_timeout_s}
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=4 RealMemory=4000
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=60 OverSubscribe=NO
PartitionName=short Nodes=n[1-2] MaxTime=5
PartitionName=one Nodes=n[1-2] MaxNodes=1
PartitionName=down Nodes=n[1-2] State=DOWN
"""


class SlurmHere:
    """Starts in a folder, stops its daemons at the end.

    conf: for SLURM_CONF. node_timeout_s: after which a node that does not answer is down.
    """

    def __init__(self, folder: Path, node_timeout_s: int = 60):
        self.folder, self.conf, self._node_timeout_s = folder, folder / "slurm.conf", node_timeout_s
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> SlurmHere:
        for name in ("state", "tmp-n1", "tmp-n2"):
            (self.folder / name).mkdir()
        self.conf.write_text(
            CONF.format(folder=self.folder, ports=free_ports(3), node_timeout_s=self._node_timeout_s)
        )
        self._munge()
        self._start_accounts()
        self._start("slurmctld", "-D", "-f", self.conf)
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-f", self.conf, "-N", node)
        self._wait_for(
            lambda: self.say("sinfo", "--noheader", "--format=%D %t") == "2 idle", "two idle nodes"
        )
        return self

    def __exit__(self, *problem: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.conf)}

    def say(self, *words: str) -> str:
        """Run one of Slurm's commands and return what it said, whatever became of it."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let slurmctld give no answer."""
        [controller] = [one for one in self._daemons if "slurmctld" in str(one.args)]
        controller.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            controller.send_signal(signal.SIGCONT)

    def kill_daemon(self, node: str) -> None:
        """Kill the slurmd of a node; its steps live on."""
        [daemon] = [one for one in self._daemons if one.args[-1] == node]
        daemon.kill()
        daemon.wait()

    def kill_node(self, node: str) -> None:
        """Kill all that runs on a node: its slurmd, its steps and their ranks."""
        self.kill_daemon(node)
        here = {"SLURM_CONF": str(self.conf), "SLURMD_NODENAME": node}
        ranks = [one for one in psutil.process_iter() if here.items() <= _environment(one).items()]
        steps = {parent for rank in ranks for parent in rank.parents() if "slurmstepd" in parent.name()}
        for process in {*ranks, *steps}:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _start_accounts(self) -> None:
        """Start what keeps accounts, and add its lines to slurm.conf."""
        return

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = {"key-file": key, "socket": self.folder / "munge.socket"}
        names |= {f"{what}-file": self.folder / f"munge.{what}" for what in ("pid", "log", "seed")}
        self._start(
            "munged", "--foreground", "--force", *(f"--{option}={path}" for option, path in names.items())
        )
        self._wait_for((self.folder / "munge.socket").exists, "munged")

    def _start(self, *words: object) -> None:
        log = open(self.folder / f"{len(self._daemons)}-{words[0]}.out", "wb")  # noqa: SIM115, the daemon's to keep
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        daemon = subprocess.Popen(
            [shutil.which(str(words[0]), path=path), *map(str, words[1:])],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self._daemons.append(daemon)

    def _wait_for(self, ready, what: str) -> None:
        give_up = time.monotonic() + 60
        while not ready():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > give_up:
                logs = "\n".join(
                    path.read_text(errors="replace")[-2000:]
                    for path in sorted(self.folder.glob("*.[lo][ou][gt]"))
                )
                self.__exit__()
                raise RuntimeError(f"no {what}; ended: {ended}\n{logs}")
            time.sleep(0.1)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def slurm_or_skip(folder: Path, node_timeout_s: int = 60) -> SlurmHere:
    """Return a Slurm that is yet to be entered; skips the test on a machine without one, never in CI."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if not os.environ.get("CI") and (missing or os.geteuid() != 0):
        pytest.skip(f"no {', '.join(missing)} here" if missing else "starting Slurm's daemons needs root")
    return SlurmHere(folder, node_timeout_s)


def free_ports(n: int, least: int = 20000) -> list[int]:
    """Return n ports in a row, from ``least`` on, that nobody listens on."""
    for first in range(least + os.getpid() % 1000 * 10, 60000, n):
        try:
            sockets = [socket.create_server(("127.0.0.1", first + i)) for i in range(n)]
        except OSError:
            continue
        for one in sockets:
            one.close()
        return [first + i for i in range(n)]
    raise RuntimeError("no free ports")
