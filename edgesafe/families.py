"""What differs between families of text-to-image models: a pipeline's parts, and how prompts become what its UNet reads.

    Stable Diffusion 1 and 2   states: the text encoder's last hidden state (N, S, D)
    Stable Diffusion XL        states: both encoders' hidden states before their last layer, side by side (N, S, D1 + D2);
                               text_embeds: the second encoder's pooled and projected state (N, P);
                               time_ids: height, width, 0, 0, height, width in pixels (N, 6)     (Podell 2023, arXiv 2307.01952, 2.2)

A text encoder, of whichever runtime, gives (states, pooled) of token ids; `conditions` makes of them what the UNet takes after the
sample and the timestep, in its order.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Encoded = tuple[Tensor, Tensor]  # (N, S, D), (N, P)
Conditions = tuple[Tensor, ...]  # what the UNet reads of prompts, a row a prompt each; states (N, S, D) first
Part = tuple[str, str]  # library, class, as in model_index.json: naming them imports nothing
UNET, VAE, CLIP = ("diffusers", "UNet2DConditionModel"), ("diffusers", "AutoencoderKL"), ("transformers", "CLIPTextModel")
PRUNED_UNET = ("edgesafe", "PrunedUNet2DConditionModel")
STAND_INS: Mapping[Part, tuple[Part, ...]] = {UNET: (PRUNED_UNET,)}  # classes that a pipeline may have in a part's place


class StableDiffusion:
    """1 and 2."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    parts: ClassVar[Mapping[str, Part]] = {"text_encoder": CLIP, "unet": UNET, "vae": VAE}
    tokenizers: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}  # text encoder -> its tokenizer
    added: ClassVar[tuple[str, ...]] = ()  # the UNet's inputs after encoder_hidden_states
    options: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    @staticmethod
    def states(made: Any) -> Tensor:
        """(N, S, D) of what a CLIP text model gives."""
        return made.last_hidden_state

    @staticmethod
    def outputs(encoder: str, layers: int) -> tuple[str, str]:
        """Names of states and pooled among the outputs of a text encoder of so many layers, in Optimum's exports."""
        return "last_hidden_state", "pooler_output"

    @staticmethod
    def conditions(encoded: Sequence[Encoded], prompts: Sequence[str], size: tuple[int, int], zero_empty: bool) -> Conditions:
        """(states,). `encoded`: by each text encoder; `size`: height and width in pixels; `zero_empty`: an empty prompt is zeros."""
        return (encoded[0][0],)


class StableDiffusionXL:
    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    parts: ClassVar[Mapping[str, Part]] = {
        "text_encoder": CLIP,
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "unet": UNET,
        "vae": VAE,
    }
    tokenizers: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    added: ClassVar[tuple[str, ...]] = ("text_embeds", "time_ids")
    options: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}

    @staticmethod
    def states(made: Any) -> Tensor:
        return made.hidden_states[-2]

    @staticmethod
    def outputs(encoder: str, layers: int) -> tuple[str, str]:
        return f"hidden_states.{layers - 1}", "text_embeds" if encoder == "text_encoder_2" else "pooler_output"

    @staticmethod
    def conditions(encoded: Sequence[Encoded], prompts: Sequence[str], size: tuple[int, int], zero_empty: bool) -> Conditions:
        """(states, text_embeds, time_ids)"""
        states, pooled = torch.cat([states for states, _ in encoded], -1), encoded[-1][1]
        if zero_empty:
            kept = states.new_tensor([float(prompt != "") for prompt in prompts])
            states, pooled = states * kept[:, None, None], pooled * kept[:, None]
        ids = states.new_tensor([*size, 0, 0, *size]).expand(len(states), 6)
        return states, pooled, ids


Family = type[StableDiffusion] | type[StableDiffusionXL]
FAMILIES: dict[str, Family] = {family.pipeline: family for family in (StableDiffusion, StableDiffusionXL)}
ZERO_EMPTY = "force_zeros_for_empty_prompt"  # in a pipeline's model_index.json


def stack(*given: Conditions) -> Conditions:
    """The rows of several batches' conditions, one after the other."""
    return tuple(torch.cat(column) for column in zip(*given, strict=True))


def call(unet: nn.Module, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
    """The UNet's answer (B, C, h, w) to x_t and `conditions`, in its own dtype."""
    if len(given) == 1:
        return unet(sample, timestep, given[0], return_dict=False)[0]
    added = dict(zip(StableDiffusionXL.added, given[1:], strict=True))
    return unet(sample, timestep, given[0], added_cond_kwargs=added, return_dict=False)[0]


def encode(family: Family, encoder: nn.Module, ids: Tensor) -> Encoded:
    """ids (N, S) -> (N, S, D), (N, P)"""
    made = encoder.text_model(ids, output_hidden_states=True)
    projection = getattr(encoder, "text_projection", None)
    return family.states(made), projection(made.pooler_output) if projection is not None else made.pooler_output
