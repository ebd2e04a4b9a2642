"""Train the emoji world's teacher: `python -m edgesafe.emoji.teacher --minutes 240` (VAE first, then text encoder and UNet together).

A stock StableDiffusionPipeline: epsilon prediction, scaled_linear 0.00085-0.012. Every picture is drawn anew, encoded once and
seen `REPLAYS` times on average, under fresh noise and a fresh draw of its posterior, before it leaves the reservoir.
Timesteps follow p(t) ~ 0.3 + min(SNR(t), 5) / SNR(t) (min-SNR-5, arXiv 2303.09556, as a sampling density instead of a weight).
"""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from rich.progress import Progress
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .. import checkpoint, model, sampling
from ..model import TextToImage
from . import autoencoder, tokenizer
from .budget import Budget
from .world import World, prompt

BATCH, PEAK_RATE, DROPPED = 64, 1e-3, 0.1  # pictures a step; AdamW; share of captions emptied for guidance
REPLAYS, CAPACITY, FIRST_FILL = 4, 32_768, 6_144
SHORT = 18  # text tokens in most steps: captions are short, and the pad tokens cost a third of the time
LONG_EVERY, LONG_AFTER = 8, 0.8  # all 77 tokens in each 8th step, and in all steps of the last fifth
EMA = 0.999
WIDTHS, TEXT_WIDTH = (64, 96, 128, 128), 128


def schedule() -> DDIMScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # heads, by diffusers' old name
        norm_num_groups=16,
    )


def build_text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return CLIPTextModel(config)


@dataclass
class Reservoir:
    """Latents and caption ids of the newest pictures: `refresh` draws some anew, `take` gives a random batch."""

    world: World
    vae: AutoencoderKL
    tokens: CLIPTokenizer
    generator: Generator
    mean: Tensor = field(default_factory=lambda: torch.zeros(CAPACITY, autoencoder.LATENT_CHANNELS, 8, 8, dtype=torch.float16))
    std: Tensor = field(default_factory=lambda: torch.zeros(CAPACITY, autoencoder.LATENT_CHANNELS, 8, 8, dtype=torch.float16))
    ids: Tensor = field(default_factory=lambda: torch.zeros(CAPACITY, 77, dtype=torch.int64))
    drawn: int = 0

    @torch.no_grad()
    def refresh(self, n: int) -> None:
        batch = self.world.sample(n, self.generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.vae.encode(batch.pixels * 2 - 1).latent_dist
        rows = torch.arange(self.drawn, self.drawn + n) % CAPACITY
        self.mean[rows], self.std[rows] = posterior.mean.half(), posterior.std.half()
        self.ids[rows] = self.tokens(batch.captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        self.drawn += n

    def take(self, n: int) -> tuple[Tensor, Tensor]:
        """Scaled latents (n, C, 8, 8) and token ids (n, 77)."""
        rows = torch.randint(min(self.drawn, CAPACITY), (n,), generator=self.generator)
        mean, std = self.mean[rows].float(), self.std[rows].float()
        noise = torch.randn(mean.shape, generator=self.generator)
        return (mean + std * noise) * autoencoder.SCALING_FACTOR, self.ids[rows]


def diffusion_loss(
    unet: UNet2DConditionModel, text: CLIPTextModel, latents: Tensor, ids: Tensor, timesteps: Tensor, noise: Tensor
) -> Tensor:
    """Mean |eps_theta(x_t, t, text(ids)) - noise|^2; latents and noise (B, C, 8, 8), ids (B, L), timesteps (B,)."""
    alpha = schedule().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    return (unet(noisy, timesteps, text(ids).last_hidden_state).sample - noise).square().mean()


@torch.no_grad()
def draw(net: TextToImage, prompts: list[str]) -> Tensor:
    """(N, 3, 64, 64) in [0, 1]: DDIM with classifier-free guidance at the defaults of `sampling`, seed = row."""
    z = sampling.sample(
        lambda x, t, states: net.unet(x, t, states).sample,
        model.encode(net, prompts),
        model.encode(net, [""]),
        sampling.starting_latents(range(len(prompts)), net.latent_shape),
        schedule(),
    )
    return (net.vae.decode(z / autoencoder.SCALING_FACTOR).sample / 2 + 0.5).clamp(0, 1)


def sheet(pictures: Tensor, columns: int) -> Image.Image:
    """A contact sheet, twice the size."""
    n, c, h, w = pictures.shape
    grid = pictures.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(n // columns * h, columns * w, c)
    return Image.fromarray((grid * 255).round().byte().numpy()).resize((2 * columns * w, 2 * n // columns * h), Image.Resampling.NEAREST)


def train(world: World, folder: Path, vae: AutoencoderKL, minutes: float, seed: int = 1) -> None:
    """Train (or go on training) the UNet with its text encoder; writes checkpoints, previews and the EMA pipeline into `folder`."""
    torch.manual_seed(seed)
    tokens = tokenizer.build(folder / "tokenizer")
    unet, text = build_unet(), build_text_encoder(tokens)
    averaged_unet, averaged_text = build_unet().requires_grad_(False), build_text_encoder(tokens).requires_grad_(False)
    averaged_unet.load_state_dict(unet.state_dict())
    averaged_text.load_state_dict(text.state_dict())
    weights, averaged = [*unet.parameters(), *text.parameters()], [*averaged_unet.parameters(), *averaged_text.parameters()]
    net = TextToImage(averaged_unet, vae, averaged_text, tokens, dict(schedule().config), str(folder))
    optimizer = torch.optim.AdamW(weights, PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    budget, step, path = Budget(minutes), 0, folder / "teacher.safetensors"
    if path.exists():
        groups, meta = checkpoint.load(path)
        for name, module in {"unet": unet, "text": text, "ema_unet": averaged_unet, "ema_text": averaged_text}.items():
            module.load_state_dict(groups[name])
        checkpoint.restore_optimizer(optimizer, groups.get("optimizer", {}))
        budget, step = Budget(minutes, meta["spent_s"]), meta["step"]
    generator = Generator().manual_seed(seed * 10**6 + step)
    reservoir = Reservoir(world, vae, tokens, generator)
    while reservoir.drawn < FIRST_FILL:
        reservoir.refresh(256)

    snr = schedule().alphas_cumprod / (1 - schedule().alphas_cumprod)
    density = 0.3 + snr.clamp(max=5) / snr
    empty = tokens("", padding="max_length", return_tensors="pt").input_ids[0]
    shown = torch.linspace(0, len(world.subjects) - 1, 12).round().long().tolist()
    prompts = [prompt(world.subjects[s].name, t) for s in shown for t in world.styles]

    def keep() -> None:
        groups = {
            "unet": unet.state_dict(),
            "text": text.state_dict(),
            "ema_unet": averaged_unet.state_dict(),
            "ema_text": averaged_text.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(optimizer),
        }
        checkpoint.save(path, groups, {"step": step, "spent_s": budget.spent_s})
        model.save(net, folder / "pipeline")

    budget.start()
    losses, log = [], (folder / "loss.csv").open("a")
    previewed = budget.spent_s
    with Progress() as bar:
        task = bar.add_task("teacher", total=1.0)
        while (progress := budget.tick()) < 1:
            for group in optimizer.param_groups:
                group["lr"] = budget.rate(step, PEAK_RATE)
            if step % REPLAYS == 0:
                reservoir.refresh(BATCH)
            latents, ids = reservoir.take(BATCH)
            ids[torch.rand(BATCH, generator=generator) < DROPPED] = empty
            if step % LONG_EVERY and progress < LONG_AFTER:
                ids = ids[:, :SHORT]
            timesteps = torch.multinomial(density, BATCH, replacement=True, generator=generator)
            noise = torch.randn(latents.shape, generator=generator)
            value = diffusion_loss(unet, text, latents, ids, timesteps, noise)
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            decay = min(EMA, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, weights, 1 - decay)
            step += 1
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"teacher: the loss is {losses[-1]} at step {step}; the last checkpoint is {path}")
            if step % 100 == 0:
                mean, losses = sum(losses) / len(losses), []
                log.write(f"{step},{budget.spent_s:.0f},{mean:.5f}\n")
                log.flush()
                bar.update(task, completed=progress, description=f"teacher step {step} loss {mean:.4f}")
            if step % 500 == 0:
                keep()
                if budget.spent_s - previewed > 300:
                    previewed = budget.spent_s
                    pictures = draw(net, prompts)
                    sheet(pictures, len(world.styles)).save(folder / f"preview_{step:07d}.png")
                    print(f"teacher step {step} {budget.spent_s / 60:.1f} min, loss {mean:.4f}", flush=True)
    keep()
    sheet(draw(net, prompts), len(world.styles)).save(folder / f"preview_{step:07d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=240, help="training time of text encoder and UNet, over all sessions")
    parser.add_argument("--vae-minutes", type=float, default=30, help="training time of the VAE, over all sessions")
    parser.add_argument("--decoder-minutes", type=float, default=10, help="then of its decoder alone; may be given more at any time")
    parser.add_argument("--subjects", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("work/teacher"))
    args = parser.parse_args()
    world = World(args.subjects)
    vae = autoencoder.train(world, args.out, args.vae_minutes, args.decoder_minutes)
    train(world, args.out, vae, args.minutes)
    print(f"pipeline: {args.out / 'pipeline'}")


if __name__ == "__main__":
    main()
