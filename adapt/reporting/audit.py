"""What the data audit of `adapt check` prints: counts and places."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from adapt.corpus.audit import DataAudit
from adapt.corpus.findings import Finding

_SHOWN = 5  # places of each finding
_NAMED = 3  # findings in the one line of a run


def audit_sentence(audit: DataAudit) -> str | None:
    """What deserves a look, in a line; None where nothing does."""
    found = [
        f"{one.what} ({one.count:,}" + (f" of {one.of:,})" if one.of else ")")
        for one in audit.warnings
    ]
    if not found:
        return None
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"data audit: {'; '.join(found[:_NAMED])}{more}; places are in report.html"


def audit_table(audit: DataAudit) -> Table:
    """A line a finding, what deserves a look marked; what was not found is in `audit_lines`."""
    drawn = Table(title="data audit", box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("", no_wrap=True)
    drawn.add_column("found", justify="right", no_wrap=True)
    drawn.add_column("what", overflow="fold")
    for finding in audit.findings:
        if finding.count:
            style = "bold" if finding.warn else ""
            drawn.add_row("!" if finding.warn else "", _count(finding), Text(finding.what, style))
    return drawn


def _count(finding: Finding) -> str:
    if not finding.of:
        return f"{finding.count:,}"
    return f"{finding.count:,} of {finding.of:,} ({finding.count / finding.of:.1%})"


def audit_lines(audit: DataAudit) -> list[str]:
    """Places of what deserves a look, what was not found, how much was read, and scripts."""
    lines = [
        f"{finding.what}: {' '.join(finding.where[:_SHOWN])}"
        + (" …" if len(finding.where) > _SHOWN else "")
        for finding in audit.findings
        if finding.warn and finding.where
    ]
    if absent := [finding.what for finding in audit.findings if not finding.count]:
        lines.append(f"not found: {'; '.join(absent)}")
    lines += [
        f"read: {one.path}, {'all' if one.whole else 'the first'} {one.items:,} texts "
        f"({one.bytes_ / 1e6:,.1f} MB)"
        for one in audit.extents
    ]
    if audit.scripts:
        shares = ", ".join(f"{script} {share:.1%}" for script, share in audit.scripts[:6])
        lines.append(f"scripts of domain text (scripts, not languages): {shares}")
    return [*lines, *(f"note: {note}" for note in audit.notes)]
