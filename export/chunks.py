"""A UNet as two modules that are called one after the other, cut where each holds about half of the weights.

An iPhone's memory takes half a UNet at a time, and Apple's Swift package runs `UnetChunk1` and then `UnetChunk2`, which gets the UNet's own
inputs and all that the first gave. The UNet is a row of layers, and the cut may fall between any two of them:

    chunk 1   sample, timestep, encoder_hidden_states, [text_embeds, time_ids]      -> hidden_states, time_embedding, skip_0, skip_1, ...
    chunk 2   [encoder_hidden_states,] hidden_states, time_embedding, skip_0, ...   -> noise_pred
"""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from edgesafe.errors import EdgeSafeError
from edgesafe.families import StableDiffusionXL

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
MIDDLE = ("NoneType", "UNetMidBlock2DCrossAttn")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
EXTRAS = ("class_embed_type", "encoder_hid_dim_type", "time_embedding_act_fn", "center_input_sample")
BEGIN = ("time_embedding", "add_embedding", "conv_in")
ADDED = (None, "text_time")  # the second is Stable Diffusion XL's


@dataclass
class Flow:
    """What one layer hands on to the next."""

    x: Tensor  # (B, C, h, w)
    emb: Tensor  # (B, E) the time embedding
    states: Tensor | None  # the text, as attention layers take it
    skips: list[Tensor]  # from the way down, for the way up


@dataclass(frozen=True)
class Layer:
    kind: str  # "resnet" | "attention" | "down" | "keep" | "join" | "up" | "end"
    path: str  # of its module in the UNet; "" for keep and end


@dataclass(frozen=True)
class Cut:
    at: int  # layers in chunk 1
    weights: tuple[int, int]  # of each chunk


class Chunk(nn.Module):
    def __init__(self, unet: UNet2DConditionModel, layers: tuple[Layer, ...], odd: bool, transposed: bool) -> None:
        """`odd`: the latents' sides are no multiple of the UNet's factor, so that upsampling aims at the next skip's size.

        `transposed`: attention takes the text as (B, S, C), and it comes as (B, C, 1, S).
        """
        super().__init__()
        self.unet, self.layers, self.odd, self.transposed = unet, layers, odd, transposed

    @property
    def reads_text(self) -> bool:
        return any(layer.kind == "attention" for layer in self.layers)

    def run(self, x: Tensor, emb: Tensor, text: Tensor | None, skips: list[Tensor]) -> Flow:
        states = text.squeeze(2).transpose(1, 2) if self.transposed and text is not None else text
        flow = Flow(x, emb, states, skips)
        for layer in self.layers:
            _run(self.unet, layer, flow, self.odd)
        return flow


class Chunk1(Chunk):
    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *added: Tensor) -> tuple[Tensor, ...]:
        """`added`: text_embeds and time_ids, of Stable Diffusion XL."""
        emb = self.unet.time_embedding(self.unet.get_time_embed(sample, timestep))
        if added:
            conditions = dict(zip(StableDiffusionXL.added, added, strict=True))
            emb = emb + self.unet.get_aug_embed(emb, encoder_hidden_states, conditions)
        x = self.unet.conv_in(sample)
        flow = self.run(x, emb, encoder_hidden_states, [x])
        return flow.x, flow.emb, *flow.skips


class Chunk2(Chunk):
    def forward(self, *given: Tensor) -> Tensor:
        text, given = (given[0], given[1:]) if self.reads_text else (None, given)
        return self.run(given[0], given[1], text, list(given[2:])).x


def split(unet: UNet2DConditionModel, sides: tuple[int, int], transposed: bool = True) -> tuple[Chunk1, Chunk2, Cut]:
    """`sides`: of the latents. Raises: EdgeSafeError for a UNet of other blocks than Stable Diffusion's."""
    row, odd = layers(unet), any(side % 2**unet.num_upsamplers for side in sides)
    cut = balance(unet, row)
    return Chunk1(unet, row[: cut.at], odd, transposed), Chunk2(unet, row[cut.at :], odd, transposed), cut


def balance(unet: UNet2DConditionModel, row: tuple[Layer, ...]) -> Cut:
    """Where the two halves differ least in weights; of equal places the first, which hands on the least."""
    first = [part for name in BEGIN if (part := getattr(unet, name, None)) is not None]
    sizes = [_weights(*first), *(_weights(*_modules(unet, layer)) for layer in row)]
    total = sum(sizes)
    at = min(range(1, len(row)), key=lambda i: abs(total - 2 * sum(sizes[: i + 1])))
    before = sum(sizes[: at + 1])
    return Cut(at, (before, total - before))


def layers(unet: UNet2DConditionModel) -> tuple[Layer, ...]:
    """In the order in which they run, after the time embedding and the first convolution."""
    _refuse(unet)
    row: list[Layer] = []
    for i, block in enumerate(unet.down_blocks):
        row += [layer for pair in _pairs(block, f"down_blocks.{i}", "resnet") for layer in (*pair, Layer("keep", ""))]
        row += [Layer("down", f"down_blocks.{i}.downsamplers.{j}") for j in range(len(block.downsamplers or ()))]
        row += [Layer("keep", "")] if block.downsamplers else []
    if unet.mid_block is not None:
        row.append(Layer("resnet", "mid_block.resnets.0"))
        for j in range(len(unet.mid_block.attentions)):
            row += [Layer("attention", f"mid_block.attentions.{j}"), Layer("resnet", f"mid_block.resnets.{j + 1}")]
    for i, block in enumerate(unet.up_blocks):
        row += [layer for pair in _pairs(block, f"up_blocks.{i}", "join") for layer in pair]
        row += [Layer("up", f"up_blocks.{i}.upsamplers.{j}") for j in range(len(block.upsamplers or ()))]
    return (*row, Layer("end", ""))


def _pairs(block: nn.Module, path: str, kind: str) -> list[list[Layer]]:
    attends = getattr(block, "has_cross_attention", False)
    return [
        [Layer(kind, f"{path}.resnets.{j}"), *([Layer("attention", f"{path}.attentions.{j}")] if attends else [])]
        for j in range(len(block.resnets))
    ]


def _run(unet: UNet2DConditionModel, layer: Layer, flow: Flow, odd: bool) -> None:
    part = unet.get_submodule(layer.path)
    if layer.kind == "keep":
        flow.skips.append(flow.x)
    elif layer.kind == "end":
        flow.x = unet.conv_out(unet.conv_act(unet.conv_norm_out(flow.x)))
    elif layer.kind == "attention":
        flow.x = part(flow.x, encoder_hidden_states=flow.states, return_dict=False)[0]
    elif layer.kind == "down":
        flow.x = part(flow.x)
    elif layer.kind == "up":
        flow.x = part(flow.x, flow.skips[-1].shape[2:] if odd else None)
    else:
        flow.x = part(torch.cat([flow.x, flow.skips.pop()], 1) if layer.kind == "join" else flow.x, flow.emb)


def _modules(unet: UNet2DConditionModel, layer: Layer) -> tuple[nn.Module, ...]:
    if layer.kind == "end":
        return unet.conv_norm_out, unet.conv_out
    return () if layer.kind == "keep" else (unet.get_submodule(layer.path),)


def _weights(*modules: nn.Module) -> int:
    return sum(x.numel() for module in modules for x in module.parameters())


def _refuse(unet: UNet2DConditionModel) -> None:
    for blocks, known in ((unet.down_blocks, DOWN), ((unet.mid_block,), MIDDLE), (unet.up_blocks, UP)):
        for block in blocks:
            if type(block).__name__ not in known:
                raise EdgeSafeError(f"--chunked: this UNet has a {type(block).__name__}; known: {', '.join(known)}. Leave --chunked out")
    found = [key for key in EXTRAS if unet.config.get(key)]
    found += [] if unet.config.get("addition_embed_type") in ADDED else ["addition_embed_type"]
    if found or unet.conv_norm_out is None:
        raise EdgeSafeError(f"--chunked: this UNet has {', '.join(found) or 'no last norm'}, which is not known. Leave --chunked out")
