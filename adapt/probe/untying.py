"""`embeddings.untie: auto`: an adapted base of either kind, and the one that a probe speaks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapt.bases import size
from adapt.embeddings.result import AdaptedBase, Untying
from adapt.errors import ModelError
from adapt.probe.benefit import WORTH, NetBenefit
from adapt.probe.meter import scratch


def tied_or_untied(
    make: Callable[[bool, Path], AdaptedBase],
    bits_per_byte: Callable[[AdaptedBase], float],
    folder: Path,
    work: Path,
    *,
    steps: int,
) -> AdaptedBase:
    """Makes the adapted base tied and untied, and keeps the one that a probe speaks for.

    The rule is that of `NetBenefit`: no token is saved and one more matrix costs its share of the
    parameters, so untying is worth it where bits per byte fall by that share and `WORTH` more.

    Args:
        make: Writes an adapted base, untied or not, into a folder.
        bits_per_byte: Of validation text, after a probe.
        folder: Where the chosen one goes, whole or not at all.
        work: Scratch on the same disk; the other one is gone with it.
        steps: Of a probe, for the record.
    """
    with scratch(work):
        chosen = tied = make(False, work / "tied")
        if tied.added and tied.tied:
            try:
                other = make(True, work / "untied")
            except ModelError as error:  # a model whose output cannot be its own
                chosen = replace(tied, notes=(*tied.notes, f"not untied: {error}"))
            else:
                parameters = size(tied.folder).parameters
                added = size(other.folder).parameters - parameters
                benefit = NetBenefit(
                    0.0, parameters, added, bits_per_byte(tied), bits_per_byte(other)
                )
                chosen = replace(
                    other if benefit.worth_it else tied,
                    untying=Untying(
                        steps, parameters, added, benefit.before, benefit.after, benefit.net, WORTH
                    ),
                )
        if folder.exists():
            shutil.rmtree(folder)
        chosen.folder.replace(folder)
    return replace(chosen, folder=folder)
