"""After a loss or gradient that is NaN or infinite: which tensor on its way was the first.

Looked for only then, by making step n's batches again, so that a run that goes well pays nothing for it.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import losses
from .bilevel import State
from .erasers import GradientEraser
from .families import Conditions, call
from .model import predictor
from .problem import DistilAndErase
from .processes import Processes

Named = Iterator[tuple[str, Tensor]]


def first(problem: DistilAndErase, state: State) -> str | None:
    """In words, or None where all are finite (then the gradient alone is not). Each process looks at all rows, so all say the same."""
    alone = replace(problem, processes=Processes())
    return next((name for name, tensor in _tensors(alone, state) if not torch.isfinite(tensor).all()), None)


@torch.no_grad()
def _tensors(problem: DistilAndErase, state: State) -> Named:
    """In the order in which they depend on each other."""
    for network in state.networks:
        for name, weight in network.named_parameters():
            yield f"the student's weight {name}", weight
    yield from _lower(problem, state)
    if isinstance(problem.settings.eraser, GradientEraser) and problem.pictures.anchors:
        yield from _upper(problem, state)


def _lower(problem: DistilAndErase, state: State) -> Named:
    source = problem.source.batch(state.step)
    for latents, caption in zip(source.latents, source.captions, strict=True):
        yield f"the latents of the picture {caption!r}", latents
    yield from _states(problem, source.captions)
    batch = problem.lower_batch(state.step)
    for name, block in zip(problem.features.values(), batch.features, strict=False):
        yield f"the teacher's {name}", block
    if batch.output is not None:
        yield "the teacher's prediction", batch.output
    yield from _student(problem, state.vartheta, batch.noisy, batch.timesteps, batch.given)


def _upper(problem: DistilAndErase, state: State) -> Named:
    for row, prompt in enumerate(problem.pictures.pictures.captions):
        yield f"the latents of the concept's picture {row} ({prompt!r})", problem.pictures.pictures.mean[row]
    batch = problem.upper_batch(state.step, state.theta)
    for what, given in (("concept", batch.concept), ("anchor", batch.anchor), ("empty", batch.empty)):
        for states in given:
            yield f"the text states of the {what} prompts", states
        yield f"the frozen UNet's prediction at the {what} prompts", predictor(problem.frozen)(batch.noisy, batch.timesteps, *given)
    yield from _student(problem, state.theta, batch.noisy, batch.timesteps, batch.concept)


def _states(problem: DistilAndErase, captions: list[str]) -> Named:
    for caption in captions:
        for states in problem.texts([caption]):
            yield f"the text states of {caption!r}", states


def _student(problem: DistilAndErase, network: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditions) -> Named:
    names = [name for name, module in network.named_modules() if name and not list(module.children())]
    with losses.tapped(network, names) as tapped, problem.autocast():
        prediction = call(network, noisy, timesteps, *given)
    for name, output in tapped.items():
        yield f"the student's {name}", output
    yield "the student's prediction", prediction
