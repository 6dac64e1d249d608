"""On what do the processes of a distributed run agree, so that all of them do the same after the same batch?

Every function is called by all processes at the same place; in a run of one process each returns what it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def rows_of_all(row: Tensor) -> Tensor:
    """The rows (P, N) of P processes, in their order, from the ``row`` (N,) of each, on the device that trains."""
    if not is_distributed():
        return row[None]
    rows = [torch.empty_like(row) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, row.contiguous())
    return torch.stack(rows)


class Agreement:
    """Agrees on numbers without waiting for a GPU: what was asked for is known to the processors alone."""

    def __init__(self) -> None:
        # A GPU's own way of talking to others would have to finish with the batch first.
        self._group: ProcessGroup | None = None
        if is_distributed() and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        if not is_distributed():
            return number
        tensor = torch.tensor([number])
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(tensor)

    def smallest(self, number: int) -> int:
        """The smallest of the numbers that the processes have."""
        return -self.largest(-number)
