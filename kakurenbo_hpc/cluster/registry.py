"""Registry of classes by name. Stand-in until ``config.registry`` is there, which replaces it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path


class Registry(Mapping[str, type]):
    """Classes by file name of a package folder; a module is imported when its name is looked up."""

    def __init__(self, kind: str, package: str, group: str, base: type):
        self.kind, self.package, self.group, self.base = kind, package, group, base

    def __getitem__(self, name: str) -> type:
        if name not in self:
            raise KeyError(name)
        module = importlib.import_module(f"{self.package}.{name}")
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, self.base)
            and value.__module__ == module.__name__
        )

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __iter__(self) -> Iterator[str]:
        folder = Path(__file__).parent / self.package.rpartition(".")[2]
        own = self.base.__module__.rpartition(".")[2]
        return iter(sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem != own))

    def __len__(self) -> int:
        return sum(1 for _ in self)
