"""How an export's weights are stored in fewer bits: what was asked, for every target alike."""

import re
from dataclasses import dataclass

from edgesafe.errors import EdgeSafeError

PALETTES = (8, 6, 4)  # bits an index
WIDTHS = {"int8": 8, "int4": 4}
GOAL = re.compile(r"(\d+(?:\.\d+)?)(dB|MiB)")


@dataclass(frozen=True)
class Compression:
    """One of: palettes of 2^bits values a tensor, integers of `bits` bits with a scale, or a palette width chosen for each layer."""

    method: str  # "palettize" | "quantize" | "mixed"
    bits: int | None = None  # of palettize and quantize
    goal: tuple[float, str] | None = None  # of mixed: (40.0, "dB"), the UNet's lowest PSNR, or (300.0, "MiB"), its largest size
    keep_erased: bool = True  # layers whose erased change would be rounded away stay wider

    @property
    def name(self) -> str:
        """For folders and tables: 6bit, int8, mixed40dB."""
        if self.goal:
            return f"mixed{self.goal[0]:g}{self.goal[1]}"
        return f"{self.bits}bit" if self.method == "palettize" else f"int{self.bits}"


def asked(palettize: int | None, quantize: str | None, mixed: str | None, keep_erased: bool) -> Compression | None:
    """From the command's flags. Raises: EdgeSafeError for two at once and for values that are not known."""
    given = [flag for flag, value in (("--palettize", palettize), ("--quantize", quantize), ("--mixed", mixed)) if value is not None]
    if len(given) > 1:
        raise EdgeSafeError(f"{' and '.join(given)} exclude each other: give one of them")
    if palettize is not None:
        if palettize not in PALETTES:
            raise EdgeSafeError(f"--palettize {palettize} is not known; known: {', '.join(map(str, PALETTES))} bits")
        return Compression("palettize", palettize, keep_erased=keep_erased)
    if quantize is not None:
        if quantize not in WIDTHS:
            raise EdgeSafeError(f"--quantize {quantize!r} is not known; known: {', '.join(WIDTHS)}")
        return Compression("quantize", WIDTHS[quantize], keep_erased=keep_erased)
    if mixed is not None:
        goal = GOAL.fullmatch(mixed)
        if not goal or float(goal[1]) <= 0:
            raise EdgeSafeError(f"--mixed {mixed!r}: give the UNet's lowest parity, as in 40dB, or its largest size, as in 300MiB")
        return Compression("mixed", goal=(float(goal[1]), goal[2]), keep_erased=keep_erased)
    return None
