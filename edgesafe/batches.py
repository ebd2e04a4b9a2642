"""Calls of a file that takes one batch size only."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def cut(run: Callable[[dict[str, Tensor]], list[Tensor]], inputs: Mapping[str, Tensor], batch: int | None) -> list[Tensor]:
    """The outputs (N, ...) of `run` for inputs (N, ...), called with `batch` rows at a time, the last call filled up with its last row.

    Inputs without dimensions go into each call as they are. None: any batch does, so one call.
    """
    rows = len(next(value for value in inputs.values() if value.dim()))
    if batch is None or batch == rows:
        return run(dict(inputs))
    made = []
    for begin in range(0, rows, batch):
        index = torch.arange(begin, begin + batch).clamp(max=rows - 1)
        made.append(run({name: value[index] if value.dim() else value for name, value in inputs.items()}))
    return [torch.cat(column)[:rows] for column in zip(*made, strict=True)]
