"""A cell of a report that cannot be measured is shown as failed, with its reason; it is never left out and never stops the others.

One that the user stops is not failed: it is made when the report is made again.
"""

from collections.abc import Callable
from typing import Any

from edgesafe.errors import EdgeSafeError, Stopped, is_full_disk

CAUGHT = (EdgeSafeError, OSError, RuntimeError, MemoryError)  # torch raises RuntimeError; anything else is a bug and must be seen


def attempt(measure: Callable[[], dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """`facts` and what `measure` returns, with status "measured"; or `facts` with status "failed" and the reason."""
    try:
        return {**facts, "status": "measured", "reason": None, **measure()}
    except CAUGHT as error:
        if isinstance(error, Stopped) or is_full_disk(error):
            raise
        return {**facts, "status": "failed", "reason": str(error).strip() or type(error).__name__}
