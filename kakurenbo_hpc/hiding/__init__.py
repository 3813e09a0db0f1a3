"""Sample selection in a training loop of one's own, with the same parts as the driver.

Nothing is patched and no global random state is touched. Model, optimizer, schedule and loader belong to the
loop; ``Hiding`` chooses what the loader reads, and gets the losses that the loop computes.
"""

from .loop import Hiding

__all__ = ["Hiding"]
