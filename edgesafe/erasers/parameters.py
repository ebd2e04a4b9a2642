"""Which weights an eraser may move, by ESD's names (Gandikota 2023, section 4.1).

As the authors' code, "u" leaves a Stable Diffusion XL's embeddings of time, size and pooled text alone, and its first and last
convolutions: there it takes names with "block" in them and without "emb".
"""

from torch import nn

from ..errors import EdgeSafeError

SUBSETS = {
    "x": "cross-attention (attn2): styles and named things",
    "strict": "keys and values of cross-attention only",
    "u": "all but cross-attention: objects, nudity; of Stable Diffusion XL within its blocks and without embeddings",
    "selfattn": "self-attention (attn1)",
    "full": "every weight",
}


def select(network: nn.Module, subset: str) -> dict[str, nn.Parameter]:
    """The named parameters of the subset.

    Raises: EdgeSafeError for an unknown subset, and where this network has no such weight.
    """

    xl = getattr(getattr(network, "config", None), "addition_embed_type", None) == "text_time"

    def wanted(name: str) -> bool:
        match subset:
            case "x":
                return ".attn2." in name
            case "strict":
                return ".attn2.to_k." in name or ".attn2.to_v." in name
            case "u":
                return ".attn2." not in name and (not xl or ("block" in name and "emb" not in name))
            case "selfattn":
                return ".attn1." in name
            case "full":
                return True
        raise EdgeSafeError(f"eraser.parameters {subset!r} is unknown; known: {', '.join(SUBSETS)}")

    chosen = {name: p for name, p in network.named_parameters() if wanted(name)}
    if not chosen:
        raise EdgeSafeError(f"eraser.parameters {subset!r}: this network has no such weight; known: {', '.join(SUBSETS)}")
    return chosen
