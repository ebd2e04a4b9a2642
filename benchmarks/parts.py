"""Comma-separated names of a benchmark's own, as `--parts speed,memory` has them."""

from collections.abc import Sequence

import click


def asked(flag: str, given: str, known: Sequence[str], kind: str = "") -> list[str]:
    """The names in `given`. `kind`: what they are, for the message."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"{flag}: unknown {kind}{' ' * bool(kind)}{unknown[0]!r}; known: {', '.join(known)}")
    return names
