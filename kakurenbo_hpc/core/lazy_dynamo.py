"""Deferred import of ``torch._dynamo``: at the first compilation, not with every optimizer and every DDP.

Importing it loads some 800 modules, which takes longer than the rest of a rank's start. Code that is not
compiled uses three things of it: to disable a function, to break a graph, and to look up how DDP is compiled.
A stand-in provides these until anything else is used; then the real module replaces it, and torch asks it
again about the functions that torch itself had disabled.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

_NAME = "torch._dynamo"


def defer_dynamo() -> None:
    """Let ``torch._dynamo`` be imported when something is compiled. Does nothing once it is imported."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = stand_in = _StandIn()
        sys.meta_path.insert(0, _Submodules(stand_in))


class _Answers(SimpleNamespace):
    """A submodule of which some functions are known; the real one has the others."""

    def __init__(self, stand_in: _StandIn, name: str, **known: Callable[[], Any]):
        super().__init__(**known)
        self._rest = lambda: getattr(stand_in.load(), name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest(), name)


class _StandIn(ModuleType):
    """What uncompiled code needs of the module.

    Attributes:
        left_alone: the functions on which torch has noted that dynamo leaves them alone.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = importlib.machinery.ModuleSpec(_NAME, None, is_package=True)
        self.__file__ = None
        self.__path__: list[str] = []  # so the finder is asked for submodules
        self.left_alone: list[Any] = []
        self.utils = _Answers(self, "utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")
        self.trace_rules = _Answers(self, "trace_rules", clear_lru_cache=lambda: None)

    def disable(self, fn: Any = None, recursive: bool = True, **more: Any) -> Any:
        """Return the function: nothing is compiled yet. Without one, a decorator, which is the real one's."""
        if fn is None:
            return self.load().disable(fn, recursive, **more)
        self.left_alone.append(fn)
        return fn

    def graph_break(self) -> None:
        """Break no graph: there is none."""

    def load(self) -> ModuleType:
        """Put the real module in this one's place, and return it."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
            for fn in self.left_alone:
                vars(fn).pop("__dynamo_disable", None)  # where torch/_compile.py has noted the answer
            importlib.import_module(_NAME)
        return sys.modules[_NAME]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what looks through all modules does not mean this one
            raise AttributeError(name)
        return getattr(self.load(), name)


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds submodules by loading the real module first."""

    def __init__(self, stand_in: _StandIn):
        self._stand_in = stand_in

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{_NAME}."):
            return None
        self._stand_in.load()
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._real_spec  # it was executed by its own loader
