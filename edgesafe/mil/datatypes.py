"""The data types of Core ML's ML programs: how each is stored, and the torch type that carries its values here.

Numbers in MIL.proto's `DataType` and in a weight file's metadata (coremltools: mlmodel/src/MILBlob/Blob/BlobDataType.hpp) differ.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Kind:
    name: str
    number: int  # in MIL.proto
    bits: int  # of one element in a file
    stored: type[np.generic]  # of an unpacked element
    carrier: torch.dtype  # of a computed tensor
    blob: int | None = None  # number in a weight file's metadata

    @property
    def floating(self) -> bool:
        return self.carrier.is_floating_point

    @property
    def signed(self) -> bool:
        return not issubclass(self.stored, np.unsignedinteger)


BOOL = Kind("bool", 1, 8, np.bool_, torch.bool)
STRING = Kind("string", 2, 8, np.str_, torch.uint8)
FP16 = Kind("fp16", 10, 16, np.float16, torch.float32, 1)
FP32 = Kind("fp32", 11, 32, np.float32, torch.float32, 2)
KINDS = {
    kind.number: kind
    for kind in (
        BOOL,
        STRING,
        FP16,
        FP32,
        Kind("int8", 21, 8, np.int8, torch.int8, 4),
        Kind("int16", 22, 16, np.int16, torch.int16, 6),
        Kind("int32", 23, 32, np.int32, torch.int32, 14),
        Kind("int64", 24, 64, np.int64, torch.int64),
        Kind("int4", 25, 4, np.int8, torch.int8, 8),
        Kind("uint8", 31, 8, np.uint8, torch.uint8, 3),
        Kind("uint16", 32, 16, np.uint16, torch.int32, 7),  # torch computes little with unsigned types: the next wider one carries
        Kind("uint32", 33, 32, np.uint32, torch.int64, 15),
        Kind("uint4", 35, 4, np.uint8, torch.uint8, 11),
        Kind("uint2", 36, 2, np.uint8, torch.uint8, 10),
        Kind("uint1", 37, 1, np.uint8, torch.uint8, 9),
        Kind("uint6", 38, 6, np.uint8, torch.uint8, 13),
        Kind("uint3", 39, 3, np.uint8, torch.uint8, 12),
    )
}
NAMES = {kind.name: kind for kind in KINDS.values()}


def unpack(packed: np.ndarray, bits: int, count: int, signed: bool = False) -> np.ndarray:
    """`count` integers of `bits` < 8 bits from bytes, each byte filled from its lowest bit and indices crossing bytes -> (count,) 8-bit."""
    block = math.lcm(bits, 8) // 8  # bytes after which the pattern repeats
    padded = np.pad(packed, (0, -len(packed) % block)).reshape(-1, block)
    words: np.ndarray = (
        padded[:, 0] if block == 1 else (padded.astype(np.uint32) << np.arange(0, 8 * block, 8, dtype=np.uint32)).sum(1, np.uint32)
    )
    shifts = np.arange(0, 8 * block, bits, dtype=words.dtype)
    values = ((words[:, None] >> shifts) & words.dtype.type(2**bits - 1)).astype(np.uint8).reshape(-1)[:count]
    if not signed:
        return values
    top = np.uint8(2 ** (bits - 1))
    return (values ^ top).view(np.int8) - np.int8(top)
