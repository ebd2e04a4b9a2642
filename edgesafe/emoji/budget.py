"""A training loop's time: progress against a budget of minutes, a learning rate that follows it, and which precision is faster here."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Budget:
    """Minutes to train for, over all sessions; `spent_s` is carried through checkpoints.

    Given more minutes later, the learning rate rises again to where the longer schedule has it.
    """

    minutes: float
    spent_s: float = 0.0
    _mark: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Leave out what went before: set-up is not training."""
        self._mark = time.monotonic()

    def tick(self) -> float:
        """Progress in [0, 1]; pauses over a minute (a suspended machine) do not count."""
        now = time.monotonic()
        if now - self._mark < 60:
            self.spent_s += now - self._mark
        self._mark = now
        return self.progress

    @property
    def progress(self) -> float:
        return min(1.0, self.spent_s / (60 * self.minutes)) if self.minutes else 1.0

    def rate(self, step: int, peak: float, warmup: int = 300, floor: float = 0.01) -> float:
        """Linear warm-up over steps, then a cosine over the time budget."""
        return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))


def faster_dtype(step: Callable[[torch.dtype | None], None], repeats: int = 3) -> torch.dtype | None:
    """bf16 (for autocast) or None (fp32), whichever runs `step` faster on this machine, measured alternately."""

    def timed(dtype: torch.dtype | None) -> float:
        start = time.perf_counter()
        step(dtype)
        return time.perf_counter() - start

    times = [(timed(None), timed(torch.bfloat16)) for _ in range(repeats + 1)][1:]
    fp32, bf16 = (min(column) for column in zip(*times, strict=True))
    return torch.bfloat16 if bf16 < fp32 else None
