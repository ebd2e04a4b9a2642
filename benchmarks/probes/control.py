"""The un-erased model on torch, opened once for all batches of the probes that use it."""

from functools import lru_cache

from edgesafe.errors import EdgeSafeError

from .. import runtimes
from ..runtimes.runtime import Runtime
from .probe import Target, there


def why_not(target: Target) -> str | None:
    """Why torch cannot run the control that is there; None if it can, or if none is there."""
    if isinstance(target.control, Exception):
        return None
    return runtimes.readers(target.control.place)[1].get("torch")


def control(target: Target) -> Runtime:
    """Raises: EdgeSafeError where there is no control."""
    if reason := why_not(target):
        raise EdgeSafeError(reason)
    return _open(there(target.control).place, target.threads)


@lru_cache(maxsize=1)
def _open(place: str, threads: int) -> Runtime:
    return runtimes.load(place, "torch", threads)
