"""Read half-precision weights into a full-precision module in little more memory than the module itself.

`from_pretrained` holds the file's pages and the widened weights at once: 1.5 times the module for fp16. Here the file is opened again for
every few weights, so that the pages read before are given back.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

AT_ONCE = 2**27  # bytes of a file between two openings


def read(cls: Any, folder: Path, files: Sequence[Path], dtype: torch.dtype) -> Any | None:
    """A diffusers module of class `cls` in `dtype`; None where the files' names or shapes are not exactly the module's."""
    with torch.device("meta"):
        part = cls.from_config(cls.load_config(folder, local_files_only=True))
    wanted = {name: tensor.shape for name, tensor in part.state_dict().items()}
    found = {}
    for path in files:
        with safe_open(path, "pt") as file:
            names = file.keys()  # a list; the file itself cannot be iterated
            found |= {name: (path, torch.Size(file.get_slice(name).get_shape())) for name in names}
    if {name: shape for name, (_, shape) in found.items()} != wanted:
        return None
    for path in files:
        names = [name for name, (place, _) in found.items() if place == path]
        while names:
            names = _some(part, path, names, dtype)
    return part.eval()


def _some(part: Any, path: Path, names: list[str], dtype: torch.dtype) -> list[str]:
    """Read the first of `names`, up to AT_ONCE bytes; returns the others."""
    taken, size = {}, 0
    with safe_open(path, "pt") as file:
        for name in names:
            if size > AT_ONCE:
                break
            tensor = file.get_tensor(name)
            size += tensor.nbytes
            taken[name] = torch.empty_like(tensor, dtype=dtype).copy_(tensor)  # never a view of the file
    part.load_state_dict(taken, strict=False, assign=True)
    return names[len(taken) :]
