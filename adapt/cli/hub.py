"""`adapt push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.shared import say

if TYPE_CHECKING:
    from adapt.publish.hub import Upload


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    repo: Annotated[str, typer.Option(help="org/name on the Hub; made where there is none.")],
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="adapter|merged|tokenizer|base",
            help="What to upload; may be given several times.  [default: adapter]",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option(help="Make new repositories private.")] = False,
    pr: Annotated[
        bool, typer.Option("--pr", help="Open a pull request instead of changing main.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files and scan them; ask the Hub nothing.")
    ] = False,
) -> None:
    """Upload a run to the Hub with its card: one commit a repository.

    An adapter whose tokens have other ids than the base's brings its adapted
    base along, as org/name-base. Nothing leaves before every file was searched
    for secrets and local paths. An upload that failed goes on where it stopped.

    Examples:
      adapt push runs/medical --repo org/medical --dry-run

      adapt push runs/medical --repo org/medical --private

      adapt push runs/medical --repo org/medical --what merged --pr
    """
    from adapt.publish import hub
    from adapt.publish.scan import refuse

    chosen = what or ["adapter"]
    if not dry_run:
        for pushed in hub.push(run, repo, chosen, private=private, create_pr=pr):
            say(f"{pushed.what}: {pushed.address}")
        return
    uploads = hub.prepare(run, repo, chosen)
    for upload in uploads:
        _show(upload)
    findings = hub.scanned(run, uploads)
    for finding in findings:
        say(f"scan: {finding.file}:{finding.line} holds {finding.what}")
    refuse(findings)
    say("scan: no secret, no local path; nothing was uploaded")


def _show(upload: Upload) -> None:
    sizes = upload.sizes()
    say(f"{upload.what}: {upload.repo_id}, {sum(sizes.values()):,} bytes")
    for name, size in sizes.items():
        say(f"  {size:>14,}  {name}")
