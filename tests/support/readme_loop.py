"""The loop that README shows: as it was before, and as it is with hiding."""

from pathlib import Path

_README = Path(__file__).parents[2] / "README.md"


def plain() -> str:
    """Return the program of the diff's old side."""
    return _side("-")


def changed() -> str:
    """Return the program of the diff's new side."""
    return _side("+")


def _side(sign: str) -> str:
    diff = _README.read_text(encoding="utf-8").split("```diff\n")[1].split("```")[0]
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in (" ", sign))
