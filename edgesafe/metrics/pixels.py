"""How far two sets of pictures lie apart, pixel by pixel: pictures (N, 3, H, W) in [0, 1].

    PSNR = -10 log10 mean (a - b)^2, in dB, one a picture
"""

from typing import Any

import torch
from torch import Tensor

CEILING_DB = 120.0  # where fp32 rounding ends; equal pictures would be infinite


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """(N,), at most CEILING_DB."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(10 ** (-CEILING_DB / 10)))).float()


def difference(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Over all pictures; a level is one of the 256 of an 8-bit picture."""
    levels = (a - b).abs() * 255
    psnr = psnr_db(a, b)
    same = ((a * 255).round() == (b * 255).round()).flatten(1).all(1)
    return {
        "pictures": len(a),
        "identical_pictures": int(same.sum()),
        "lowest_psnr_db": round(float(psnr.min()), 2),
        "median_psnr_db": round(float(psnr.median()), 2),
        "largest_difference_levels": round(float(levels.max()), 4),
        "mean_difference_levels": round(float(levels.mean()), 6),
    }
