"""qsub, qstat, qdel and pbsnodes, as an OpenPBS 23.06 was seen to behave, on files in $PBS_HERE.

As on a fresh server, no history of jobs is kept unless the site says so: a job that has ended is unknown.
Scripts run for real, one process each, in the home folder, without the environment of the submitting shell.
Their output is delivered at the end. Nothing is sent before the walltime; then TERM goes to every process of
the job's session, and KILL after kill_delay.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

HERE = Path(os.environ["PBS_HERE"])
# path, kill_delay, history; server: its attributes; queues: the attributes of each, the default one first;
# nodes: the resources of each
SITE = json.loads((HERE / "site.json").read_text())
NODES = SITE.get("nodes", {f"node{i}": {"ncpus": "2", "mem": "7971612kb", "gpus_here": "1"} for i in (1, 2)})
QUEUES = SITE.get("queues", {"workq": {}})
DEFAULT_QUEUE = next(iter(QUEUES))
KNOWN = {name for resources in NODES.values() for name in resources}
CHUNK = {"ncpus", "mpiprocs", "ompthreads", "mem", "host", "vnode", *KNOWN}
USAGE = "usage: qsub [-a date_time] [-A account_string] [-c interval]\n\t[-C directive_prefix] [-e path] ..."


def refuse(command: str, reason: str, code: int) -> NoReturn:
    print(reason if reason.startswith("usage") else f"{command}: {reason}", file=sys.stderr)
    sys.exit(code)


def qsub(words: list[str]) -> None:
    options, script = parse(words)
    lines = Path(script).read_text().splitlines()
    for line in lines[1:]:
        if line.startswith("#PBS "):
            inside, more = parse(shlex.split(line.removeprefix("#PBS "), comments=True))
            if more is not None:
                refuse("qsub", USAGE, 2)
            options = {"l": {**inside.pop("l", {}), **options.pop("l", {})}, **inside, **options}
        elif line.strip() and not line.startswith("#"):
            break
    name = options.get("N", Path(script).name)
    if re.search(r"[\s/]", name) or not name:
        refuse("qsub", USAGE, 2)
    if len(name) > 230:
        refuse("qsub", "Job name is too long", 2)
    queue = options.get("q", DEFAULT_QUEUE)
    if queue not in QUEUES:
        refuse("qsub", "Unknown queue", 170)
    if QUEUES[queue].get("enabled") == "False":
        refuse("qsub", "Queue is not enabled", 178)
    if QUEUES[queue].get("acl_user_enable") == "True":
        refuse("qsub", "Unauthorized Request ", 159)
    number = len([path for path in HERE.glob("*.job") if "[" not in path.name or "[]" in path.name]) + 1
    array = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", options.get("J", "0-1"))
    if not array or int(array[1]) >= int(array[2]):
        refuse("qsub", "illegal -J value", 1)
    job_id = f"{number}[].here" if "J" in options else f"{number}.here"
    job = {
        "id": job_id,
        "name": name,
        "script": "\n".join(lines) + "\n",
        "select": options.get("l", {}).get("select", "1:ncpus=1"),
        "walltime": walltime(options["l"]["walltime"]) if "walltime" in options.get("l", {}) else None,
        "after": depend(options.get("W")),
        "variables": dict(pair.split("=", 1) for pair in options.get("v", "").split(",") if pair),
        "workdir": os.getcwd(),
        "joined": options.get("j") == "oe",
        "output": options.get("o"),
        "queue": queue,
        "state": "Q",
    }
    nodes(job["select"])
    if wanted := re.search(r"mem=(\d+)gb", job["select"]):
        most = max((int(facts["mem"].removesuffix("kb")) for facts in NODES.values()), default=0)
        if int(wanted[1]) * 2**20 > most:
            amounts = f"(R: {wanted[1]}gb A: {most}kb T: {most}kb)"
            write(job | {"comment": f"Can Never Run: Insufficient amount of resource: mem {amounts}"})
            print(job_id)
            return
    if not all(known(other) for other in job["after"][1:]):
        write(job | {"state": "F"})  # accepted, and deleted at once
        print(job_id)
        return
    write(job)
    tasks = range(int(array[1]), int(array[2]) + 1) if "J" in options else []
    for index in tasks:
        task = {"id": f"{number}[{index}].here", "array": job_id, "index": index}
        write(job | task | {"limit": int(array[3] or 0)})
    start(job_id)
    print(job_id)


def start(job_id: str) -> None:
    """Start the machine that runs a job, or the server's care for the tasks of an array."""
    subprocess.Popen(
        [sys.executable, __file__, "run", job_id],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=open(HERE / f"{job_id}.mom", "wb"),  # noqa: SIM115, the job's to keep
    )


def run_array(job_id: str) -> None:
    """Start the tasks of an array, so many at a time; it has ended when they have."""
    wait_for_turn(job_id)
    write(read(job_id) | {"state": "B"})
    number = job_id.partition("[")[0]
    waiting = sorted(
        HERE.glob(f"{number}[[][0-9]*.job"), key=lambda path: json.loads(path.read_text())["index"]
    )
    begun: list[str] = []
    while waiting or any(read(task)["state"] != "F" for task in begun):
        n_live = sum(read(task)["state"] != "F" for task in begun)
        if waiting and n_live < (read(waiting[0].stem)["limit"] or len(waiting) + 1):
            begun.append(read(waiting.pop(0).stem)["id"])
            start(begun[-1])
        else:
            time.sleep(0.1)
    write(read(job_id) | {"state": "F", "status": 0})


def parse(words: list[str]) -> tuple[dict, str | None]:
    """Return qsub's options and the script among its words; -l collects."""
    options, script = {}, None
    while words:
        word, *words = words
        if not re.fullmatch("-[A-Za-z]", word):
            if script is not None:
                refuse("qsub", USAGE, 2)
            script = word
            continue
        if word[1] not in "NlqArjoWvJ" or not words:
            refuse("qsub", USAGE, 2)
        value, *words = words
        if word == "-l":
            resource, _, amount = value.partition("=")
            if resource not in ("select", "walltime", "place"):
                refuse("qsub", f"Unknown resource: {resource}", 2)
            options.setdefault("l", {})[resource] = amount
        else:
            options[word[1]] = value
    return options, script


def walltime(text: str) -> int:
    if not re.fullmatch(r"\d+|(\d+:){1,2}\d+", text):
        refuse("qsub", "Illegal attribute or resource value Resource_List.walltime", 2)
    return sum(int(part) * 60**i for i, part in enumerate(reversed(text.split(":"))))


def nodes(select: str) -> list[str]:
    """Return the lines of the node file: each host once per mpiproc."""
    found, node = [], 0
    for chunk in select.split("+"):
        n, *resources = chunk.split(":")
        facts = dict(resource.partition("=")[::2] for resource in resources)
        unknown = [resource for resource in facts if resource not in CHUNK]
        if unknown:
            refuse("qsub", f"Unknown resource: {unknown[0]}", 2)
        for _ in range(int(n)):
            found += [socket.gethostname() if node == 0 else f"node{node}"] * int(facts.get("mpiprocs", 1))
            node += 1
    return found


def depend(attribute: str | None) -> list[str]:
    """Return how to wait, and for which jobs."""
    if attribute is None:
        return []
    kind, *ids = attribute.removeprefix("depend=").split(":")
    if not attribute.startswith("depend=") or kind not in ("afterany", "afterok") or not ids:
        refuse("qsub", "Illegal attribute or resource value depend", 2)
    return [kind, *ids]


def known(job_id: str) -> bool:
    """Whether the server still knows a job: without history, it forgets those that have ended."""
    return path(job_id).exists() and (bool(SITE.get("history")) or read(job_id)["state"] != "F")


def run(job_id: str) -> None:
    """Be the machine that runs a job."""
    if "[]" in job_id:
        run_array(job_id)
        return
    wait_for_turn(job_id)
    job = read(job_id)
    if job["state"] == "F":
        return
    number = job_id.partition(".")[0]
    (HERE / f"{number}.nodes").write_text("".join(f"{host}\n" for host in nodes(job["select"])))
    (HERE / f"{number}.SC").write_text(job["script"])
    facts = {
        "JOBID": job_id,
        "JOBNAME": job["name"],
        "QUEUE": job["queue"],
        "O_WORKDIR": job["workdir"],
        "O_HOST": "login",
    }
    facts |= {
        "JOBDIR": os.environ["HOME"],
        "ENVIRONMENT": "PBS_BATCH",
        "NODEFILE": str(HERE / f"{number}.nodes"),
    }
    facts |= {"NODENUM": "0", "TASKNUM": "1"}
    facts |= {"ARRAY_INDEX": str(job["index"]), "ARRAY_ID": job["array"]} if "array" in job else {}
    plain = {
        "HOME": os.environ["HOME"],
        "PATH": SITE["path"],
        "PBS_HERE": str(HERE),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    spool = HERE / f"{number}.OU"
    with open(spool, "wb") as output:
        shell = subprocess.Popen(
            ["bash", HERE / f"{number}.SC"],
            cwd=os.environ["HOME"],
            env=plain | {f"PBS_{name}": value for name, value in facts.items()} | job["variables"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    write(job | {"state": "R"})
    begun, killed = time.monotonic(), None
    while shell.poll() is None:
        time.sleep(0.1)
        used = int(time.monotonic() - begun)
        if killed is None and job["walltime"] is not None and used > job["walltime"]:
            with open(spool, "ab") as output:
                output.write(
                    f"=>> PBS: job killed: walltime {used} exceeded limit {job['walltime']}\n".encode()
                )
            signal_all(shell.pid, signal.SIGTERM)
            killed = time.monotonic()
            write(read(job_id) | {"status": -29})
        if killed is None and "status" in read(job_id):  # qdel
            signal_all(shell.pid, signal.SIGTERM)
            killed = time.monotonic()
        if killed is not None and time.monotonic() - killed > SITE["kill_delay"]:
            signal_all(shell.pid, signal.SIGKILL)
    signal_all(shell.pid, signal.SIGKILL)
    status = shell.returncode if shell.returncode >= 0 else 256 - shell.returncode
    target = Path(job["workdir"]) / (job["output"] or f"{job['name']}.o{number}")
    target.write_bytes(spool.read_bytes())
    write(read(job_id) | {"state": "F", "status": read(job_id).get("status", status)})


def wait_for_turn(job_id: str) -> None:
    job = read(job_id)
    if not job["after"] or "array" in job:
        return
    write(job | {"state": "H"})
    kind, *others = job["after"]
    while any(path(other).exists() and read(other)["state"] != "F" for other in others):
        if read(job_id)["state"] == "F":
            return
        time.sleep(0.1)
    if read(job_id)["state"] == "F":
        return
    if kind == "afterok" and any(read(other)["status"] for other in others):
        write(job | {"state": "F", "comment": f"Job deleted as result of dependency on job {others[0]}"})


def signal_all(session: int, number: int) -> None:
    """Send a signal to every process of a session, whatever its process group."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            facts = (process / "stat").read_text().rpartition(")")[2].split()
            if int(facts[3]) == session:
                os.kill(int(process.name), number)


def qstat(words: list[str]) -> None:
    if words[0] == "-B":
        facts = {"server_state": "Active", "default_queue": DEFAULT_QUEUE}
        show("Server: here", facts | SITE.get("server", {}))
    elif words[0] == "-Q":
        if words[-1] not in QUEUES:
            refuse("qstat", f"Unknown queue {words[-1]}", 170)
        plain = {"queue_type": "Execution", "enabled": "True", "started": "True"}
        show(f"Queue: {words[-1]}", plain | QUEUES[words[-1]])
    else:
        show_job(words)


def show(title: str, attributes: dict) -> None:
    """Print attributes as PBS does, which folds long ones."""
    print(title)
    for name, value in attributes.items():
        line = f"    {name} = {value}"
        print("\n\t".join([line[:79], *(line[i : i + 70] for i in range(79, len(line), 70))]))
    print()


def show_job(words: list[str]) -> None:
    history, job_ids = "-x" in words, [word for word in words if not word.startswith("-")]
    if history and not SITE.get("history"):
        print("qstat: PBS is not configured to maintain job history", file=sys.stderr)
        return
    codes = [show_one(job_id, history) for job_id in job_ids]
    sys.exit(max(codes))


def show_one(job_id: str, history: bool) -> int:
    if not known(job_id):
        print(f"qstat: Unknown Job Id {job_id}", file=sys.stderr)
        return 153
    job = read(job_id)
    if job["state"] == "F" and not history:
        reason = "Job has finished, use -x or -H to obtain historical job information"
        print(f"qstat: {job_id} {reason}", file=sys.stderr)
        return 35
    facts = {
        "Job_Name": job["name"],
        "job_state": job["state"],
        "queue": job["queue"],
        "Hold_Types": job.get("holds", "n"),
    }
    facts |= {"Exit_status": job["status"]} if "status" in job and job["state"] == "F" else {}
    facts |= {key: job[key] for key in ("comment", "estimated.start_time") if key in job}
    show(f"Job Id: {job_id}", facts)
    print("    Variable_List = PBS_O_HOME=/root,PBS_O_LANG=C.UTF-8,\n\tPBS_O_PATH=/usr/bin\n")
    return 0


def pbsnodes(words: list[str]) -> None:
    for name, resources in NODES.items():
        facts = {"Mom": name, "ntype": "PBS", "state": "free", "resources_available.host": name}
        show(name, facts | {f"resources_available.{key}": value for key, value in resources.items()})


def qdel(words: list[str]) -> None:
    if not known(words[-1]):
        refuse("qdel", f"Unknown Job Id {words[-1]}", 153)
    job = read(words[-1])
    if job["state"] == "F":
        refuse("qdel", f"Job has finished {words[-1]}", 35)
    write(job | {"status": 271} if job["state"] == "R" else job | {"state": "F"})


def path(job_id: str) -> Path:
    return HERE / f"{job_id.partition('.')[0]}.job"


def read(job_id: str) -> dict:
    return json.loads(path(job_id).read_text())


def write(job: dict) -> None:
    beside = path(job["id"]).with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(job))
    beside.replace(path(job["id"]))


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        {"qsub": qsub, "qstat": qstat, "qdel": qdel, "pbsnodes": pbsnodes}[sys.argv[1]](sys.argv[2:])
