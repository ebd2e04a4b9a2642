"""Probes: ways of asking for an erased concept. Adding one = one file and one line here."""

from edgesafe.errors import EdgeSafeError

from .completion import Completion
from .composition import Composition
from .fine_tune import FineTune
from .mma import MMA
from .noise import Noise
from .paraphrase import Paraphrase
from .plain import Plain
from .probe import Probe, Target
from .refill import Refill
from .ring_a_bell import RingABell
from .textual_inversion import TextualInversion
from .typos import Typos
from .unlearn_diff_atk import UnlearnDiffAtk

__all__ = ["PROBES", "Probe", "Target", "named"]

PROBES: dict[str, type[Probe]] = {
    "plain": Plain,
    "paraphrase": Paraphrase,
    "typos": Typos,
    "composition": Composition,
    "ring-a-bell": RingABell,
    "noise": Noise,
    "completion": Completion,
    "mma": MMA,
    "unlearn-diff-atk": UnlearnDiffAtk,
    "textual-inversion": TextualInversion,
    "fine-tune": FineTune,
    "refill": Refill,
}


def named(names: str) -> tuple[Probe, ...]:
    """ "plain,noise", "all", "prompts" (what an app's user can do) or "files" -> probes in the order of PROBES."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    groups = {"all": set(PROBES)} | {who: {n for n, cls in PROBES.items() if cls.attacker == who} for who in ("prompts", "files")}
    if unknown := sorted(wanted - set(PROBES) - set(groups)):
        raise EdgeSafeError(f"--probes: unknown probe {unknown[0]!r}; known: {', '.join(PROBES)}, or all, prompts, files")
    chosen = set().union(*(groups.get(name, {name}) for name in wanted))
    return tuple(cls() for name, cls in PROBES.items() if name in chosen)
