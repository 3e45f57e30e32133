"""Numbers and text as the page shows them."""

from __future__ import annotations

from adapt.evaluation.result import SAME_TIME

# Browsers drop control characters, or the rest of the page with them; their pictures are shown.
CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_SHOWN = {SAME_TIME: "control, same time"}


def shown(model: str) -> str:
    """What a model of a run is called before people."""
    return _SHOWN.get(model, model)


def number(value: float | None, digits: int = 0, sign: str = "") -> str:
    """With commas and a real minus; a dash for None."""
    return "–" if value is None else f"{value:{sign},.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """As a percentage; a dash for None."""
    return "–" if value is None else f"{value:.1%}".replace("-", "−")


def size(bytes_: float) -> str:
    """1,500 bytes are 1.5 kB."""
    power = min(max(len(str(int(bytes_))) - 1, 0) // 3, 4)
    unit = ("B", "kB", "MB", "GB", "TB")[power]
    return f"{bytes_ / 1000**power:,.{1 if power else 0}f} {unit}"


def duration(seconds: float) -> str:
    """90 seconds are 1 min 30 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def visible(text: str) -> str:
    """Text of a token with blanks as signs, and what has no picture as its code point."""
    return "".join(_SIGNS.get(c) or _printed(c) for c in text)


def printed(text: str, most: int = 80) -> str:
    """Text that any markup can hold: what has no picture as its code point, and the end cut off."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(map(_printed, text))


def _printed(character: str) -> str:
    return character if character.isprintable() else f"\\u{ord(character):04x}"
