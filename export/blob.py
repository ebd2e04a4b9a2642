"""The weight file of a `.mlpackage` (version 2 of Core ML's blob storage), read and written record by record.

    header 64 bytes   uint32 records, uint32 version = 2, zeros
    record 64 bytes   uint32 0xDEADBEEF, uint32 type, uint64 bytes of data, uint64 offset of data, uint64 unused bits at its end, zeros
    data              little-endian; numbers of fewer than 8 bits are packed from the lowest bit on
Records and data begin at multiples of 64 bytes. A program refers to a tensor by the offset of its record.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from edgesafe.errors import ArtifactError

ALIGN, VERSION, SENTINEL = 64, 2, 0xDEADBEEF
HEADER, RECORD = struct.Struct("<II56x"), struct.Struct("<IIQQQ32x")
TYPES = {"float16": 1, "float32": 2, "uint8": 3, "int8": 4, "int4": 8, "uint4": 11, "uint6": 13}


class Reader:
    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open(path, "rb")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def raw(self, offset: int) -> tuple[int, int, bytes]:
        """(type, unused bits, data) of the record at `offset`. Raises: ArtifactError, where there is no whole record."""
        self._file.seek(offset)
        head = self._file.read(RECORD.size)
        if len(head) == RECORD.size:
            sentinel, kind, size, start, unused = RECORD.unpack(head)
            if sentinel == SENTINEL:
                self._file.seek(start)
                data = self._file.read(size)
                if len(data) == size:
                    return kind, unused, data
        raise ArtifactError(f"{self._path}: no whole record at byte {offset}. The file is damaged: export again")


class Writer:
    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self._file.write(bytes(HEADER.size))
        self._records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(HEADER.pack(self._records, VERSION))
        self._file.close()

    def raw(self, kind: int, unused: int, data: bytes | memoryview) -> int:
        """The new record's offset."""
        here = self._pad()
        self._file.write(RECORD.pack(SENTINEL, kind, len(data), here + RECORD.size, unused))
        self._file.write(data)
        self._pad()
        self._records += 1
        return here

    def array(self, values: np.ndarray, kind: str | None = None) -> int:
        """`kind`, one of TYPES, where it is narrower than the array's own; uint8 codes or int8 values are packed then."""
        kind = kind or values.dtype.name
        bits = int(kind.lstrip("uintfloa"))
        if bits >= 8:
            return self.raw(TYPES[kind], 0, memoryview(np.ascontiguousarray(values)).cast("B"))
        return self.raw(TYPES[kind], -values.size * bits % 8, memoryview(pack(values.ravel(), bits)))

    def _pad(self) -> int:
        self._file.write(bytes(-self._file.tell() % ALIGN))
        return self._file.tell()


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(n,) uint8 or int8 -> (ceil(n bits / 8),) uint8, for 4, 6 and 8 bits; the lowest bits of each, the first at the lowest place."""
    size = -(-codes.size * bits // 8)
    codes = codes.view(np.uint8)
    if bits == 8:
        return codes
    if codes.size % 4:
        codes = np.concatenate([codes, np.zeros(-codes.size % 4, np.uint8)])
    a, b, c, d = (codes[i::4] & (2**bits - 1) for i in range(4))
    pairs = (a | b << 4, c | d << 4) if bits == 4 else (a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2)
    return np.stack(pairs, 1).ravel()[:size]
