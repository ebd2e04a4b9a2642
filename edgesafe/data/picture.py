"""From pictures to the VAE's posteriors."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..model import TextToImage

UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises
AT_ONCE = 32  # pictures opened and encoded at once
WORKERS = 4  # threads that open pictures


@torch.no_grad()
def encode_pixels(net: TextToImage, pixels: Tensor, chunk: int = AT_ONCE) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) in [0, 1] -> mean and deviation (N, C, h, w), fp16 on the CPU."""
    parts = []
    for x in pixels.split(chunk):
        if x.shape[-1] != net.picture_size:
            x = F.interpolate(x, size=(net.picture_size,) * 2, mode="bilinear", antialias=True)
        posterior = net.vae.encode((x * 2 - 1).to(net.vae.device, net.vae.dtype)).latent_dist
        parts.append((posterior.mean.half().cpu(), posterior.std.half().cpu()))
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    return mean, std


def read_picture(path: Path, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the picture's middle square."""
    with Image.open(path) as image:
        return square(image, size)


def square(image: Image.Image, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the middle."""
    cut = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255


def unreadable(path: Path) -> str | None:
    """Why the file cannot be read, if so."""
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE as error:
        return reason(error)
    return None


def reason(error: BaseException) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else f"not a readable picture ({type(error).__name__})"
