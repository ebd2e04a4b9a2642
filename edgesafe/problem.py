"""The two levels' losses on a run's own models, data and concepts: what a solver calls `lower` and `upper`.

    L_ft(theta) = w_d L_Diff + w_o L_OutKD + w_f L_FeatKD      on captioned pictures x_0, noised to x_t; one teacher pass a batch
    L_CU(theta)                                                on pictures of the concept; see `erasers/`

The teacher still holds the concept, so distilling on a caption that carries it teaches it again. `concept_captions` says what such
rows do: "retarget": the teacher answers for the same caption with the anchor, and the denoising loss skips the row; "mask": all
losses skip it; "keep": nothing is done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from . import losses, model, sampling
from .bilevel import Terms
from .concepts import Concept, carriers, retarget
from .data import Source, TextConditions, generator
from .erasers import ErasingBatch
from .erasers.pictures import ConceptPictures
from .families import Conditions, call
from .model import TextToImage, predictor
from .presets import Settings
from .processes import Processes

STUDENT_STEPS = 25  # DDIM steps of pictures that the student draws for the eraser


@dataclass(frozen=True)
class LowerBatch:
    """B rows: this process's part of the batch."""

    noisy: Tensor  # (B, C, h, w) x_t
    timesteps: Tensor  # (B,)
    given: Conditions  # of the student's captions
    goal: Tensor  # (B, C, h, w) eps or v
    weight: Tensor  # (B,) min-SNR
    task_rows: Tensor  # (B,) 0 or 1: rows of the denoising loss
    kd_rows: Tensor  # (B,) rows of the KD losses
    output: Tensor | None  # the teacher's prediction
    features: list[Tensor]  # the teacher's block outputs
    sizes: Tensor | None  # (F,) their mean squares, over the rows of all processes
    task_share: float = 1.0  # these rows' part of all processes' task_rows
    kd_share: float = 1.0  # and of kd_rows


@dataclass
class DistilAndErase:
    """Implements `bilevel.Problem`."""

    settings: Settings
    teacher: TextToImage
    frozen: nn.Module  # the un-erased UNet that the eraser asks
    features: dict[str, str]  # student module -> teacher module
    source: Source
    concepts: Sequence[Concept]
    pictures: ConceptPictures  # what the eraser noises; empty where nothing is erased
    texts: TextConditions
    device: torch.device
    autocast: Callable  # a context for the student's forward passes
    processes: Processes = field(default_factory=Processes)  # that share each batch

    def __post_init__(self) -> None:
        self.alphas = model.alphas_cumprod(self.teacher)

    def captions(self, captions: Sequence[str], emptied: Tensor) -> tuple[list[str], list[str], Tensor]:
        """What student and teacher are asked for, and which rows carry a concept (B,)."""
        asked = ["" if drop else caption for caption, drop in zip(captions, emptied.tolist(), strict=True)]
        carried = torch.tensor([bool(carriers(caption, self.concepts)) for caption in asked])
        answered = [retarget(c, self.concepts) for c in asked] if self.settings.concept_captions == "retarget" else asked
        return asked, answered, carried

    @torch.no_grad()
    def lower_batch(self, n: int) -> LowerBatch:
        s, draws = self.settings, generator(self.settings.seed, "lower", n)
        batch = self.source.batch(n)
        latents = batch.latents
        size = len(latents)
        noise = torch.randn(latents.shape, generator=draws)
        timesteps = torch.randint(len(self.alphas), (size,), generator=draws)
        asked, answered, carried = self.captions(batch.captions, torch.rand(size, generator=draws) < s.empty_captions)
        keep = torch.ones(size)
        task_rows = keep if s.concept_captions == "keep" else keep - carried.float()
        kd_rows = keep - carried.float() if s.concept_captions == "mask" else keep
        alpha = self.alphas[timesteps]
        kind = self.teacher.prediction_type
        own = self.processes.rows(size)
        task_share, kd_share = (float(r[own].sum() / r.sum().clamp(min=1e-8)) for r in (task_rows, kd_rows))
        noisy = losses.noised(latents, noise, alpha)[own].to(self.device)
        on_device, task_rows, kd_rows = (t[own].to(self.device) for t in (timesteps, task_rows, kd_rows))
        output, features, sizes = None, [], None
        if s.weights.output or s.weights.feature:
            names = list(self.features.values()) if s.weights.feature else []
            with losses.tapped(self.teacher.unet, names) as tapped:
                output = predictor(self.teacher.unet)(noisy, on_device, *self.texts(answered[own]))
            features = [tapped[name] for name in names]
        if features:
            sizes = self.processes.total(losses.block_sizes(features, kd_rows) * kd_share)
        return LowerBatch(
            noisy,
            on_device,
            self.texts(asked[own]),
            losses.target(kind, latents, noise, alpha)[own].to(self.device),
            losses.min_snr_weight(kind, alpha, s.weights.min_snr_gamma)[own].to(self.device),
            task_rows,
            kd_rows,
            output,
            features,
            sizes,
            task_share,
            kd_share,
        )

    def lower(self, network: nn.Module, batch: LowerBatch) -> tuple[Tensor, Terms]:
        """L_ft = w_d L_Diff + w_o L_OutKD + w_f L_FeatKD"""
        w = self.settings.weights
        names = list(self.features) if w.feature else []
        with losses.tapped(network, names) as tapped, self.autocast():
            prediction = call(network, batch.noisy, batch.timesteps, *batch.given)
        parts = {"denoise": losses.denoise(prediction, batch.goal, batch.weight, batch.task_rows) * batch.task_share}
        if w.output and batch.output is not None:
            parts["output"] = losses.mse(prediction, batch.output, batch.kd_rows) * batch.kd_share
        if w.feature:
            blocks = [tapped[name] for name in names]
            parts["feature"] = losses.feature(blocks, batch.features, batch.kd_rows, batch.sizes) * batch.kd_share
        terms = dict(zip(parts, self.processes.total(torch.stack(list(parts.values()))).unbind(), strict=True))
        total = torch.stack([getattr(w, name) * value for name, value in terms.items()]).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def upper_batch(self, n: int, network: nn.Module) -> ErasingBatch:
        s, draws = self.settings, generator(self.settings.seed, "upper", n)
        latents, prompts, anchors = self.pictures.draw(s.erase_batch, draws)
        noise = torch.randn(latents.shape, generator=draws)
        own = self.processes.rows(s.erase_batch, "erase_batch")
        prompts, anchors = prompts[own], anchors[own]
        concept, empty = self.texts(prompts), self.texts([""] * len(prompts))
        if s.eraser.pictures == "student":
            noisy, timesteps = self._on_the_way(network, concept, empty, noise[own].to(self.device), draws)
        else:
            timesteps = torch.randint(len(self.alphas), (s.erase_batch,), generator=draws)
            noisy, timesteps = losses.noised(latents, noise, self.alphas[timesteps])[own].to(self.device), timesteps[own]
        return ErasingBatch(noisy, timesteps.to(self.device), concept, self.texts(anchors), empty)

    def upper(self, network: nn.Module, batch: ErasingBatch) -> tuple[Tensor, Terms]:
        """L_CU"""

        def student(noisy: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
            with self.autocast():
                return call(network, noisy, timesteps, *given)

        share = len(batch.noisy) / self.settings.erase_batch
        loss = self.processes.total(self.settings.eraser.loss(student, predictor(self.frozen), batch) * share)
        return loss, {"erase": loss.detach()}

    def _on_the_way(
        self, network: nn.Module, concept: Conditions, empty: Conditions, noise: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """x_t as the student itself draws it for the concept's prompt, up to a step drawn at random; t is the same for all rows."""
        schedule = sampling.scheduler("ddim", self.teacher.scheduler_config)
        done = int(torch.randint(STUDENT_STEPS, (1,), generator=draws))
        way = sampling.denoise(
            predictor(network), concept, tuple(row[:1] for row in empty), noise, schedule, STUDENT_STEPS, self.settings.eraser.guidance
        )
        noisy = [noise, *islice(way, done)][-1]
        schedule.set_timesteps(STUDENT_STEPS)
        return noisy, schedule.timesteps[done].expand(len(noise))
