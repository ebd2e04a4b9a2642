"""The training loop that one would write by hand: one file, no framework, the arithmetic of EdgeSafe's distillation and nothing else.

Latents and text states lie ready, as a careful person has them; AdamW is fused. What EdgeSafe does beside this is counted by the
comparison: batches that can be drawn again, masked rows, checks, the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class PlainLoop:
    teacher: nn.Module
    student: nn.Module
    features: dict[str, str]  # student module -> teacher module
    mean: Tensor  # (N, C, h, w) of the pictures' posterior
    std: Tensor
    scale: float
    captions: Sequence[str]
    states: dict[str, Tensor]  # (1, S, D) by caption
    alphas: Tensor  # (T,) cumulative products
    batch: int
    rate: float
    weights: tuple[float, float, float]  # denoise, output, feature
    gamma: float  # of min-SNR
    seen: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.student.train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), self.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        for network, names in ((self.teacher, self.features.values()), (self.student, self.features)):
            for name in names:
                network.get_submodule(name).register_forward_hook(self._keep(id(network), name))

    def _keep(self, network: int, name: str):
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            self.seen[f"{network}/{name}"] = output[0] if isinstance(output, tuple) else output

        return hook

    def step(self) -> float:
        rows = torch.randint(len(self.captions), (self.batch,))
        mean, std = self.mean[rows].float(), self.std[rows].float()
        latents = (mean + std * torch.randn_like(mean)) * self.scale
        noise = torch.randn_like(latents)
        return self.learn(latents, [self.captions[i] for i in rows], noise, torch.randint(len(self.alphas), (self.batch,)))

    def learn(self, latents: Tensor, captions: Sequence[str], noise: Tensor, timesteps: Tensor) -> float:
        alpha = self.alphas[timesteps]
        a = alpha.view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        given = torch.cat([self.states[caption] for caption in captions])
        with torch.no_grad():
            wanted = self.teacher(noisy, timesteps, given, return_dict=False)[0]
        predicted = self.student(noisy, timesteps, given, return_dict=False)[0]
        snr = alpha / (1 - alpha)
        per_row = (predicted - noise).square().flatten(1).mean(1)
        denoise = (per_row * snr.clamp(max=self.gamma) / snr).mean()
        pairs = [(self.seen[f"{id(self.student)}/{s}"], self.seen[f"{id(self.teacher)}/{t}"]) for s, t in self.features.items()]
        feature = torch.stack([F.mse_loss(s, t) / t.square().mean() for s, t in pairs]).mean()
        loss = self.weights[0] * denoise + self.weights[1] * F.mse_loss(predicted, wanted) + self.weights[2] * feature
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
