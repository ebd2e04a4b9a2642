"""A UNet whose attention is in Apple's form for the Neural Engine before iOS 18 ("split-einsum").

Within each transformer all is (B, C, 1, S): S places, C channels, where the engine keeps its data. Projections are 1x1 convolutions instead
of linear layers, LayerNorm goes over the channels, and each of H heads is computed by itself, with k and q the places of keys and queries:

    a = softmax_k( einsum(bkhc, bchq -> bkhq) )         y = einsum(bchk, bkhq -> bchq)

Source: Apple, "Deploying Transformers on the Apple Neural Engine" (2022), and its ml-stable-diffusion. Same weights, same results; whether
it is faster on a device shows on that device only. `rewritten` shares the weights with the UNet and keeps their names.
"""

import copy

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from edgesafe.errors import EdgeSafeError

NOTE = "attention is in split-einsum form for the Neural Engine before iOS 18; its results were compared, its speed was not measured"


def rewritten(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Takes the text as (B, C, 1, S). Raises: EdgeSafeError for attention of another kind than Stable Diffusion's."""
    made = copy.deepcopy(unet, {id(x): x for x in (*unet.parameters(), *unet.buffers())})
    for path, module in list(made.named_modules()):
        if isinstance(module, Transformer2DModel):
            parent, _, name = path.rpartition(".")
            setattr(made.get_submodule(parent), name, Transformer(module, path))
    return made


class Transformer(nn.Module):
    """In the place of a Transformer2DModel."""

    def __init__(self, old: Transformer2DModel, path: str) -> None:
        super().__init__()
        if not old.is_input_continuous:
            raise _unknown(path, "a transformer over patches or tokens")
        self.norm, self.proj_in, self.proj_out = old.norm, _conv(old.proj_in), _conv(old.proj_out)
        blocks = old.transformer_blocks
        self.transformer_blocks = nn.ModuleList(Block(block, f"{path}.transformer_blocks.{i}") for i, block in enumerate(blocks))

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False, **_: None) -> tuple[Tensor]:
        x = self.proj_in(self.norm(hidden_states))  # (B, C, h, w)
        sides = x.shape[2:]
        x = x.flatten(2).unsqueeze(2)  # (B, C, 1, S)
        for block in self.transformer_blocks:
            x = block(x, encoder_hidden_states)
        return (self.proj_out(x.squeeze(2).unflatten(2, sides)) + hidden_states,)


class Block(nn.Module):
    def __init__(self, old: BasicTransformerBlock, path: str) -> None:
        super().__init__()
        if old.norm_type != "layer_norm" or old.pos_embed is not None or old.only_cross_attention or old.attn2 is None:
            raise _unknown(path, f"a block of norm {old.norm_type!r}, not one self- and one cross-attention after plain LayerNorms")
        if not isinstance(old.ff.net[0], GEGLU):
            raise _unknown(path, f"a {type(old.ff.net[0]).__name__} feed-forward, not GEGLU")
        self.norm1, self.norm2, self.norm3 = (Norm(norm) for norm in (old.norm1, old.norm2, old.norm3))
        self.attn1, self.attn2 = Heads(old.attn1, f"{path}.attn1"), Heads(old.attn2, f"{path}.attn2")
        self.ff = FeedForward(old.ff)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        y = self.norm1(x)
        x = self.attn1(y, y) + x
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class Norm(nn.Module):
    """LayerNorm over the channels of (B, C, 1, S)"""

    def __init__(self, old: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = old.weight, old.bias, old.eps

    def forward(self, x: Tensor) -> Tensor:
        c = x - x.mean(1, keepdim=True)
        y = c * (c.square().mean(1, keepdim=True) + self.eps).rsqrt()
        return y * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class Heads(nn.Module):
    """In the place of an Attention."""

    def __init__(self, old: Attention, path: str) -> None:
        super().__init__()
        extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
        found = [name for name in extras if getattr(old, name, None) is not None]
        if found or old.residual_connection or old.rescale_output_factor != 1:
            raise _unknown(path, f"attention with {', '.join(found) or 'a residual of its own'}")
        self.heads, self.scale = old.heads, old.scale
        self.to_q, self.to_k, self.to_v = _conv(old.to_q), _conv(old.to_k), _conv(old.to_v)
        self.to_out = nn.ModuleList([_conv(old.to_out[0])])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, 1, Q), (B, C', 1, K) -> (B, C, 1, Q)"""
        queries = (self.to_q(x) * self.scale).chunk(self.heads, 1)  # H of (B, d, 1, Q)
        keys = self.to_k(context).transpose(1, 3).chunk(self.heads, 3)  # H of (B, K, 1, d)
        values = self.to_v(context).chunk(self.heads, 1)
        made = []
        for q, k, v in zip(queries, keys, values, strict=True):
            a = torch.einsum("bkhc,bchq->bkhq", k, q).softmax(1)
            made.append(torch.einsum("bchk,bkhq->bchq", v, a))
        return self.to_out[0](torch.cat(made, 1))


class FeedForward(nn.Module):
    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        first = nn.Module()
        first.proj = _conv(old.net[0].proj)
        self.net = nn.ModuleList([first, nn.Identity(), _conv(old.net[2])])

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.net[0].proj(x).chunk(2, 1)
        return self.net[2](x * nn.functional.gelu(gate))


def _conv(old: nn.Module) -> nn.Conv2d:
    """The same weights as a 1x1 convolution; they are not copied."""
    if isinstance(old, nn.Conv2d):
        return old
    made = nn.Conv2d(old.in_features, old.out_features, 1, bias=old.bias is not None, device="meta")
    made.weight, made.bias = nn.Parameter(old.weight[:, :, None, None], requires_grad=False), old.bias
    return made


def _unknown(path: str, found: str) -> EdgeSafeError:
    return EdgeSafeError(f"--attention split-einsum: unet.{path} is {found}. Leave --attention out")
