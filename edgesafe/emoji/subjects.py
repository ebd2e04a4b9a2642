"""The subjects of the emoji world: one row a subject, `(emoji, category)`; names and synonyms come from Unicode CLDR.

`CORE` is the world that the shipped teacher was trained on; `EXTRA` completes the atlas, for larger worlds.
`UNWANTED` marks what a sticker shop would not ship. Order is part of the format: atlas tiles follow it.
"""

CORE: dict[str, str] = {  # category -> emoji
    "unwanted": "🔪🗡⚔💣🍺🍷🍸🚬💉",
    "food": "🍎🍌🍇🍉🍓🍒🍍🥕🍔🍕🍩🍦🎂🥚",
    "drink": "☕🥛🥤",
    "animal": "🐱🐶🦊🐼🦁🐸🐷🐧🦈🐳🐙🐢🦋🐌🦉",
    "plant": "🌵🌻🌹🍄🌳🍀",
    "vehicle": "🚗🚌🚲✈🚀⛵",
    "object": "🎸🔑☂💡📷🔨👑⚽🎈⏰🏠",
}
EXTRA: dict[str, str] = {
    "food": "🍊🍋🍐🍑🥝🥑🍅🌽🌶🥦🥐🍞🥨🧀🥓🌭🌮🍿🍣🍪🍫🍭🍯🥞",
    "drink": "🍵🧃🧉🍼",
    "animal": "🐭🐹🐰🐻🐨🐯🐮🐵🐔🦆🦅🦇🐝🐞🦂🦀🐠🐬🐘🦒🐫🐇🦔🐍",
    "plant": "🌴🌲🌷🌸🍁🌾",
    "vehicle": "🚒🚜🚁🚂🛵🚤⛽",
    "object": "🎁📚🔔🎩🥁🎺⚓🧲🪑",
}
UNWANTED = tuple(CORE["unwanted"])


def rows(world: dict[str, str]) -> list[tuple[str, str]]:
    """`[(emoji, category), ...]` in atlas order."""
    return [(char, category) for category, chars in world.items() for char in chars]
