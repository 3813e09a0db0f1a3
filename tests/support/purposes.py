"""The purposes of random draws, as the package's source names them.

A purpose reaches `rng.key` through parameters that are called ``purpose``; wherever one is handed over, it is
a literal, or made of literals and other values, which stand here as ``*``.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def named_purposes(files: Iterable[Path]) -> dict[str, set[str]]:
    """Return the purposes that these files name, each with the places, FILE:LINE, that hand it over.

    Raises ValueError where one is neither a literal nor the caller's own purpose.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    positions = _positions(trees.values())
    found = defaultdict(set)
    for path, tree in trees.items():
        for scope in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
                for given in _given(call, positions):
                    for purpose in _literals(given, scope, f"{path.name}:{call.lineno}"):
                        found[purpose].add(f"{path.name}:{call.lineno}")
    return dict(found)


def _positions(trees: Iterable[ast.Module]) -> dict[str, set[int]]:
    """Return, for each function with a parameter called purpose, at which places calls may hand it over."""
    positions = defaultdict(set)
    for tree in trees:
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            names = [argument.arg for argument in function.args.args]
            if "purpose" in names:
                positions[function.name].add(names.index("purpose") - (names[0] == "self"))
    return positions


def _given(call: ast.Call, positions: dict[str, set[int]]) -> Iterable[ast.expr]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name in positions:
        yield from (keyword.value for keyword in call.keywords if keyword.arg == "purpose")
        yield from (call.args[at] for at in positions[name] if at < len(call.args))


def _literals(given: ast.expr, scope: ast.FunctionDef, where: str) -> Iterable[str]:
    """Yield the purposes that an argument may be; none where it is a number, or the caller's own purpose."""
    match given:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts)
        case ast.IfExp(body=first, orelse=second):
            yield from _literals(first, scope, where)
            yield from _literals(second, scope, where)
        case ast.Name(id="purpose") if "purpose" not in [argument.arg for argument in scope.args.args]:
            assigned = [node for node in ast.walk(scope) if isinstance(node, ast.Assign)]
            values = [node.value for node in assigned if ast.unparse(node.targets[0]) == "purpose"]
            if not values:
                raise ValueError(f"{where}: a purpose that is no literal")
            for value in values:
                yield from _literals(value, scope, where)
