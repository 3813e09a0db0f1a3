"""Laws for methods, data sets and schedulers of other packages: those that our own keep.

Each ``check_...`` returns when all laws hold, and raises `LawBroken` for the first that does not: the law,
what was seen, what to do. Neither pytest nor hypothesis is needed.
"""

from .datasets import check_dataset
from .law import LawBroken
from .methods import check_method
from .schedulers import check_scheduler

__all__ = ["LawBroken", "check_dataset", "check_method", "check_scheduler"]
