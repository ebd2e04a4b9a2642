"""Prompts whose tokens may be any rows: what an attacker with the files can give a text encoder and no user can type.

    states = TextEncoder(rows + positions),   rows (N, S, D) in place of the embedding table's rows of the token ids

so that a gradient reaches the rows; N prompts, S tokens with start, end and padding, D the width of one text encoder. Stable Diffusion XL
has two text encoders, so everything here is kept by text encoder: {"text_encoder": ..., "text_encoder_2": ...}.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgesafe import checkpoint, families, sampling
from edgesafe.families import Conditions
from edgesafe.model import TextToImage

from ..gallery import Drawing
from ..leakage import Cell, Question
from ..runtimes.runtime import Runtime, to_uint8
from . import learned
from .probe import Probe, Target

ByEncoder = Mapping[str, Tensor]
WORD = re.compile("[a-z]+")


def tables(net: TextToImage) -> dict[str, Tensor]:
    """Text encoder -> its embedding table (V, D)."""
    return {name: getattr(net, name).get_input_embeddings().weight for name in net.family.tokenizers}


def padded(net: TextToImage, tokens: Sequence[int]) -> dict[str, Tensor]:
    """Text encoder -> (S,) start, `tokens`, end, padding; tokens that do not fit are cut."""
    ids = {}
    for name, tokenizer in net.tokenizers().items():
        kept = [tokenizer.bos_token_id, *tokens[: tokenizer.model_max_length - 2], tokenizer.eos_token_id]
        ids[name] = torch.tensor(kept + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(kept)))
    return ids


def tokens_of(net: TextToImage, text: str) -> list[int]:
    """Without start and end; the tokenizers of one model differ in their padding only."""
    return net.tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def words(net: TextToImage) -> Tensor:
    """(W,) ids that are one whole word of the letters a-z each: written side by side they are read back as the same ids."""
    tokenizer, found = net.tokenizer, []
    for token, number in tokenizer.get_vocab().items():
        text = token.removesuffix("</w>")
        if token != text and WORD.fullmatch(text) and tokenizer(text, add_special_tokens=False).input_ids == [number]:
            found.append(number)
    return torch.tensor(sorted(found))


def conditions(net: TextToImage, ids: ByEncoder, rows: ByEncoder) -> Conditions:
    """What the UNet reads where the text encoders see rows (N, S, D) in place of the tokens `ids` (N, S); with gradients."""
    encoded = []
    for name in net.family.tokenizers:
        encoder = getattr(net, name)
        with ExitStack() as stack:
            hook = encoder.get_input_embeddings().register_forward_hook(lambda *_, name=name: rows[name])
            stack.callback(hook.remove)
            encoded.append(families.encode(net.family, encoder, ids[name]))
    asked = ["a prompt"] * len(encoded[0][0])  # the family only wants to know that none is empty
    return net.family.conditions(encoded, asked, (net.picture_size,) * 2, net.zero_empty)


def draw(model: Runtime, given: Conditions, seeds: Sequence[int], drawing: Drawing) -> np.ndarray:
    """uint8 (N, H, W, 3): the model's own UNet and VAE on text states that no prompt need give. One batch."""
    latents = sampling.starting_latents(seeds, model.latent_shape)
    schedule = sampling.scheduler(drawing.sampler, model.scheduler_config)
    with torch.no_grad():
        latents = sampling.sample(model.unet_call, given, model.conditions([""]), latents, schedule, drawing.steps, drawing.guidance)
        return to_uint8(model.developed(latents))


def keep(path: Path, prompts: Sequence[str], given: Sequence[Conditions], facts: Mapping[str, Any]) -> None:
    """Write each prompt's conditions (one row each), atomically."""
    groups = {str(i): {str(j): column for j, column in enumerate(row)} for i, row in enumerate(given)}
    checkpoint.save(path, groups, {"prompts": list(prompts), **facts})


def kept(path: Path) -> tuple[dict[str, Conditions], dict[str, Any]]:
    """Prompt -> its conditions, and the facts; nothing where nothing was kept yet."""
    if not path.is_file():
        return {}, {}
    groups, facts = checkpoint.load(path)
    rows = [tuple(groups[str(i)][str(j)] for j in range(len(groups[str(i)]))) for i in range(len(facts["prompts"]))]
    return dict(zip(facts["prompts"], rows, strict=True)), facts


def stacked(found: Mapping[str, Conditions], prompts: Sequence[str]) -> Conditions:
    """A row a prompt."""
    return tuple(torch.cat(column) for column in zip(*(found[prompt] for prompt in prompts), strict=True))


class SoftPrompt(Probe):
    """A probe that learns text states on the erased weights, keeps them by plain prompt, and draws from them on any runtime."""

    attacker: ClassVar[str] = "files"
    needs: ClassVar[frozenset[str]] = frozenset({"twin", "control"})
    control_asked: ClassVar[str] = "plain"  # what is learned is made against the erased weights
    file: ClassVar[str]  # of what was learned

    def draw(self, model: Runtime, target: Target, cell: Cell, questions: Sequence[Question]) -> np.ndarray:
        found, _ = kept(self.place(target, cell))
        return draw(model, stacked(found, [q.origin for q in questions]), [q.seed for q in questions], target.drawing)

    def place(self, target: Target, cell: Cell) -> Path:
        return learned.place(self, target, self.file, ".safetensors", cell)
