"""What both pages are made with: the templates' environment, and how a verdict looks."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

# How the verdict looks, by choice; a sign as well, for colour alone tells not everyone.
LOOKS = {
    "adopt": ("good", "✓"),
    "adopt for speed": ("fast", "»"),
    "no difference": ("same", "="),
    "do not extend": ("bad", "✕"),
}


def pages() -> Environment:
    """A new environment: all text is escaped, and what is not given is an error."""
    return Environment(
        loader=PackageLoader("adapt", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
