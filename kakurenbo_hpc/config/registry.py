"""Registry: classes by name, of this package, of installed packages, or as ``package.module:Class``.

A name is looked up in this order:

1. Our own: ``names`` maps it to a module, or to ``module:attribute``. A table may be the scan of a folder.
2. An entry point of an installed package, in the registry's group. Of two packages that offer the same name,
   neither is taken. Our own names cannot be replaced.
3. ``package.module:Class``, from the Python path, or from the folders of ``search_folder``.

Only what is named is imported, and names are listed without importing anything.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ..errors import JobError
from .options import Options

OURS = "kakurenbo_hpc"

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Classes by name; ``Registry[type[Method]]`` is one of methods.

    Args:
        kind: what the classes are, for messages: "method".
        names: our own, name -> "package.module", which defines one class of the base, or
            "package.module:name".
        group: the group of entry points in which other packages offer theirs.
        base: what every class must derive from; None where any callable will do.
    """

    def __init__(self, kind: str, names: Mapping[str, str], group: str, base: type | None = None):
        self.kind, self.group, self.base = kind, group, base
        self._names = dict(names)

    def __getitem__(self, name: str) -> T:
        """Import and return the class of this name.

        Raises:
            KeyError: there is no such name.
            JobError: what the name stands for cannot be imported, or is not what it must be.
        """
        if name in self._names:
            return self._load(self._names[name], name)
        if found := self._entry_points(name):
            self._check_one(name, found)
            return self._load(found[0].value, name)
        if is_path(name):
            return self._load(name, name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in self._names or is_path(name) or bool(self._entry_points(name))
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.origins())

    def __len__(self) -> int:
        return len(self.origins())

    @property
    def own(self) -> list[str]:
        """Our own names."""
        return list(self._names)

    def origins(self) -> dict[str, str]:
        """Return all names, and for each the distribution that it comes from. Imports none of them."""
        others = {point.name: _distribution(point) for point in entry_points(group=self.group)}
        return others | dict.fromkeys(self._names, OURS)

    def _entry_points(self, name: str) -> list[EntryPoint]:
        return list(entry_points(group=self.group, name=name))

    def _check_one(self, name: str, found: list[EntryPoint]) -> None:
        if len({point.value for point in found}) > 1:
            packages = " and ".join(sorted(_distribution(point) for point in found))
            raise JobError(
                f"{self.kind} {name} is offered by {packages}; uninstall one, or write package.module:Class"
            )

    def _load(self, path: str, name: str) -> Any:
        module_name, _, attribute = path.partition(":")
        module = self._import(module_name, name)
        if attribute:
            found = getattr(module, attribute, None)
            if found is None:
                raise JobError(f"{self.kind} {name}: {module_name} ({module.__file__}) has no {attribute}")
        else:
            found = self._only_class(module, name)
        self._check(found, name)
        return found

    def _import(self, module_name: str, name: str) -> Any:
        try:
            return importlib.import_module(module_name)
        except ImportError as problem:
            if isinstance(problem, ModuleNotFoundError) and problem.name in _parents(module_name):
                where = ", ".join(sys.path[-1:])
                raise JobError(
                    f"{self.kind} {name}: no module {problem.name} on the Python path (its last entry is "
                    f"{where}); install the package, or put the module beside the job file"
                ) from None
            raise self._import_failed(name, problem) from None
        except Exception as problem:  # a stranger's module may raise anything
            raise self._import_failed(name, problem) from None

    def _import_failed(self, name: str, problem: Exception) -> JobError:
        reason = " ".join(str(problem).split())[:200]
        return JobError(f"{self.kind} {name}: importing it failed ({type(problem).__name__}: {reason})")

    def _only_class(self, module: Any, name: str) -> Any:
        base = self.base or object
        classes = [
            value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)
        ]
        own = [value for value in classes if value.__module__ == module.__name__]
        if len(own) != 1:
            found = ", ".join(value.__name__ for value in own) or "none"
            raise JobError(
                f"{self.kind} {name}: {module.__name__} must define one {base.__name__}, but defines "
                f"{found}; name it: package.module:Class"
            )
        return own[0]

    def _check(self, found: Any, name: str) -> None:
        """Raise JobError unless what was found keeps the rules that ours keep."""
        if self.base is None:
            if not callable(found):
                raise JobError(f"{self.kind} {name}: is {found!r}, but must be a function or a class")
            return
        if not (inspect.isclass(found) and issubclass(found, self.base)):
            raise JobError(
                f"{self.kind} {name}: must be a class derived from "
                f"{self.base.__module__}.{self.base.__qualname__}"
            )
        if missing := getattr(found, "__abstractmethods__", None):
            raise JobError(f"{self.kind} {name}: does not define {', '.join(sorted(missing))}")
        if issubclass(found, Options):
            for key in ("extra", "frozen", "strict", "allow_inf_nan"):
                if found.model_config.get(key) != Options.model_config[key]:
                    raise JobError(
                        f"{self.kind} {name}: its model_config sets {key} to "
                        f"{found.model_config.get(key)!r}, which would let mistakes in a job pass; remove it"
                    )


def scan(package: str, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the modules of a package by their own names: a table that is a folder. Imports none of them."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None, package
    names = sorted(module.name for module in pkgutil.iter_modules(list(spec.submodule_search_locations)))
    return {name: f"{package}.{name}" for name in names if name not in leave_out and not name.startswith("_")}


def is_path(name: str) -> bool:
    """Return whether a name has the form ``package.module:Class``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), attribute])


def search_folder(folder: str | Path) -> None:
    """Look for ``package.module:Class`` in this folder, too: last, so that it hides no installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _parents(module_name: str) -> list[str]:
    parts = module_name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
