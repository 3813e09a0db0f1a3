"""Import of torchvision beside a torch without its operators."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from kakurenbo_hpc.core import torchvision_compat


def test_threads_that_read_images_declare_the_operators_once(monkeypatch):
    n_calls, original = [], torchvision_compat._library_of_missing_operators

    @cache
    def declare():
        n_calls.append(1)
        time.sleep(0.05)
        return original()

    monkeypatch.setattr(torchvision_compat, "_library_of_missing_operators", declare)
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(lambda _: torchvision_compat.transforms(), range(4)))
    assert len(n_calls) == 1 and len(set(modules)) == 1
