"""`adapt data` and `adapt schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.shared import say
from adapt.errors import AdaptError, nearest
from adapt.recipe import json_schema


def data(
    names: Annotated[list[str], typer.Argument(help="Domains, such as medical or general.")],
    folder: Annotated[Path, typer.Option(help="Where each gets a folder.")] = Path("data"),
) -> None:
    """Build a domain's data from installed packages; nothing is downloaded.

    Example:
      adapt data medical general
    """
    import runpy

    builders = {p.stem: p for p in sorted(_builders_folder().glob("*.py"))}
    if not builders:
        raise AdaptError("no builders here", where="data/", fix="run it where adapt was cloned")
    for name in names:
        if name not in builders:
            raise AdaptError(
                "no builder of that name", where="adapt data", got=name, fix=nearest(name, builders)
            )
    for name in names:
        for path in runpy.run_path(str(builders[name]))["build"](folder / name):
            say(f"wrote {path}")


def _builders_folder() -> Path:
    """`data/` of the working folder, else the one beside the package."""
    here = Path("data")
    return here if any(here.glob("*.py")) else Path(__file__).parents[2] / "data"


def schema() -> None:
    """Print the recipe's JSON schema, for editors.

    Example:
      adapt schema > recipe.schema.json
    """
    say(json_schema())
