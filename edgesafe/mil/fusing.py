"""Patterns of several operations that torch computes in one pass over memory.

In fp32 mode nothing stands between the operations:
Group normalisation, as coremltools writes it: x of shape (N, G, ...), means over all axes from the third on
    reduce_mean -> sub -> square -> reduce_mean -> add epsilon -> sqrt -> real_div     =    F.group_norm(x, G)
Attention before iOS 18:
    matmul(q, k) -> [add mask] -> softmax over the last axis -> matmul(., v)           =    F.scaled_dot_product_attention(scale=1)
With half, attention computes and rounds as before, but some rows at a time: the scores of a large picture would fill gigabytes.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .datatypes import FP16
from .steps import Step
from .values import Value

SCORES = 2**21  # at once: 8 MiB stay near the cache


def group_norm(x: Tensor, *, epsilon: float) -> Tensor:
    return F.group_norm(x, x.shape[1], eps=epsilon)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, transpose_key: bool) -> Tensor:
    """`transpose_key`: key is (..., d, S)"""
    return F.scaled_dot_product_attention(query, key.transpose(-1, -2) if transpose_key else key, value, mask, scale=1.0)


def rounded_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, transpose_key: bool) -> Tensor:
    """Scores, scores with the mask and probabilities each rounded to fp16."""
    keys = key if transpose_key else key.transpose(-1, -2)  # (..., d, S)
    length = query.shape[-2]
    rows = max(1, SCORES // max(1, math.prod(query.shape[:-2]) * keys.shape[-1]))
    made = []
    for start in range(0, length, rows):
        scores = round_to_half(query[..., start : start + rows, :] @ keys)
        if mask is not None:
            scores = round_to_half(scores + (mask[..., start : start + rows, :] if mask.ndim > 1 and mask.shape[-2] > 1 else mask))
        made.append(round_to_half(scores.softmax(-1)) @ value)
    return made[0] if len(made) == 1 else torch.cat(made, -2)


def round_to_half(x: Tensor) -> Tensor:
    return x.half().float()


@dataclass(frozen=True)
class Graph:
    half: bool
    maker: Mapping[str, Step]
    readers: Counter[str]  # how many steps, and the program's outputs, read a value
    constants: Mapping[str, Value]

    def made_by(self, name: Any, operation: str) -> Step | None:
        step = self.maker.get(name)
        return step if step is not None and step.operation == operation else None


def fuse(plan: Sequence[Step], results: Sequence[str], constants: Mapping[str, Value], half: bool) -> list[Step]:
    """The same plan with each pattern as one step, in the place of its last one."""
    readers = Counter(name for step in plan for name in step.reads) + Counter(results)
    graph = Graph(half, {port.name: step for step in plan for port in step.outputs}, readers, constants)
    gone: set[str] = set()
    made: list[Step] = []
    for step in plan:
        for pattern in PATTERNS:
            if found := pattern(step, graph):
                fused, inner = found
                gone |= inner
                step = fused
                break
        made.append(step)
    return [step for step in made if not gone & {port.name for port in step.outputs}]


def _group_norm(last: Step, graph: Graph) -> tuple[Step, set[str]] | None:
    if last.operation != "real_div" or graph.half:
        return None
    root = graph.made_by(last.tensors["y"], "sqrt")
    sub = graph.made_by(last.tensors["x"], "sub")
    add = graph.made_by(root.tensors["x"], "add") if root else None
    if add is None or sub is None:
        return None
    variance, epsilon = graph.made_by(add.tensors["x"], "reduce_mean"), graph.constants.get(str(add.tensors["y"]))
    square = graph.made_by(variance.tensors["x"], "square") if variance else None
    mean = graph.made_by(sub.tensors["y"], "reduce_mean")
    if square is None or mean is None or variance is None or root is None or epsilon is None or epsilon.shape:
        return None
    x, rank = mean.tensors["x"], len(sub.outputs[0].shape)
    axes = list(range(2, rank))
    whole = all(sorted(a % rank for a in m.plain.get("axes") or ()) == axes and m.plain.get("keep_dims") for m in (mean, variance))
    inner = {step.outputs[0].name: n for step, n in ((root, 1), (sub, 2), (add, 1), (variance, 1), (square, 1), (mean, 1))}
    joined = square.tensors["x"] == sub.outputs[0].name and sub.tensors["x"] == x and rank > 2
    if not whole or not joined or any(graph.readers[name] != n for name, n in inner.items()):
        return None
    plain = {"epsilon": float(epsilon.array())}
    return replace(last, operation="group_norm", function=group_norm, tensors={"x": x}, plain=plain), set(inner)


def _attention(last: Step, graph: Graph) -> tuple[Step, set[str]] | None:
    if last.operation != "matmul" or last.plain.get("transpose_x") or last.plain.get("transpose_y"):
        return None
    softmax = graph.made_by(last.tensors["x"], "softmax")
    rank = len(last.outputs[0].shape)
    if softmax is None or softmax.plain.get("axis", -1) not in (-1, rank - 1):
        return None
    inner = {softmax.outputs[0].name}
    scores, mask = softmax.tensors["x"], None
    if add := graph.made_by(scores, "add"):
        inner.add(add.outputs[0].name)
        scores, mask = add.tensors["x"], add.tensors["y"]
    product = graph.made_by(scores, "matmul")
    if product is None or product.plain.get("transpose_x") or rank < 3 or any(graph.readers[name] != 1 for name in {*inner, str(scores)}):
        return None
    tensors = {"query": product.tensors["x"], "key": product.tensors["y"], "value": last.tensors["y"]} | ({"mask": mask} if mask else {})
    plain, inner = {"transpose_key": not product.plain.get("transpose_y")}, {*inner, str(scores)}
    if graph.half and any(graph.maker[name].outputs[0].kind is not FP16 for name in inner):
        return None
    function = rounded_attention if graph.half else attention
    return replace(last, operation="attention", function=function, tensors=tensors, plain=plain), inner


PATTERNS: tuple[Callable[[Step, Graph], tuple[Step, set[str]] | None], ...] = (_group_norm, _attention)
