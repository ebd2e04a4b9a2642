"""A gallery in which the device's pictures are those that it posted; all other models draw here, as in any audit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..gallery import Gallery, Order, Progress
from ..leakage import Question
from ..runtimes.runtime import Runtime
from ..sources import Source


@dataclass(frozen=True)
class Received(Gallery):
    device: str = ""  # its name as a runtime
    beside: str = ""  # the runtime here that reads the same files, for what is asked of the tokenizer
    pictures: Callable[[tuple[Question, ...]], np.ndarray] = lambda questions: np.empty(0)

    def draw(self, order: Order, progress: Progress = lambda n: None) -> np.ndarray:
        if order.runtime != self.device:
            return super().draw(order, progress)
        found = self.pictures(order.cell.questions)
        progress(len(found))
        return found

    def model(self, source: Source, runtime: str) -> Runtime:
        return super().model(source, self.beside if runtime == self.device else runtime)
