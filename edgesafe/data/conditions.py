"""What the UNet reads of captions, kept in memory."""

from collections.abc import Sequence
from functools import lru_cache

from .. import model
from ..families import Conditions, stack
from ..model import TextToImage
from .source import CACHE_BYTES


class TextConditions:
    """What the UNet reads of captions, each encoded once, alone (so that its bits do not depend on its neighbours)."""

    def __init__(self, net: TextToImage) -> None:
        size = 4 * net.tokenizer.model_max_length * net.unet.config.cross_attention_dim
        self._one = lru_cache(maxsize=max(64, CACHE_BYTES // 4 // size))(lambda caption: model.conditions(net, [caption]))

    def __call__(self, captions: Sequence[str]) -> Conditions:
        return stack(*(self._one(caption) for caption in captions))
