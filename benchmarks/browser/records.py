"""What a browser may post, and nothing else: each a JSON Schema with limits, or a PNG of the export's own size."""

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import jsonschema
from PIL import Image

from ..latency import CALLS

HOUR_MS = 3.6e6
JSON_BYTES = 64 * 1024
PNG_SPARE = 64 * 1024  # bytes of a PNG beside its pixels
SIGNATURE, HEADER = b"\x89PNG\r\n\x1a\n", 24  # of a PNG; bytes up to the end of its size
PHASES = ("download", "check", "compile", "cold start", "picture", "unet_call", "text_encoder", "vae_decoder", "pictures", "waiting")

Row = Mapping[str, Any]


class Rejected(Exception):
    """What was sent cannot be used; the session goes on."""

    def __init__(self, status: int, message: str, retry_s: int | None = None) -> None:
        """retry_s: after which a page may ask again by itself."""
        super().__init__(message)
        self.status, self.message, self.retry_s = status, message, retry_s


def _amount(most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": most}


def _perhaps(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


FAILED = _object(reason=_text(500))
DEVICE = _object(
    user_agent=_text(512),
    model=_perhaps(_text(128)),  # "Pixel 8", where the browser tells
    backend={"enum": ["wasm", "webgpu"]},
    threads={"type": "integer", "minimum": 1, "maximum": 1024},
    cores=_perhaps({"type": "integer", "minimum": 1, "maximum": 4096}),
    memory_gib=_perhaps(_amount(65536)),  # browsers round it
    adapter=_perhaps(_text(256)),  # of WebGPU
    isolated={"type": "boolean"},  # crossOriginIsolated: else no threads and a coarse clock
    clock_ms=_amount(1000),  # the smallest step of its clock that the page saw
)
COLD = _object(
    load_ms=_amount(HOUR_MS),
    first_picture_ms=_amount(HOUR_MS),
    download_ms=_perhaps(_amount(24 * HOUR_MS)),  # None: the files were there already
    download_bytes=_perhaps({"type": "integer", "minimum": 0, "maximum": 2**40}),
    held_mib=_perhaps(_amount(2**20)),  # by the page and its workers after the first picture
)
TIMES = _object(
    warm_up={"type": "integer", "minimum": 0, "maximum": 1000},
    samples_ms={"type": "array", "minItems": 1, "maxItems": CALLS, "items": _amount(HOUR_MS)},
)
LATENCY = {"anyOf": [TIMES, FAILED]}
PROGRESS = _object(doing={"enum": list(PHASES)}, share=_perhaps(_amount(1)))
FAULT = _object(message=_text(500))


def parse(body: bytes, schema: dict[str, Any], what: str) -> dict[str, Any]:
    """Raises: Rejected, with the place in the record that is wrong."""
    if len(body) > JSON_BYTES:
        raise Rejected(413, f"{what}: {len(body)} bytes, and {JSON_BYTES} is the most")
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Rejected(400, f"{what}: not valid JSON ({error})") from error
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(data))
    if wrong is not None:
        raise Rejected(422, f"{what}, {wrong.json_path}: {wrong.message[:200]}")
    return data


def picture(body: bytes, width: int, height: int) -> bytes:
    """The picture as a PNG of our own making: what came beside the pixels is left out. Raises: Rejected"""
    most = png_limit(width, height)
    if len(body) > most:
        raise Rejected(413, f"picture: {len(body)} bytes, and {most} is the most for {width} x {height} px")
    if body[:8] != SIGNATURE or len(body) < HEADER:
        raise Rejected(415, "picture: not a PNG")
    if (size := struct.unpack(">II", body[16:HEADER])) != (width, height):  # before anything of that size is unpacked
        raise Rejected(422, f"picture: {size[0]} x {size[1]} px, and this export draws {width} x {height} px")
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise Rejected(422, f"picture: its pixels are {image.mode}, and RGB is needed")
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for what is no PNG, or half of one
        raise Rejected(422, f"picture: not a readable PNG ({str(error)[:200]})") from error
    out = io.BytesIO()
    pixels.save(out, "PNG")
    return out.getvalue()


def png_limit(width: int, height: int) -> int:
    """Bytes: four channels, not compressed at all."""
    return 4 * width * height + height + PNG_SPARE


def printable(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")
