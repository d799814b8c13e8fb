"""Many tenants in one table."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from embedmig.commands.fleet import WELL, FleetResult, TenantOutcome
from embedmig.formatting import duration, plural
from embedmig.report.layout import Rows

STYLE = {"upgraded": "green", "up to date": "", "not run": "dim"}


def fleet_table(found: FleetResult) -> RenderableType:
    """A line a tenant, those that are behind last, where they are seen; what is wrong stands below its line."""
    columns = (
        ("tenant", "state", "at", "took")
        if found.command == "upgrade"
        else ("tenant", "state", "at", "pending", "shows")
    )
    table = Rows(columns, columns[:1], prose=("pending", "shows"), bare=("state",))
    ordered = sorted(found.tenants, key=lambda one: one.state not in WELL)
    for one in ordered:
        name = one.tenant + (" (canary)" if one.tenant == found.canary and found.command == "upgrade" else "")
        rest = [duration(one.seconds)] if found.command == "upgrade" else [", ".join(one.pending), _shown(one)]
        table.add(name, Text(one.state, style=STYLE.get(one.state, "bold red")), ", ".join(one.current), *rest)
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
