"""The emoji world's VAE: a stock AutoencoderKL, 64x64 pictures to 8x8 latents of 8 channels, trained on fresh renders.

L = |x - x'| + 2 (x - x')^2 + 0.5 |grad x - grad x'| + beta KL(q(z|x) || N(0, 1)), each a mean over its elements;
pictures in [-1, 1]. Afterwards the latents' mean and deviation are folded into the two 1x1 convolutions, so that
`scaling_factor` is Stable Diffusion's 0.18215.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from rich.progress import Progress
from torch import Generator, Tensor, nn

from .. import checkpoint
from .budget import Budget, faster_dtype
from .world import World

SCALING_FACTOR = 0.18215
LATENT_CHANNELS = 8
BATCH, PEAK_RATE, DECODER_RATE, KL_WEIGHT = 32, 1.5e-3, 6e-4, 2e-4


def build() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=64,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 96, 96),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=SCALING_FACTOR,
    )


def slope(error: Tensor) -> Tensor:
    """Mean |grad error|, along both sides summed; (B, 3, H, W)"""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def loss(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """pixels (B, 3, H, W) in [-1, 1]"""
    posterior = vae.encode(pixels).latent_dist
    error = vae.decode(posterior.sample()).sample.float() - pixels
    kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * slope(error) + KL_WEIGHT * kl


@torch.no_grad()
def psnr_db(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Of encode-then-decode at the posterior's mean, pictures in [-1, 1], clipped as a viewer would."""
    rebuilt = torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample for x in pixels.split(64)]).clamp(-1, 1)
    return float(-10 * torch.log10((rebuilt - pixels).div(2).square().mean()))


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Rescale the latents so that `scaling_factor` * z has mean 0 and deviation 1 in each channel, pictures unchanged."""
    posterior = [vae.encode(x).latent_dist for x in pixels.split(64)]
    z = torch.cat([p.mode() for p in posterior])
    mean, gain = z.mean((0, 2, 3)), 1 / (z.std((0, 2, 3)) * SCALING_FACTOR)
    c = vae.config.latent_channels
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    weight[:c] *= gain[:, None, None, None]
    bias[:c] = (bias[:c] - mean) * gain
    bias[c:] += 2 * gain.log()  # the second half is the log-variance
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(1)
    vae.post_quant_conv.weight /= gain[None, :, None, None]


def decoder_loss(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """The picture's terms alone, with the encoder left as it is; pixels (B, 3, H, W) in [-1, 1]"""
    with torch.no_grad():
        z = vae.encode(pixels).latent_dist.sample()
    error = vae.decode(z).sample.float() - pixels
    return 0.5 * error.abs().mean() + 4 * error.square().mean() + 0.5 * slope(error)


def _fit(
    vae: AutoencoderKL, module: nn.Module, objective: Callable, world: World, path: Path, minutes: float, seed: int, peak: float
) -> None:
    """Train `module`, a part of the VAE or all of it, on fresh renders; goes on from `path` where it left off."""
    name, generator, budget, step = path.stem, Generator().manual_seed(seed), Budget(minutes), 0
    optimizer = torch.optim.AdamW(module.parameters(), peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    if path.exists():
        groups, meta = checkpoint.load(path)
        module.load_state_dict(groups["vae"])
        checkpoint.restore_optimizer(optimizer, groups.get("optimizer", {}))
        generator.manual_seed(seed + meta["step"])
        budget, step = Budget(minutes, meta["spent_s"]), meta["step"]

    def update(dtype: torch.dtype | None, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            value = objective(vae, pixels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    def pixels() -> Tensor:
        return world.sample(BATCH, generator).pixels * 2 - 1

    def keep() -> None:
        groups = {"vae": module.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
        checkpoint.save(path, groups, {"step": step, "spent_s": budget.spent_s})

    if budget.tick() >= 1:
        return
    for group in optimizer.param_groups:
        group["lr"] = 1e-5  # the trial steps must not hurt
    dtype = faster_dtype(lambda d: update(d, pixels()))
    fresh = fresh_pixels(world)
    print(f"{name}: {dtype or 'fp32'}", flush=True)
    budget.start()
    with Progress() as bar:
        task = bar.add_task(name, total=1.0)
        while (progress := budget.tick()) < 1:
            for group in optimizer.param_groups:
                group["lr"] = budget.rate(step, peak)
            value = update(dtype, pixels())
            step += 1
            bar.update(task, completed=progress, description=f"{name} step {step} loss {value:.4f}")
            if step % 250 == 0:
                keep()
                print(f"{name} step {step} {budget.spent_s / 60:.1f} min, loss {value:.4f}, PSNR {psnr_db(vae, fresh):.2f} dB", flush=True)
    keep()


def fresh_pixels(world: World) -> Tensor:
    """256 pictures that no training saw, in [-1, 1]."""
    return world.sample(256, Generator().manual_seed(10**6)).pixels * 2 - 1


def train(world: World, folder: Path, minutes: float, decoder_minutes: float = 0.0, seed: int = 0) -> AutoencoderKL:
    """Train (or go on training) in `folder`; returns the VAE with its scale folded.

    `decoder_minutes` polish the decoder afterwards, the encoder untouched: the latents stay those that a UNet has learned.
    """
    torch.manual_seed(seed)
    vae = build()
    _fit(vae, vae, loss, world, folder / "vae.safetensors", minutes, seed, PEAK_RATE)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    _fit(vae, vae.decoder, decoder_loss, world, folder / "decoder.safetensors", decoder_minutes, seed + 10**5, DECODER_RATE)
    vae.eval().requires_grad_(False)
    fresh = fresh_pixels(world)
    fold_scale(vae, fresh)
    print(f"vae: PSNR {psnr_db(vae, fresh):.2f} dB on 256 fresh renders", flush=True)
    return vae
