"""The scoring pass: every sample once through the trained network, in blocks fixed by ids alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.ledger import Homes
from ..data.loader import Loader, micro_batches_of
from ..distributed.comm import Comm
from ..local_data.shards import ShardLoader
from ..training.outputs import OutputReader
from .context import Context


def pass_blocks(
    blocks: Sequence[np.ndarray],
    reader: OutputReader,
    context: Context,
    loader: Loader | ShardLoader | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    """Pass blocks of ids forward, without augmentation; rank r has the r-th of P equal shares of them.

    A block is one batch of the network, so its outputs depend neither on the other blocks nor on which rank
    has it.

    Args:
        blocks: of all ranks, the same on every rank.
        reader: of the network's outputs.
        context: of the run.
        loader: of the samples; of the training samples if not given.

    Yields:
        Ids (k,) int64, labels (k,) int64, and the outputs by name, (k, ...) each.
    """
    comm = context.world.comm
    first, last = (r * len(blocks) // comm.size for r in (comm.rank, comm.rank + 1))
    batches = (loader or context.train)(micro_batches_of(blocks[first:last]), 0, augment=False)
    for batch in context.console.bar(context.heartbeat.along(batches), last - first, "score"):
        yield batch.micro_batch.id, batch.target.cpu().numpy(), reader(batch)


def send_home(
    ids: np.ndarray, columns: dict[str, np.ndarray], homes: Homes, comm: Comm
) -> dict[str, np.ndarray]:
    """Send rows to the home ranks of their ids; return this rank's rows, sorted by id, with a column ``id``.

    Args:
        ids: (k,) int64.
        columns: (k, ...) each, equal in name, dtype and width on all ranks.
        homes: the home rank of every id.
        comm: all ranks.
    """
    return send_rows(homes.of(ids), {"id": ids, **columns}, comm)


def send_rows(owner: np.ndarray, columns: dict[str, np.ndarray], comm: Comm) -> dict[str, np.ndarray]:
    """Send each row to its owner, in one exchange; return what came here, sorted by the column ``id``.

    Args:
        owner: (k,) int64, a rank for each row.
        columns: (k, ...) each; one is ``id``.
        comm: all ranks.
    """
    row = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    by_owner = np.argsort(owner, kind="stable")
    outgoing = np.empty(len(owner), row)
    for name, column in columns.items():
        outgoing[name] = column[by_owner]
    ends = np.searchsorted(owner[by_owner], np.arange(1, comm.size))
    incoming = np.concatenate(comm.alltoallv(np.split(outgoing, ends)))
    by_id = np.argsort(incoming["id"], kind="stable")
    return {name: incoming[name][by_id] for name in columns}
