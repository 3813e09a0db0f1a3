"""A Slurm with accounting: slurmdbd and MariaDB beside the daemons of SlurmHere, in the same folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .slurm_cluster import SlurmHere, free_ports, slurm_or_skip

CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
"""

DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
"""

GRANT = "create database accounts" + "".join(
    f"; grant all on accounts.* to 'slurm'@'{host}' identified by 'slurm'"
    for host in ("127.0.0.1", "localhost")
)


class SlurmWithAccounts(SlurmHere):
    """Knows the account ``project`` of root, its default, and no other."""

    def _start_accounts(self) -> None:
        database_port, port = free_ports(2, least=30000)
        data, socket = self.folder / "database", self.folder / "database.socket"
        install = ["mariadb-install-db", "--user=root", f"--datadir={data}", "--skip-test-db"]
        subprocess.run(
            [*install, "--auth-root-authentication-method=normal"], check=True, stdout=subprocess.DEVNULL
        )
        where = [f"--datadir={data}", f"--socket={socket}", f"--port={database_port}"]
        self._start("mariadbd", "--no-defaults", "--user=root", *where, "--bind-address=127.0.0.1")
        client = ["mariadb", "--no-defaults", f"--socket={socket}", "-e"]
        self._wait_for(lambda: self.say(*client, "select 1").startswith("1"), "database")
        self.say(*client, GRANT)
        path = self.folder / "slurmdbd.conf"
        path.write_text(DBD_CONF.format(folder=self.folder, port=port, database_port=database_port))
        path.chmod(0o600)
        with open(self.conf, "a") as file:
            file.write(CONF.format(folder=self.folder, port=port))
        self._start("slurmdbd", "-D")
        add = ("sacctmgr", "--immediate", "add")
        self._wait_for(lambda: "Adding Cluster" in self.say(*add, "cluster", "here"), "slurmdbd")
        self.say(*add, "account", "project")
        self.say(*add, "user", "root", "account=project", "defaultaccount=project")


def slurm_with_accounts_or_skip(folder: Path) -> SlurmHere:
    """Return a Slurm that is yet to be entered; skips the test on a machine without it."""
    if missing := [name for name in ("mariadbd", "slurmdbd") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here")
    slurm_or_skip(folder)
    return SlurmWithAccounts(folder)
