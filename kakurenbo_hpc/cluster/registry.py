"""Registry of classes by name. Stand-in until ``config.registry`` is there, which replaces it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Registry(Mapping[str, Any]):
    """Classes by the file names of a package folder, or as ``package.module:Class``.

    A module is imported when its name is looked up.
    """

    def __init__(self, kind: str, package: str, group: str, base: type):
        self.kind, self.package, self.group, self.base = kind, package, group, base

    def __getitem__(self, name: str) -> Any:
        module_name, colon, class_name = name.partition(":")
        if not colon and name not in self:
            raise KeyError(name)
        module = importlib.import_module(module_name if colon else f"{self.package}.{name}")
        if colon:
            return getattr(module, class_name)
        return next(value for value in vars(module).values() if self._is_own(value, module.__name__))

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and ":" in name:
            try:
                return issubclass(self[name], self.base)
            except (ImportError, AttributeError, TypeError, ValueError):
                return False
        return any(name == known for known in self)

    def __iter__(self) -> Iterator[str]:
        folder = Path(__file__).parent / self.package.rpartition(".")[2]
        interface = self.base.__module__.rpartition(".")[2]
        return iter(sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != interface))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _is_own(self, value: object, module: str) -> bool:
        return isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module
