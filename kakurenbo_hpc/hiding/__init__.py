"""Selection under a training loop of one's own: the driver's parts, for a loop that somebody else wrote.

Nothing is patched and no global random state is touched. The model, the optimizer, the schedule and the loader are the
loop's; ``Hiding`` chooses what the loader reads, and is told what the loop saw.
"""

from .loop import Hiding

__all__ = ["Hiding"]
