"""Tests of the how-to in selection/README.md: the method that it writes from an empty file."""

import re
from pathlib import Path

import numpy as np
from support.method_examples import hidden, ledger, plan

import kakurenbo_hpc.selection

README = Path(kakurenbo_hpc.selection.__file__).with_name("README.md")


def test_the_method_of_the_readme_hides_the_lowest_losses():
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    module = {"__name__": "my_module"}
    exec(code, module)
    mine = module["Mine"](method="my_module:Mine")
    rows = ledger(mine, [5, 1, 2, 3, 4, 0, 6, 7, 8, 9], unseen=[5])
    assert hidden(plan(mine, rows)) == [1, 2, 3]
    assert np.array_equal(plan(mine, rows).refresh, plan(mine, rows).train == 0)


def test_the_readme_names_every_method():
    text = README.read_text()
    assert [name for name in kakurenbo_hpc.selection.METHODS if f"`{name}`" not in text] == []
