"""Detectors: what tells whether a concept is in a picture. Adding one = one file and one line here."""

from collections.abc import Mapping, Sequence

from edgesafe.artifact import Manifest
from edgesafe.concepts import Concept
from edgesafe.errors import EdgeSafeError

from .clip import CLIP
from .csd import CSD
from .detector import Detector, Seen
from .emoji_judge import EmojiJudge
from .nudenet import NudeNet
from .onnx_classifier import OnnxClassifier

__all__ = ["DETECTORS", "Detector", "Seen", "choose"]

DETECTORS: dict[str, type[Detector]] = {
    "emoji-judge": EmojiJudge,
    "nudenet": NudeNet,
    "clip": CLIP,
    "csd": CSD,
    "onnx-classifier": OnnxClassifier,
}


def choose(
    names: str | None, manifest: Manifest | None, concepts: Sequence[Concept], settings: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, Detector | Exception]]:
    """The detectors, or why one cannot be opened. names: "clip,nudenet"; None: those that suit this model, and those with settings.

    Where none suits, each stands there with its reason. settings: {"clip": {"model": "a folder"}}.
    Raises: EdgeSafeError for a name or a setting that nobody knows.
    """
    wanted = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in (*(wanted or ()), *settings):
        if name not in DETECTORS:
            raise EdgeSafeError(f"--detectors: unknown detector {name!r}; known: {', '.join(DETECTORS)}")
    for name, given in settings.items():
        options = DETECTORS[name].options
        if unknown := sorted(set(given) - set(options)):
            known = "; ".join(f"{key}: {text}" for key, text in options.items()) or "it has none"
            raise EdgeSafeError(f"--detectors {name}: unknown setting {unknown[0]!r}. Its settings: {known}")
    reasons = {name: cls.why_not(manifest, concepts, settings.get(name, {})) for name, cls in DETECTORS.items()}
    if wanted is None:
        wanted = [name for name, reason in reasons.items() if reason is None or name in settings] or list(DETECTORS)
    return [(name, _open(name, concepts, settings.get(name, {}), reasons[name])) for name in dict.fromkeys(wanted)]


def _open(name: str, concepts: Sequence[Concept], settings: Mapping[str, str], reason: str | None) -> Detector | Exception:
    if reason is not None:
        return EdgeSafeError(f"{name}: {reason}")
    try:
        return DETECTORS[name].open(concepts, settings)
    except (EdgeSafeError, OSError) as error:
        return error
