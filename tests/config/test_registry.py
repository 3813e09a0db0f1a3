"""Registry: our own names, entry points of installed packages, package.module:Class; one line for what is
wrong.
"""

import subprocess
import sys
import textwrap

import pytest

from kakurenbo_hpc.config.registry import Registry, is_path, scan, search_folder
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.method import Method

MINE = """
from kakurenbo_hpc.core.plan import Plan
from kakurenbo_hpc.selection.method import Method


class Mine(Method):
    def plan(self, epoch, ledger, everyone):
        return Plan(train=ledger.id % 2 == 0)


class Unfinished(Method):
    pass


class Lax(Mine):
    model_config = {"extra": "allow"}


thing = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "broken", "lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "lacking.py").write_text("import a_package_that_nobody_has")
    search_folder(tmp_path)
    return tmp_path


def offer(folder, distribution, name, value):
    """Install a distribution that offers one method by entry point."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kakurenbo_hpc.methods]\n{name} = {value}\n")


def test_a_table_is_the_scan_of_a_folder_and_imports_only_what_is_named():
    code = """
        import sys
        from kakurenbo_hpc.selection import METHODS
        assert "rs2" in METHODS and "rs2" in list(METHODS)
        assert not [m for m in sys.modules if m.startswith("kakurenbo_hpc.selection.methods.")]
        METHODS["rs2"]
        print([m for m in sys.modules if m.startswith("kakurenbo_hpc.selection.methods.")])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == "['kakurenbo_hpc.selection.methods.rs2']", done.stderr


def test_every_name_of_our_own_is_one_class_of_its_base():
    for name in METHODS.own:
        assert issubclass(METHODS[name], Method) and METHODS[name].__module__.endswith(f".{name}")


def test_a_class_is_found_beside_the_job_file(folder):
    assert METHODS["mine:Mine"].__name__ == "Mine" and "mine:Mine" in METHODS


def test_a_folder_is_searched_last(folder):
    (folder / "json.py").write_text("raise AssertionError")
    import json

    assert sys.path[-1] == str(folder) and json.dumps([]) == "[]"


def test_an_entry_point_is_found_by_its_name_and_imported_only_then(folder):
    offer(folder, "half", "every_other", "mine:Mine")
    assert METHODS.origins()["every_other"] == "half" and METHODS.origins()["kakurenbo"] == "kakurenbo_hpc"
    assert "mine" not in sys.modules
    assert METHODS["every_other"].__name__ == "Mine"


def test_of_two_packages_with_one_name_neither_is_taken(folder):
    offer(folder, "first", "every_other", "mine:Mine")
    offer(folder, "second", "every_other", "mine:Unfinished")
    with pytest.raises(JobError, match="every_other is offered by first and second; uninstall one"):
        METHODS["every_other"]


def test_an_entry_point_does_not_replace_one_of_our_own(folder):
    offer(folder, "bold", "kakurenbo", "mine:Mine")
    assert METHODS["kakurenbo"].__module__ == "kakurenbo_hpc.selection.methods.kakurenbo"
    assert METHODS.origins()["kakurenbo"] == "kakurenbo_hpc"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:Mine", "no module nowhere on the Python path .* put the module beside the job file"),
        ("mine:Theirs", r"mine \(.*mine.py\) has no Theirs"),
        ("mine:thing", "must be a class derived from kakurenbo_hpc.selection.method.Method"),
        ("mine:Plan", "must be a class derived from kakurenbo_hpc.selection.method.Method"),
        ("mine:Unfinished", "does not define plan"),
        ("mine:Lax", "its model_config sets extra to 'allow', which would let mistakes in a job pass"),
        ("broken:Mine", r"importing it failed \(ZeroDivisionError: division by zero\)"),
        (
            "lacking:Mine",
            r"importing it failed \(ModuleNotFoundError: No module named 'a_package_that_nobody_has'\)",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(folder, name, message):
    with pytest.raises(JobError, match=f"^selection.method {name}: {message}"):
        METHODS[name]


@pytest.mark.parametrize(("content", "found"), [("x = 1\n", "none"), (MINE, "Mine, Unfinished, Lax")])
def test_a_module_must_define_one_class_where_none_is_named(content, found, folder):
    (folder / "several.py").write_text(content)
    sys.modules.pop("several", None)
    offer(folder, "several", "several", "several")
    with pytest.raises(JobError, match=f"several must define one Method, but defines {found}; name it"):
        METHODS["several"]


def test_an_unknown_name_is_no_member():
    assert "kakurenbu" not in METHODS and "a:b:c" not in METHODS and "a.:b" not in METHODS
    with pytest.raises(KeyError):
        METHODS["kakurenbu"]


def test_a_path_has_a_module_and_a_name():
    assert (
        is_path("a.b:C")
        and is_path("a:c")
        and not is_path("a")
        and not is_path(":a")
        and not is_path("a b:c")
    )


def test_without_a_base_any_callable_will_do(folder):
    models = Registry("model.name", {}, "kakurenbo_hpc.models")
    assert models["mine:Mine"].__name__ == "Mine"
    with pytest.raises(JobError, match="model.name mine:thing: is 7, but must be a function or a class"):
        models["mine:thing"]


def test_a_scan_leaves_out_what_is_told():
    assert "rs2" not in scan("kakurenbo_hpc.selection.methods", leave_out=("rs2",))
