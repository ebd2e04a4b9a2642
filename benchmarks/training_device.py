"""One training step of a random UNet of Stable Diffusion 2.1's size on a GPU: teacher forward, pruned student forward and backward, AdamW.

    MFU = FLOPs of the step / its time / what a matrix product reaches on the same device in the same dtype

FLOPs by torch's own counter on one row. Plain, channels-last and compiled, each in bf16; weights and optimizer in fp32.
"""

import contextlib
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgesafe.errors import EdgeSafeError
from edgesafe.losses import mse
from edgesafe.preparation import compile_blocks
from edgesafe.pruners.bk_sdm import BKSDM

SD21 = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # 866 M
TINY = {"sample_size": 8, "cross_attention_dim": 32, "block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "attention_head_dim": 4}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {"sd21": (SD21, 16, 4096), "tiny": (TINY, 2, 256)}  # config, batch, side of the product
FORMS = {"bf16": (False, False), "bf16, channels last": (True, False), "bf16, channels last, compiled": (True, True)}
STEPS = 8
GIB = 2**30


def measure(size: str) -> dict[str, Any]:
    """Raises: EdgeSafeError without a GPU, unless the size is "tiny"."""
    if size not in SIZES:
        raise EdgeSafeError(f"--size {size}: known are {', '.join(SIZES)}")
    if size != "tiny" and not torch.cuda.is_available():
        raise EdgeSafeError("--parts device: torch sees no CUDA device, and a step of this size takes minutes on a CPU. Try --size tiny")
    config, batch, side = SIZES[size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flops, peak = step_flops(config) * batch, product_flops(device, side)
    forms = FORMS if device.type == "cuda" else {name: form for name, form in FORMS.items() if not form[1]}
    rows = {}
    for name, form in forms.items():
        seconds, peak_bytes = timed(config, batch, device, *form)
        rows[name] = {
            "images_per_s": round(batch / seconds, 2),
            "tflops": round(flops / seconds / 1e12, 4),
            "mfu": round(flops / seconds / peak, 4),
            "peak_gib": round(peak_bytes / GIB, 2) if peak_bytes else None,
            "batch": batch,
        }
    says = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {"device": says, "size": size, "dtype": "bf16", "peak_tflops": round(peak / 1e12, 3), "rows": rows}


def networks(config: dict[str, Any], device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Teacher and BK-SDM small of it, random."""
    torch.manual_seed(0)
    with torch.device(device):
        teacher = UNet2DConditionModel(**config)
        student = UNet2DConditionModel.from_config(BKSDM("small").config(dict(teacher.config)))
    return teacher.eval().requires_grad_(False), student.train()


def step(teacher: nn.Module, student: nn.Module, batch: int, autocast: bool) -> Callable[[], torch.Tensor]:
    """The losses of one distillation step, with a gradient."""
    device, config = next(student.parameters()).device, student.config
    noisy = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size, device=device)
    given = torch.randn(batch, 77, config.cross_attention_dim, device=device)
    times, rows = torch.randint(1000, (batch,), device=device), torch.ones(batch, device=device)
    dtype = next(teacher.parameters()).dtype

    def losses() -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(noisy.to(dtype), times, given.to(dtype), return_dict=False)[0]
        with torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
            predicted = student(noisy, times, given, return_dict=False)[0]
        return mse(predicted, wanted, rows) + mse(predicted, noisy, rows)

    return losses


def step_flops(config: dict[str, Any]) -> int:
    """Of a step with one row, counted without computing."""
    teacher, student = networks(config, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        step(teacher, student, 1, autocast=False)().backward()
    return counter.get_total_flops()


def product_flops(device: torch.device, side: int) -> float:
    """FLOP/s of a bf16 matrix product, the best of several."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / min(_seconds(lambda: a @ a, device) for _ in range(10))


def timed(config: dict[str, Any], batch: int, device: torch.device, channels_last: bool, compiled: bool) -> tuple[float, int]:
    """Median seconds of a step, and the device's peak memory in bytes (0 on a CPU)."""
    teacher, student = networks(config, device)
    nn.Module.to(teacher, torch.bfloat16)
    if channels_last:
        teacher, student = (nn.Module.to(copy.deepcopy(n), memory_format=torch.channels_last) for n in (teacher, student))
    if compiled:
        compile_blocks(teacher)
        compile_blocks(student)
    optimizer, losses = torch.optim.AdamW(student.parameters(), 1e-5, fused=True), step(teacher, student, batch, autocast=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def whole() -> None:
        losses().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        whole()
    seconds = statistics.median(_seconds(whole, device) for _ in range(STEPS))
    return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
