"""Several processes at one run, as accelerate starts them: accelerate launch --multi_gpu --num_processes 2 -m edgesafe train ...

Every draw is of the whole batch, and each process takes its rows of it. With r_b the weight of row b and R the sum over all rows,

    L = sum_b r_b l_b / R = sum over processes of (its rows' mean) (its rows' weight / R)

so a process computes its part, `total` gives all of them L with the gradient of the own part, and `add` sums the gradients: what comes
out is one process's up to rounding, masked rows and unequal shares included (but for the attacker of `adversarial`, which sees its own
rows only). Only the leading process writes.
(`accelerate launch --cpu` starts one process only, unless there is MPI; --multi_gpu starts two without any GPU. torchrun does as well.)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, distributed

from .errors import EdgeSafeError

PATIENCE = timedelta(days=1)  # the others wait while one draws pictures or writes; whoever starts them notices a death
BUCKET = 2**26  # bytes of gradients that travel together
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
INSTEAD = "Use distributed_type MULTI_GPU (--multi_gpu); docs/training.md tells how to save memory"


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def rows(self, n: int, flag: str = "--batch") -> slice:
        """This process's rows of a batch of n."""
        if n < self.count:
            raise EdgeSafeError(f"{flag} {n}: {self.count} processes share it, so it needs {self.count} or more")
        return slice(self.rank * n // self.count, (self.rank + 1) * n // self.count)

    def total(self, part: Tensor) -> Tensor:
        """The sum over processes, the same bits on each; its gradient is that of the own part."""
        return _Total.apply(part) if self.count > 1 else part

    def add(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each tensor's sum over the processes; None, which is None in all of them, stays."""
        if self.count == 1:
            return list(tensors)
        sums: list[Tensor] = []
        for bucket in _buckets([t for t in tensors if t is not None]):
            flat = torch.cat([t.flatten() for t in bucket])
            distributed.all_reduce(flat)
            sums += [s.view_as(t) for s, t in zip(flat.split([t.numel() for t in bucket]), bucket, strict=True)]
        rest = iter(sums)
        return [None if t is None else next(rest) for t in tensors]

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        return bool(self.total(torch.tensor(float(flag), device=self.device))) if self.count > 1 else flag

    def share(self, value: Any) -> Any:
        """The leading process's value."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def started() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(**options: Any) -> tuple[Accelerator, Processes]:
    """Meet the others. `options` of the Accelerator.

    Raises: EdgeSafeError where accelerate is told to shard weights, which would be ignored.
    """
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise EdgeSafeError(f"accelerate is configured for {name} ({variable}), but each process holds the whole student. {INSTEAD}")
    on_cpu = started() and not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)], **options)
    return accelerator, Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of tensors of one dtype, of about BUCKET bytes each."""
    buckets: list[list[Tensor]] = []
    filled = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if not buckets or filled + size > BUCKET or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(tensor)
        filled += size
    return buckets
