"""Prints the package index that torch and torchvision shall come from; an empty line is pip's default index.

Usage: scripts/torch_index.py [INDEX]

KAKURENBO_TORCH_INDEX decides where it is set, even to nothing. Otherwise it is INDEX (PyTorch's own index of
CPU wheels if not given), where that offers within 5 seconds what launch/constraints/cpu.txt names, for this
Python and machine. Otherwise it is the default index, and a line on stderr says why.
"""

import http.client
import os
import platform
import queue
import re
import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path

PYTORCH = "https://download.pytorch.org/whl/cpu"
CONSTRAINTS = Path(__file__).resolve().parents[1] / "launch" / "constraints" / "cpu.txt"
SECONDS = 5


def reason_against(index: str) -> str:
    """Return why torch cannot come from this index; an empty string if it can."""
    python, machine = f"cp{sys.version_info.major}{sys.version_info.minor}", platform.machine()
    for name, version in re.findall(r"^(\w+)==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE):
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/{name}/", timeout=SECONDS) as reply:
                page = urllib.parse.unquote(reply.read().decode(errors="replace"))
        except (OSError, ValueError, http.client.HTTPException) as problem:
            return str(problem) or type(problem).__name__
        release = rf"\b{name}-{re.escape(version)}(\+[\w.]+)?"
        if not re.search(rf"{release}-{python}-{python}-[\w.]+_{machine}\.whl", page):
            return f"it has no wheel of {name} {version} for {python} on {machine}"
    return ""


def reason_in_time(index: str) -> str:
    """Call reason_against, but not for long: no socket's timeout bounds name lookup, or slow replies."""
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(reason_against(index)), daemon=True).start()
    try:
        return answer.get(timeout=SECONDS)
    except queue.Empty:
        return f"no complete reply within {SECONDS} s"


def choose(index: str) -> str:
    """Return the address of the index to take, empty for the default one."""
    if (wanted := os.environ.get("KAKURENBO_TORCH_INDEX")) is not None:
        return wanted
    if reason := reason_in_time(index):
        print(f"{index} is passed over: {reason}", file=sys.stderr)
        return ""
    return index


if __name__ == "__main__":
    print(choose(*sys.argv[1:] or [PYTORCH]))
