"""Levels of imports: a room imports from lower levels only, and none of its own level."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kakurenbo_hpc

PACKAGE = Path(kakurenbo_hpc.__file__).parent

LEVELS = [
    {"errors"},
    {"core"},
    {"config"},
    {"distributed"},
    {"rundir"},
    {"selection", "order", "data", "training"},
    {"local_data"},
    {"engine"},
    {"hiding", "cluster"},
    {"compare"},
    {"explain", "report", "testing"},
    {"cli", "__init__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(code: str, module: str, is_package: bool = False) -> set[str]:
    """Return the rooms that the code of ``kakurenbo_hpc.<module>`` imports, by any road."""
    found = set()
    package = ["kakurenbo_hpc", *module.split(".")] if module else ["kakurenbo_hpc"]
    package = package if is_package else package[:-1]
    ours = set()  # names that the package itself goes by here
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            ours |= {
                alias.asname or "kakurenbo_hpc"
                for alias in node.names
                if alias.name.split(".")[0] == "kakurenbo_hpc"
            }
        elif isinstance(node, ast.Call) and "import" in ast.unparse(
            node.func
        ):  # import_module("..."), __import__("...")
            found |= {
                arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            found.add(f"kakurenbo_hpc.{node.attr}")
    rooms = {name.split(".")[1] for name in found if name.startswith("kakurenbo_hpc.")}
    return {room for room in rooms if room in LEVEL or importlib.util.find_spec(f"kakurenbo_hpc.{room}")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_levels_here_the_table_of_the_readme_its_map_and_the_folders_are_one_list():
    rooms = {room_of(path) for path in SOURCES}
    assert rooms == LEVEL.keys()
    table = re.findall(
        r"^\| (\d+) \| `(\w+)", (PACKAGE / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {room: int(level) for level, room in table} == {r: n for r, n in LEVEL.items() if r != "__init__"}
    mapped = re.findall(
        r"^  (\w+)(?:/|\.py) ", (PACKAGE.parent / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(mapped) == rooms - {"__init__", "errors"} and len(mapped) == len(set(mapped))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(path)
    others = imports(path.read_text(encoding="utf-8"), module_of(path), path.name == "__init__.py") - {room}
    level = LEVEL.get(room, 0)
    upward = {other for other in others if LEVEL.get(other, 0) >= level}
    assert not upward, f"{room}, level {level}, imports " + ", ".join(
        f"{o}, level {LEVEL.get(o, 0)}" for o in sorted(upward)
    )


@pytest.mark.parametrize(
    "code",
    [
        "from ..engine import run",
        "from ..engine.inner import thing",
        "from .. import engine",
        "from .. import __version__, engine",
        "import kakurenbo_hpc.engine.run",
        "import kakurenbo_hpc.engine.run as r",
        "from kakurenbo_hpc import engine",
        "from kakurenbo_hpc.engine.run import run",
        "import kakurenbo_hpc\nkakurenbo_hpc.engine.run()",
        "import kakurenbo_hpc as k\nk.engine.run()",
        "def later():\n    from ..engine import run",
        "if TYPE_CHECKING:\n    from ..engine import run",
        "import importlib\nimportlib.import_module('kakurenbo_hpc.engine.run')",
        "__import__('kakurenbo_hpc.engine.run')",
    ],
)
def test_an_import_is_seen_on_whatever_road_it_comes(code):
    assert imports(code, "order.deal") == {"engine"}


def test_a_relative_import_is_counted_from_where_it_stands():
    assert imports("from .global_stats import GlobalStats", "selection.method") == {"selection"}
    assert imports("from ..global_stats import GlobalStats", "selection.methods.random") == {"selection"}
    assert imports("from ...config import Options", "selection.methods.random") == {"config"}
    assert imports("from .method import Method", "selection", is_package=True) == {"selection"}
    assert imports("from .errors import JobError", "cli") == {"errors"}
    assert imports("from . import __version__\nimport numpy.random\nfrom rundir import x", "cli") == set()


@pytest.mark.parametrize(
    "module",
    ["selection", "config.job", "cluster.status", "cluster.submit", "compare.queue", "report.command", "cli"],
)
def test_the_login_node_needs_neither_torch_nor_mpi(module):
    code = f"import sys, kakurenbo_hpc.{module}; print(*({{'torch', 'mpi4py'}} & sys.modules.keys()))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (fresh.returncode, fresh.stdout.strip()) == (0, ""), fresh.stderr
