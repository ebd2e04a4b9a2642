"""A manifest that vouches for itself: the sha256 of its own text, written into that text.

It is taken with 64 zeros in its place, so `stamp` and `intact` see the same bytes; one changed byte anywhere shows.
"""

import hashlib
import re

KEY = "manifest_sha256"
ZEROS = "0" * 64
HELD = re.compile(rf'("{KEY}": ")([0-9a-f]{{64}})(")'.encode())


def stamp(text: str) -> str:
    """`text` is JSON that holds "manifest_sha256": 64 zeros; returned with the hash there."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return text.replace(f'"{KEY}": "{ZEROS}"', f'"{KEY}": "{digest}"', 1)


def intact(data: bytes) -> bool | None:
    """Whether the text still has its own hash; None if it holds none."""
    found = HELD.search(data)
    if not found:
        return None
    bare = data[: found.start(2)] + ZEROS.encode() + data[found.end(2) :]
    return hashlib.sha256(bare).hexdigest().encode() == found[2]
