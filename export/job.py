"""What compressing a part may look at beside its files: the model, what torch gave on real trajectories, and the un-erased model."""

from collections.abc import Callable
from dataclasses import dataclass

from edgesafe.model import TextToImage

from . import parity


@dataclass(frozen=True)
class Job:
    model: TextToImage
    recording: parity.Recording
    control: Callable[[], TextToImage] | None  # loads the manifest's un-erased model; None: nothing was erased, or it is not here
