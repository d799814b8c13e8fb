"""Many tenants in one table."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedmig.commands.fleet import WELL, FleetResult, TenantOutcome
from embedmig.formatting import duration, plural

STYLE = {"upgraded": "green", "up to date": "", "not run": "dim"}


def fleet_table(found: FleetResult) -> RenderableType:
    """A line a tenant, those that are behind last, where they are seen; what is wrong stands below its line."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    columns = (
        ("tenant", "state", "at", "took")
        if found.command == "upgrade"
        else ("tenant", "state", "at", "pending", "shows")
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    ordered = sorted(found.tenants, key=lambda one: one.state not in WELL)
    for one in ordered:
        name = one.tenant + (" (canary)" if one.tenant == found.canary and found.command == "upgrade" else "")
        rest = [duration(one.seconds)] if found.command == "upgrade" else [", ".join(one.pending), _shown(one)]
        table.add_row(
            Text(name), Text(one.state, style=STYLE.get(one.state, "bold red")), ", ".join(one.current), *rest
        )
    said = [line for one in ordered for line in _why(one)]
    counts = Counter(one.state for one in found.tenants)
    total = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    return Group(table, *said, Text(f"{plural(len(found.tenants), 'tenant')}: {total}", style="bold"))


def _shown(one: TenantOutcome) -> str:
    return ", ".join(f"{name}: {version or 'nothing'}" for name, version in one.active.items())


def _why(one: TenantOutcome) -> list[Text]:
    if not one.error or one.state == "not run":
        return []
    return [Text(f"{one.tenant}: {one.error}", style="yellow")] + ([Text(f"  hint: {one.hint}")] if one.hint else [])
