"""Which index torch comes from: PyTorch's where it answers in time, else the default; or the one named."""

import contextlib
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "torch_index.py"
CONSTRAINTS = SCRIPT.parents[1] / "launch" / "constraints" / "cpu.txt"
PINS = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
MACHINE = platform.machine()


@contextlib.contextmanager
def serving(answer):
    """Yield the address of an index; ``answer(handler, name)`` answers what is asked of a project."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self, self.path.rstrip("/").rpartition("/")[2])

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        server.shutdown()


def page(*wheels):
    links = "".join(
        f'<a href="/files/{wheel.replace("+", "%2B")}#sha256=0">{wheel}</a>\n' for wheel in wheels
    )
    return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


def wheel(name, version=None, python=PYTHON, abi=PYTHON, machine=MACHINE):
    return f"{name}-{version or PINS[name] + '+cpu'}-{python}-{abi}-manylinux_2_28_{machine}.whl"


def say(handler, body, status=200):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def chosen(index, **variables):
    """Return which index is chosen, what is said on stderr, and the seconds it took."""
    env = {k: v for k, v in os.environ.items() if k != "KAKURENBO_TORCH_INDEX"} | {"no_proxy": "*"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, SCRIPT, index], env=env | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.removesuffix("\n"), done.stderr, time.monotonic() - begun


def test_an_index_that_has_what_fits_is_chosen():
    other = wheel("torch", "2.1.0+cpu", "cp38", "cp38")
    with serving(lambda handler, name: say(handler, page(other, wheel(name)))) as index:
        assert chosen(index)[:2] == (index, "")
        assert chosen(index + "/")[:2] == (index + "/", "")


def test_a_mirror_without_local_versions_fits_too():
    with serving(lambda handler, name: say(handler, page(wheel(name, PINS[name])))) as index:
        assert chosen(index)[:2] == (index, "")


@pytest.mark.parametrize(
    "misfit",
    [
        dict(version="2.0.1+cpu"),
        dict(version=PINS["torch"] + "1+cpu"),
        dict(python="cp38", abi="cp38"),
        dict(abi=PYTHON + "t"),
        dict(machine="riscv64"),
    ],
    ids=str,
)
def test_an_index_without_a_fitting_wheel_is_not_chosen(misfit):
    with serving(lambda handler, name: say(handler, page(wheel(name, **misfit)))) as index:
        took, said, _ = chosen(index)
    assert (took, said) == (
        "",
        f"{index} is passed over: it has no wheel of torch {PINS['torch']} for {PYTHON} on {MACHINE}\n",
    )


def test_both_packages_must_be_there():
    with serving(lambda handler, name: say(handler, page(wheel("torch")))) as index:
        took, said, _ = chosen(index)
    assert took == "" and "no wheel of torchvision" in said


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_an_error_page_is_no_index(status):
    body = b"<html><body><h1>Access denied</h1> torch-2.13.0 is not for you</body></html>"
    with serving(lambda handler, name: say(handler, body, status)) as index:
        took, said, _ = chosen(index)
    assert took == "" and said.startswith(f"{index} is passed over: ")


def test_an_address_that_refuses_is_not_waited_for():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # but does not listen
        took, said, seconds = chosen(f"http://127.0.0.1:{unheard.getsockname()[1]}")
    assert took == "" and "refused" in said and seconds < 4


def test_what_is_no_address_is_passed_over():
    took, said, _ = chosen("whl/cpu")
    assert took == "" and said.startswith("whl/cpu is passed over: ")


def test_a_server_that_never_answers_is_waited_for_five_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        took, said, seconds = chosen(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert took == "" and "is passed over: " in said and 4 < seconds < 9


def test_a_reply_that_does_not_end_is_waited_for_five_seconds():
    left = threading.Event()

    def trickle(handler, name):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not left.wait(0.2):
                handler.wfile.write(b"<!-- more -->")

    with serving(trickle) as index:
        took, said, seconds = chosen(index)
        left.set()
    assert (took, said) == ("", f"{index} is passed over: no complete reply within 5 s\n") and 4 < seconds < 9


@pytest.mark.parametrize("wanted", ["", "https://example.org/simple"])
def test_the_variable_decides_and_nothing_is_asked(wanted):
    asked = []
    with serving(lambda handler, name: (asked.append(name), say(handler, page(wheel(name))))) as index:
        assert chosen(index, KAKURENBO_TORCH_INDEX=wanted)[:2] == (wanted, "")
    assert not asked
