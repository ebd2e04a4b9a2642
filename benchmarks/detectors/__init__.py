"""Detectors: what tells whether a concept is in a picture. Adding one = one file and one line here."""

from edgesafe.artifact import Manifest

from .detector import Detector
from .emoji_judge import EmojiJudge

DETECTORS: dict[str, type[Detector]] = {"emoji-judge": EmojiJudge}


def fitting(manifest: Manifest | None) -> tuple[type[Detector] | None, str]:
    """The first detector that knows this model's concepts, or None and the reasons in words."""
    if manifest is None or not manifest.concepts:
        return None, "this model's manifest names no erased concept"
    reasons = []
    for name, cls in DETECTORS.items():
        reason = cls.why_not(manifest)
        if reason is None:
            return cls, ""
        reasons.append(f"{name}: {reason}")
    return None, "no detector for this model: latency, memory and sizes only (" + "; ".join(reasons) + ")"
