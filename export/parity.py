"""Does an export compute what torch computes? Measured on what each part really gets while pictures are drawn.

A few prompts are drawn with torch (DDIM, guidance, fixed seeds) and every part's inputs and outputs are recorded, the UNet's at every
step, so over all timesteps; the exported part then gets the same inputs. For a reference r and the export's e, over n values:

    PSNR = 20 log10( max|r| / sqrt(sum (r - e)^2 / n) )  dB      the worst recorded call counts; 35 dB is the gate

Last, the same pictures are drawn from the same starting latents through the exported parts alone and compared in levels of 0-255.
In all a UNet is called 3 x steps times, once by torch and twice by the export, each call with 2 x prompts samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage, token_ids

from .wrappers import TextEncoder, Unet, VAEDecoder, VAEEncoder

IDENTICAL_DB = 300.0  # stands for no difference at all, since JSON has no infinity
STEPS, GUIDANCE, SEED = 25, 4.0, 0
PROMPTS = ("a red apple", "a castle by the sea at night")


class Parts(Protocol):
    """A pipeline's parts as functions, whatever runs them. `vae_encoder` may be absent from an export."""

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]: ...  # (N, S) -> (N, S, C), (N, C)
    def text_encoder_2(self, ids: Tensor) -> tuple[Tensor, Tensor]: ...  # of Stable Diffusion XL: (N, S) -> (N, S, C), (N, P)
    def unet(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor: ...  # (N, c, h, w), (), conditions as in families.py
    def vae_decoder(self, latents: Tensor) -> Tensor: ...  # (N, c, h, w) -> (N, 3, H, W)
    def vae_encoder(self, pixels: Tensor) -> Tensor: ...  # (N, 3, H, W) -> (N, 2c, h, w)


class TorchParts:
    def __init__(self, model: TextToImage) -> None:
        self._text = {name: TextEncoder(getattr(model, name), model.family) for name in model.family.tokenizers}
        self._unet = Unet(model.unet)
        self._decoder, self._encoder = VAEDecoder(model.vae), VAEEncoder(model.vae)

    @torch.no_grad()
    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._text["text_encoder"](ids)

    @torch.no_grad()
    def text_encoder_2(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._text["text_encoder_2"](ids)

    @torch.no_grad()
    def unet(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self._unet(sample, timestep, *given)

    @torch.no_grad()
    def vae_decoder(self, latents: Tensor) -> Tensor:
        return self._decoder(latents)

    @torch.no_grad()
    def vae_encoder(self, pixels: Tensor) -> Tensor:
        return self._encoder(pixels)


@dataclass
class Recording:
    """What torch's parts got and gave: for each part a list of (inputs, outputs). All UNet calls share one set of conditions."""

    prompts: tuple[str, ...]
    ids: dict[str, Tensor]  # text encoder -> (N + 1, S): the prompts and, last, the empty one
    noise: Tensor  # (N, c, h, w)
    calls: dict[str, list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]] = field(default_factory=dict)
    picture: Tensor | None = None  # (N, H, W, 3) uint8
    steps: int = STEPS  # DDIM steps, so recorded UNet calls


def record(
    model: TextToImage, prompts: Sequence[str], height: int, width: int, advance: Callable[[], None], steps: int = STEPS
) -> Recording:
    """Draw the prompts with torch; height, width in pixels. `advance` is called once for each of `steps`."""
    ids = {encoder: token_ids(tokenizer, [*prompts, ""]) for encoder, tokenizer in model.tokenizers().items()}
    shape = (model.latent_shape[0], height // model.vae_factor, width // model.vae_factor)
    noise = sampling.starting_latents([SEED + i for i in range(len(prompts))], shape)
    recording = Recording(tuple(prompts), ids, noise, steps=steps)
    parts = TorchParts(model)
    recording.picture = draw(_Recorder(parts, recording.calls), model, recording, advance)
    pixels = recording.calls["vae_decoder"][0][1][0].clamp(-1, 1)
    recording.calls["vae_encoder"] = [((pixels,), (parts.vae_encoder(pixels),))]
    return recording


def draw(parts: Parts, model: TextToImage, recording: Recording, advance: Callable[[], None]) -> Tensor:
    """(N, H, W, 3) uint8, from the recording's ids and starting latents."""
    encoded = [getattr(parts, name)(ids) for name, ids in recording.ids.items()]
    height, width = (side * model.vae_factor for side in recording.noise.shape[2:])
    given = model.family.conditions(encoded, [*recording.prompts, ""], (height, width), model.zero_empty)
    text, empty = [rows[:-1] for rows in given], [rows[-1:] for rows in given]
    scheduler, steps = sampling.scheduler("ddim", model.scheduler_config), recording.steps
    latents = sampling.sample(parts.unet, text, empty, recording.noise, scheduler, steps, GUIDANCE, callback=lambda *_: advance())
    pixels = parts.vae_decoder(latents / model.vae.config.scaling_factor)
    return pixels.div(2).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)


def measure(model: TextToImage, recording: Recording, parts: Parts, names: Sequence[str], advance: Callable[[], None]) -> dict[str, Any]:
    """The manifest's `parity`; `advance` is called twice for each of the recording's steps.

    Raises: EdgeSafeError where a part gives a value that is not finite.
    """
    found = components(recording, parts, names, advance)
    difference = (draw(parts, model, recording, advance).int() - recording.picture.int()).abs()
    picture = {"max_levels": int(difference.max()), "mean_levels": float(difference.float().mean()), "pictures": len(recording.prompts)}
    drawn = {"prompts": list(recording.prompts), "steps": recording.steps, "guidance": GUIDANCE, "seed": SEED}
    return {"measured": True, "components": found, "picture": picture, **drawn}


def components(recording: Recording, parts: Parts, names: Sequence[str], advance: Callable[[], None]) -> dict[str, dict[str, Any]]:
    """For each part the worst and the median PSNR over its recorded calls, and for the UNet at which timestep the worst was."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = []
        for inputs, outputs in recording.calls[name]:
            got = getattr(parts, name)(*inputs)
            for reference, other in zip(outputs, got if isinstance(got, tuple) else (got,), strict=True):
                rows.append((*compare(name, reference, other), inputs))
            if name == "unet":
                advance()
        worst = min(rows, key=lambda row: row[0])
        found[name] = {
            "psnr_db": worst[0],
            "median_db": median(row[0] for row in rows),
            "max_abs": max(row[1] for row in rows),
            "cosine": min(row[2] for row in rows),
            "calls": len(recording.calls[name]),
        }
        if name == "unet":
            found[name]["worst_timestep"] = int(worst[3][1])
    return found


def compare(name: str, reference: Tensor, other: Tensor) -> tuple[float, float, float]:
    """(PSNR in dB, largest absolute difference, cosine)"""
    if reference.shape != other.shape:
        shapes = f"{tuple(other.shape)}, torch {tuple(reference.shape)}"
        raise EdgeSafeError(f"{name}: the exported part gives the shape {shapes}.")
    broken = int((~other.isfinite()).sum())
    if broken:
        torch_too = "torch's own values are not finite either: the model is broken"
        hint = "fp16 cannot hold its values, try --precision fp32" if reference.isfinite().all() else torch_too
        raise EdgeSafeError(f"{name}: {broken} of {other.numel()} values of the exported part are not finite; {hint}.")
    r, e = reference.double().flatten(), other.double().flatten()
    rmse, peak = float((r - e).square().mean().sqrt()), float(r.abs().max())
    psnr_db = IDENTICAL_DB if rmse == 0 else 20 * float(torch.log10(torch.tensor(max(peak, 1e-30) / rmse, dtype=torch.float64)))
    return min(psnr_db, IDENTICAL_DB), float((r - e).abs().max()), float(torch.nn.functional.cosine_similarity(r, e, dim=0))


class _Recorder:
    """Parts that pass every call on and keep it."""

    def __init__(self, parts: Parts, calls: dict[str, list]) -> None:
        self._parts, self._calls = parts, calls

    def text_encoder(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._keep("text_encoder", (ids,), self._parts.text_encoder(ids))

    def text_encoder_2(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._keep("text_encoder_2", (ids,), self._parts.text_encoder_2(ids))

    def unet(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        return self._keep("unet", (sample, timestep, *given), (self._parts.unet(sample, timestep, *given),))[0]

    def vae_decoder(self, latents: Tensor) -> Tensor:
        return self._keep("vae_decoder", (latents,), (self._parts.vae_decoder(latents),))[0]

    def _keep(self, name: str, inputs: tuple[Tensor, ...], outputs: Any) -> Any:
        self._calls.setdefault(name, []).append((inputs, outputs))
        return outputs
