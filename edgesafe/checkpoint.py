"""Resumable training state in one safetensors file: written whole, then renamed, so that a kill leaves the last one intact."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from .artifact import sync


def save(path: Path, groups: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> None:
    """Write named groups of tensors (`{"unet": unet.state_dict(), ...}`) and JSON-able facts, atomically.

    Raises: OSError, when the disk is full; the former file is then untouched.
    """
    flat = {f"{group}/{name}": tensor.detach().contiguous() for group, tensors in groups.items() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    try:
        save_file(flat, part, metadata={"meta": json.dumps(meta)})
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups and the facts that `save` wrote."""
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (the file is no mapping)
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
        return groups, json.loads(file.metadata()["meta"])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An Adam-like optimizer's state as flat tensors, `"<parameter index>.<slot>"`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": torch.as_tensor(value) for i, slots in state.items() for slot, value in slots.items()}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_tensors` back; hyper-parameters stay as the caller built them."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, slot = key.split(".", 1)
        weight = weights[int(index)]
        # A fused step walks through weights and moments alike, so the moments get the weight's strides.
        state.setdefault(int(index), {})[slot] = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
