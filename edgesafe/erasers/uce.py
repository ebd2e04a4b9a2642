"""UCE: give a concept's text states the keys and values of its anchor, in closed form (Gandikota 2024, arXiv 2308.14761, eq. 7).

    W' = argmin_V  s_e sum_E ||V c - W a||^2 + s_p sum_P ||V p - W p||^2 + lambda ||V - W||^2
       = W M,   M = (lambda I + s_e sum_E a c^T + s_p sum_P p p^T) (lambda I + s_e sum_E c c^T + s_p sum_P p p^T)^-1

W (O, D) each cross-attention key and value projection; c, a, p (D,) states of the text encoder: of a concept's prompts, of the same
prompts with its anchor, and of what is kept. M (D, D) is the same for every W, so the whole costs one solve and a product a weight.

s_e = erase / |E| and s_p = keep / |P|: lambda then means the same for one prompt and for a thousand. The published code has s_e = s_p = 1,
one state a prompt (`tokens = "last"`, `prompts = "name"`). The text encoder is causal, so every token after the concept's own, the end
and the padding tell of it too; "all" edits them together, each against the token in its place in the anchor's prompt.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..concepts import retarget
from ..errors import EdgeSafeError
from .closed_form import ClosedForm, Edit

TOKENS = ("all", "text", "last")
PROMPTS = ("pairs", "name")


@dataclass(frozen=True)
class UCE(ClosedForm):
    tokens: str = "all"  # of a concept: "all" from its first on, the "text" ones among them (no padding), its "last" (as published)
    prompts: str = "pairs"  # that hold it: the concept's "pairs" (templates), or its "name" alone
    lambda_: float = 0.5  # lambda, pull to the weights as they are
    erase: float = 1.0  # weight of the concept's states, all together
    keep: float = 1.0  # weight of the kept states, all together: captions without the concept, anchors, the empty caption

    def __post_init__(self) -> None:
        for name, known in (("tokens", TOKENS), ("prompts", PROMPTS)):
            if getattr(self, name) not in known:
                raise EdgeSafeError(f"eraser.{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}")
        for name in ("lambda_", "erase"):
            if not getattr(self, name) > 0:
                raise EdgeSafeError(f"eraser.{name.rstrip('_')} {getattr(self, name)}: needs more than 0")
        if not self.keep >= 0:
            raise EdgeSafeError(f"eraser.keep {self.keep}: needs 0 or more")

    def edit(self, work: Edit) -> dict[str, float]:
        weights = keys_and_values(work.unet)
        E, A, P = self.states(work)
        before = [w.detach().cpu().double() for w in weights]
        M = edit_map(E, A, P, self.lambda_, self.erase / len(E), self.keep / len(P))
        write(weights, [w @ M for w in before])
        return {"weights_edited": len(weights), **effect(gram(before), M, E, A, P)}

    def states(self, work: Edit) -> tuple[Tensor, Tensor, Tensor]:
        """E and A (n, D), row by row a concept's state and its anchor's; P (m, D), what is kept. fp64, on the CPU.

        Raises: EdgeSafeError where no prompt holds a token of the concept.
        """
        prompts = [prompt for c in work.concepts for prompt in ((c.name,) if self.prompts == "name" else (p for p, _ in c.pairs))]
        pairs = [(prompt, retarget(prompt, work.concepts)) for prompt in dict.fromkeys(prompts)]
        tokenizer = work.net.tokenizer
        places_in_all = tokenizer.model_max_length

        def ids(prompt: str) -> list[int]:
            return tokenizer(prompt, add_special_tokens=False).input_ids[: places_in_all - 2]

        E: list[Tensor] = []
        A: list[Tensor] = []
        for prompt, anchor in work.show(pairs, "reading the concept's states"):
            places = aligned(ids(prompt), ids(anchor), self.tokens, places_in_all)
            c, a = (work.texts([text])[0][0] for text in (prompt, anchor))  # (S, D)
            E += [c[i] for i, _ in places]
            A += [a[j] for _, j in places]
        if not E:
            names = ", ".join(c.name for c in work.concepts)
            raise EdgeSafeError(f"--erase {names}: the anchor's prompts read as the concept's do, so nothing can be edited. See --anchor")
        kept = []
        captions = list(dict.fromkeys((*work.keep, *(anchor for _, anchor in pairs), "")))
        for caption in work.show(captions, "reading what is kept"):
            states = work.texts([caption])[0][0]
            kept.append(states if self.tokens == "all" else states[: len(ids(caption)) + 2])
        return torch.stack(E).cpu().double(), torch.stack(A).cpu().double(), torch.cat(kept).cpu().double()


def keys_and_values(unet: nn.Module) -> list[nn.Parameter]:
    """The weights (O, D) of every cross-attention to_k and to_v, whatever the blocks and their widths."""
    layers = [name for name, _ in unet.named_modules() if name.endswith((".attn2.to_k", ".attn2.to_v"))]
    found = [unet.get_parameter(f"{name}.weight") for name in layers]
    if not found:
        raise EdgeSafeError("--eraser uce, rece: this UNet has no cross-attention (attn2.to_k, attn2.to_v), so nothing reads the prompt")
    return found


def edit_map(E: Tensor, A: Tensor, P: Tensor, lambda_: float, erase: float, keep: float) -> Tensor:
    """M (D, D) of E, A (n, D) and P (m, D), with erase = s_e and keep = s_p."""
    kept = lambda_ * torch.eye(E.shape[1], dtype=E.dtype) + keep * P.T @ P
    return torch.linalg.solve(erase * E.T @ E + kept, erase * A.T @ E + kept, left=False)


def edit_weight(W: Tensor, E: Tensor, A: Tensor, P: Tensor, lambda_: float, erase: float, keep: float) -> Tensor:
    """W' (O, D) of W (O, D), concept states E and their anchors A (n, D), and states to keep P (m, D)."""
    return W @ edit_map(E, A, P, lambda_, erase, keep)


@torch.no_grad()
def write(weights: Iterable[Tensor], edited: Iterable[Tensor]) -> None:
    for weight, new in zip(weights, edited, strict=True):
        weight.copy_(new)


def gram(weights: Iterable[Tensor]) -> Tensor:
    """G (D, D) = sum_i W_i^T W_i: x G x^T is the squared length of all keys and values of a state x."""
    return torch.stack([w.T @ w for w in weights]).sum(0)


def length(G: Tensor, rows: Tensor) -> float:
    """Of all keys and values of the states (n, D), together."""
    return float(((rows @ G) * rows).sum().clamp(min=0).sqrt())


def effect(G: Tensor, M: Tensor, E: Tensor, A: Tensor, P: Tensor) -> dict[str, float]:
    """How much of the way from the anchor's keys and values to the concept's is left, and how far the kept ones moved."""
    left, moved = length(G, E @ M.T - A) / length(G, E - A), length(G, P @ M.T - P) / length(G, P)
    return {"concept_left": left, "kept_moved": moved}


def aligned(concept: list[int], anchor: list[int], tokens: str, length: int) -> list[tuple[int, int]]:
    """Places (of `length`, the first is the start token) where a prompt tells of the concept, each with its place in the anchor's prompt.

    Words that both prompts have face each other, as do the ends and the padding; a concept's words face the anchor's, the surplus its
    last one, or, where the anchor has no words, the token before.
    """
    matches = difflib.SequenceMatcher(None, concept, anchor, autojunk=False).get_opcodes()
    changed = [row for row in matches if row[0] != "equal"]
    if not changed:
        return []
    if tokens == "last":
        return [(i, j) for kind, _, i, _, j in changed if kind != "insert"] or [(len(concept), len(anchor))]
    places = list(_facing(matches[matches.index(changed[0]) :]))
    end, end_of_anchor = len(concept) + 1, len(anchor) + 1
    ends = [(end + k, min(end_of_anchor + k, length - 1)) for k in range(length - end)]
    return places + (ends if tokens == "all" else ends[:1])


def _facing(matches: Sequence[tuple[str, int, int, int, int]]) -> Iterator[tuple[int, int]]:
    for _, i, i_end, j, j_end in matches:
        yield from ((1 + i + k, 1 + min(j + k, j_end - 1)) for k in range(i_end - i))
