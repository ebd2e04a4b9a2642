"""An ONNX file's graph without its weights in memory: each larger weight becomes a reference to where its bytes lie on the disk.

onnxruntime maps such references, packs the weights as its kernels want them and lets the file go, so that opening a changed graph costs
no second copy of the weights. Protocol buffers: https://protobuf.dev/programming-guides/encoding; the field numbers are onnx.proto's.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
INLINE = 1024  # bytes: shapes and scalars stay in the graph, where they can be folded
VARINT, BYTES = 0, 2  # wire types
FIXED = {1: 8, 5: 4}  # wire type -> bytes


def read(path: Path) -> Any:
    """The onnx.ModelProto; its weights over INLINE bytes are external, relative to the file's folder.

    Raises: ValueError for what is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            model, graph = onnx.ModelProto(), onnx.GraphProto()
            for number, begin, body, end in fields(data, 0, len(data)):
                if number != GRAPH:
                    model.MergeFromString(data[begin:end])
                    continue
                for inner, first, start, last in fields(data, body, end):
                    if inner == INITIALIZER:
                        graph.initializer.append(_tensor(data, start, last, path.name))
                    else:
                        graph.MergeFromString(data[first:last])
        except (DecodeError, IndexError) as error:
            raise ValueError(f"no ONNX model ({error})") from error
    if not graph.node:
        raise ValueError("an ONNX model without a graph")
    model.graph.CopyFrom(graph)
    return model


def fields(data: Any, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, begin of its tag, begin of its content, end) of each field of the message in data[begin:end]."""
    while begin < end:
        tag, at = varint(data, begin)
        if tag & 7 == BYTES:
            size, at = varint(data, at)
            last = at + size
        elif tag & 7 == VARINT:
            last = varint(data, at)[1]
        elif tag & 7 in FIXED:
            last = at + FIXED[tag & 7]
        else:
            raise ValueError(f"no ONNX model (a field of wire type {tag & 7})")
        if last > end:
            raise ValueError("no ONNX model (a field ends behind its message)")
        yield tag >> 3, begin, at, last
        begin = last


def varint(data: Any, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, and where it ends."""
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _tensor(data: Any, begin: int, end: int, name: str) -> Any:
    import onnx

    tensor, raw = onnx.TensorProto(), None
    for number, first, start, last in fields(data, begin, end):
        if number == RAW_DATA and last - start > INLINE:
            raw = start, last - start
        else:
            tensor.MergeFromString(data[first:last])
    if raw:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", raw[0]), ("length", raw[1])):
            tensor.external_data.add(key=key, value=str(value))
    return tensor
