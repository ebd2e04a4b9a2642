"""A weight file of a Core ML package (`weight.bin`), memory-mapped.

Layout (coremltools: mlmodel/src/MILBlob/Blob/StorageFormat.hpp), little-endian, every record on a multiple of 64 bytes:
    header    count u32, version u32 = 2, 56 bytes unused
    metadata  sentinel u32 = 0xDEADBEEF, data type u32, size in bytes u64, offset of the data u64, unused bits at its end u64, 32 unused
    data
A value in the program names the offset of its metadata.
"""

import struct
from pathlib import Path

import numpy as np

from edgesafe.errors import EdgeSafeError

from .datatypes import Kind

SENTINEL, VERSION, RECORD = 0xDEADBEEF, 2, 64  # bytes a header or a metadata
AGAIN = "The file is damaged: export the model again"


class Blob:
    def __init__(self, path: Path) -> None:
        """Raises: EdgeSafeError, where the file is absent or no weight file of the version that is known."""
        self.path = path
        if not path.is_file():
            raise EdgeSafeError(f"{path}: no such file, and the program keeps its weights there. Copy or export the package again")
        if path.stat().st_size < RECORD:
            raise EdgeSafeError(f"{path}: {path.stat().st_size} bytes, too few for a weight file. {AGAIN}")
        self._bytes = np.memmap(path, np.uint8, mode="c")  # copy-on-write: torch takes no read-only memory without a warning
        _, version = struct.unpack("<II", bytes(self._bytes[:8]))
        if version != VERSION:
            raise EdgeSafeError(f"{path}: its header says version {version}, and version {VERSION} is known. {AGAIN}")

    def read(self, offset: int, kind: Kind, count: int, what: str) -> np.ndarray:
        """The bytes of `count` elements of `kind`, not copied. `what`: the tensor, for errors."""
        if offset + RECORD > len(self._bytes):
            raise EdgeSafeError(f"{self.path}: {what} points at byte {offset} of {len(self._bytes)}. {AGAIN}")
        sentinel, number, size, start, _ = struct.unpack("<IIQQQ", bytes(self._bytes[offset : offset + 32]))
        if sentinel != SENTINEL:
            raise EdgeSafeError(f"{self.path}: no weight begins at byte {offset}, where {what} points. {AGAIN}")
        if number != kind.blob:
            raise EdgeSafeError(f"{self.path}: {what} is {kind.name} in the program, and of another data type ({number}) here. {AGAIN}")
        if size != (needed := -(-count * kind.bits // 8)):
            raise EdgeSafeError(f"{self.path}: {what} needs {needed} bytes, and {size} are stored. {AGAIN}")
        if start + size > len(self._bytes):
            raise EdgeSafeError(f"{self.path}: it ends at byte {len(self._bytes)}, before the end of {what} at {start + size}. {AGAIN}")
        return self._bytes[start : start + size]
