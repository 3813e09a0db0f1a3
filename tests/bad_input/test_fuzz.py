"""Job, machine and comparison files, changed at random: what is wrong is told in one line, and nothing else
is ever raised.
"""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.comparisons import read_comparison

from kakurenbo_hpc.cluster.machine import read_machine
from kakurenbo_hpc.config.job import read_job
from kakurenbo_hpc.config.package_files import jobs_dir, launch_dir
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.selection import METHODS

READERS = {
    "job": (lambda path: read_job(path, [], DATASETS, METHODS), jobs_dir() / "digits_kakurenbo.yaml"),
    "machine": (read_machine, launch_dir() / "machines" / "slurm_v100.yaml"),
    "comparison": (read_comparison, jobs_dir() / "evidence" / "kak_t5.yaml"),
}

tokens = st.sampled_from(
    [
        *(
            "",
            "null",
            "-1",
            "0",
            "1e400",
            ".nan",
            "9" * 5000,
            "true",
            "[]",
            "{}",
            "[[[",
            "*a",
            "&a [*a]",
            "!!python/name:os.system",
        ),
        *(
            "!!binary ''",
            "!!int ''",
            "2001-99-99",
            "\t",
            "\0",
            "'",
            '"',
            "#",
            "? x",
            "<<: {a: 1}",
            "- a",
            "---",
            "é",
            "0o7",
            "~",
            "|",
        ),
        *("../x", "$(touch ran)", "name", "lr"),
    ]
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.dates(),
        st.binary(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@st.composite
def changed_text(draw, text: str) -> str:
    """A file's text with one to four of its lines taken away, doubled, exchanged, shifted, or given another
    value.
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for _ in range(draw(st.integers(1, 4))):
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        key, colon, value = lines[i].partition(":")
        other = lines[j].partition(":")[2]
        how = draw(st.sampled_from(["away", "double", "exchange", "shift", "key", "value", "value", "value"]))
        if how == "away" and len(lines) > 1:
            del lines[i]
        elif how == "double":
            lines.insert(j, lines[i])
        elif how == "exchange":
            lines[i] = key + colon + other
        elif how == "shift":
            lines[i] = draw(st.sampled_from(["  ", "\t", " "])) + lines[i]
        elif how == "value":
            lines[i] = f"{key}: {draw(tokens)}"
        elif how == "key":
            lines[i] = f"{draw(tokens)}{colon}{value}"
    return "\n".join(lines)


@st.composite
def changed_values(draw, text: str) -> str:
    """A file's values with one to three of them, at any depth, taken away or of another type."""
    whole = yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 3))):
        at = whole
        while at:
            key = draw(st.sampled_from(sorted(at, key=str) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
                at[key] = draw(values)
                break
            at = at[key]
    return yaml.safe_dump(whole, allow_unicode=True)


def answered(kind: str, path, text: str) -> None:
    """Read it; anything but a UserError of one printable line is a failure."""
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        READERS[kind][0](path)
    except UserError as problem:
        assert str(problem).splitlines() == [str(problem)] and str(problem).isprintable()


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=2 * settings().max_examples)
@given(data=st.data())
def test_no_change_of_lines_raises_anything_but_a_user_error(tmp_path_factory, kind, data):
    text = READERS[kind][1].read_text(encoding="utf-8")
    answered(kind, tmp_path_factory.getbasetemp() / "lines.yaml", data.draw(changed_text(text)))


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=2 * settings().max_examples)
@given(data=st.data())
def test_no_change_of_values_raises_anything_but_a_user_error(tmp_path_factory, kind, data):
    text = READERS[kind][1].read_text(encoding="utf-8")
    answered(kind, tmp_path_factory.getbasetemp() / "values.yaml", data.draw(changed_values(text)))
