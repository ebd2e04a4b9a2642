"""What to erase: a concept is a row of data, never a class.

`parse("beer, wine", World())` resolves names against the emoji world; without a world, `parse("style:van gogh, gun", None)` takes the
words as they are ("style:" or "object:" says the kind; object by default), `parse("nudity", None)` and `parse("artist:Claude Monet",
None)` take what comes ready, and `parse("mine.toml", None)` a file of one's own.
"""

from .concept import KINDS, Concept, carriers, check_visible, retarget, together
from .naming import groups, parse, ready
from .rows import OBJECT_TEMPLATES, STYLE_TEMPLATES
from .words import fold, pattern, with_article

__all__ = [
    "KINDS", "OBJECT_TEMPLATES", "STYLE_TEMPLATES", "Concept", "carriers", "check_visible", "fold", "groups", "parse", "pattern", "ready",
    "retarget", "together", "with_article",
]  # fmt: skip
