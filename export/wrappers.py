"""The parts of a pipeline as modules whose inputs and outputs are exactly those of an exported file.

ONNX, names and layouts as in Optimum's exports: B pictures, S tokens, C text width, c latent channels, h x w latents.
  text_encoder  input_ids (B, S) int64                                     -> last_hidden_state (B, S, C), pooler_output (B, C)
  unet          sample (B, c, h, w), timestep (), encoder_hidden_states (B, S, C)  -> out_sample (B, c, h, w)
  vae_decoder   latent_sample (B, c, h, w)                                 -> sample (B, 3, fh, fw) in [-1, 1]
  vae_encoder   sample (B, 3, fh, fw)                                      -> latent_parameters (B, 2c, h, w): mean, log-variance
Stable Diffusion XL:
  text_encoder     input_ids  -> last_hidden_state, pooler_output, hidden_states.0 ... hidden_states.L (B, S, C) of L layers
  text_encoder_2   input_ids  -> text_embeds (B, P), last_hidden_state, hidden_states.0 ... hidden_states.L
  unet             also text_embeds (B, P), time_ids (B, 6)

Core ML, as in the `Resources/` of Apple's ml-stable-diffusion; every shape fixed:
  TextEncoder   input_ids (1, S) float32                                   -> last_hidden_state (1, S, C), pooled_outputs (1, C)
  Unet          sample (B, c, h, w), timestep (B), encoder_hidden_states (B, C, 1, S)  -> noise_pred (B, c, h, w)
  VAEDecoder    z (1, c, h, w)                                             -> image (1, 3, fh, fw)
  VAEEncoder    x (1, 3, fh, fw)                                           -> latent (1, 2c, h, w)
Stable Diffusion XL: TextEncoder and TextEncoder2 give hidden_embeds (1, S, C), the states before the last layer, and pooled_outputs; the
Unet also takes time_ids (B, 6) and text_embeds (B, P).
Neither decoder divides by the VAE's scaling_factor: who calls it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.autograd import Function
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from edgesafe import families
from edgesafe.families import Family, StableDiffusion, StableDiffusionXL


class TextEncoder(nn.Module):
    """What the family's UNet reads of it: states (B, S, C), pooled (B, C) or (B, P)"""

    def __init__(self, text_encoder: CLIPTextModel | CLIPTextModelWithProjection, family: Family = StableDiffusion) -> None:
        super().__init__()
        self.text_model, self.text_projection = text_encoder.text_model, getattr(text_encoder, "text_projection", None)
        self.family = family

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        return families.encode(self.family, self, input_ids)


class AllStates(TextEncoder):
    """The states of every layer, as Optimum's exports of Stable Diffusion XL have them."""

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        made = self.text_model(input_ids, output_hidden_states=True)
        if self.text_projection is None:
            return made.last_hidden_state, made.pooler_output, *made.hidden_states
        return self.text_projection(made.pooler_output), made.last_hidden_state, *made.hidden_states


class AppleTextEncoder(TextEncoder):
    """CLIP with a causal mask of -1e4: CLIP's own -3.4e38 turns to -inf in fp16, and exp() of either is 0.

    The ids come as float32, which holds every whole number below 2^24.
    """

    def __init__(self, text_encoder: CLIPTextModel | CLIPTextModelWithProjection, tokens: int, family: Family = StableDiffusion) -> None:
        super().__init__(text_encoder, family)
        self.eos = text_encoder.config.eos_token_id
        self.register_buffer("mask", torch.full((1, 1, tokens, tokens), -1e4).triu(1))

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        ids = input_ids.to(torch.int32)
        states = self.text_model.embeddings(input_ids=ids)
        made = self.text_model.encoder(inputs_embeds=states, causal_attention_mask=self.mask, output_hidden_states=True)
        made.last_hidden_state = self.text_model.final_layer_norm(made.last_hidden_state)
        ends = ids if self.eos == 2 else (ids == self.eos).to(torch.int32)  # old configs say 2 and mean the largest id
        pooled = made.last_hidden_state[torch.arange(1), ends.argmax(-1)]
        return self.family.states(made), pooled if self.text_projection is None else self.text_projection(pooled)


class Unet(nn.Module):
    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *added: Tensor) -> Tensor:
        """`added`: text_embeds and time_ids, of Stable Diffusion XL."""
        conditions = dict(zip(StableDiffusionXL.added, added, strict=True)) if added else None
        return self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=conditions, return_dict=False)[0]


class AppleUnet(Unet):
    """The text comes as (B, C, 1, S), the layout that the Neural Engine prefers."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *added: Tensor) -> Tensor:
        return super().forward(sample, timestep, encoder_hidden_states.squeeze(2).transpose(1, 2), *added)


class VAEDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent, return_dict=False)[0]


class VAEEncoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels, return_dict=False)[0].parameters


class SplitHeads(Function):
    """(B, S, H d) -> (B, H, S, d), written to ONNX as one Reshape with a constant shape: no shape arithmetic at run time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, x: Any, heads: int) -> Any:
        shape = g.op("Constant", value_t=torch.tensor([0, 0, heads, -1]))
        return g.op("Transpose", g.op("Reshape", x, shape), perm_i=[0, 2, 1, 3])


class MergeHeads(Function):
    """(B, H, S, d) -> (B, S, H d)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        shape = g.op("Constant", value_t=torch.tensor([0, 0, -1]))
        return g.op("Reshape", g.op("Transpose", x, perm_i=[0, 2, 1, 3]), shape)


class PlainAttention:
    """softmax(q k' / sqrt(d)) v in the fewest ONNX nodes; the scale goes on q, so that a later fp16 product overflows last."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        scale = (attn.to_q.out_features / attn.heads) ** -0.5
        q = SplitHeads.apply(attn.to_q(hidden_states) * scale, attn.heads)  # (B, H, S, d)
        k = SplitHeads.apply(attn.to_k(context), attn.heads)  # (B, H, S', d)
        v = SplitHeads.apply(attn.to_v(context), attn.heads)
        return attn.to_out[0](MergeHeads.apply((q @ k.transpose(-1, -2)).softmax(-1) @ v))


@contextmanager
def plain_attention(unet: nn.Module) -> Iterator[None]:
    """Within the block, the UNet's ordinary attention layers compute with PlainAttention; any other kind keeps its own way."""
    swapped = {module: module.processor for module in unet.modules() if isinstance(module, Attention) and _is_ordinary(module)}
    try:
        for module in swapped:
            module.set_processor(PlainAttention())
        yield
    finally:
        for module, processor in swapped.items():
            module.set_processor(processor)


def _is_ordinary(attn: Attention) -> bool:
    extras = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.residual_connection or None)
    return type(attn.processor) is AttnProcessor2_0 and all(extra is None for extra in extras) and attn.rescale_output_factor == 1
