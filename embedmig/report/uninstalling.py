"""What ``uninstall`` removes and leaves, for people."""

from __future__ import annotations

from rich.text import Text

from embedmig.commands.uninstall import RemovedView, UninstallPlan


def uninstall_page(found: UninstallPlan) -> Text:
    """One thing a line; views first, for applications read them."""
    verb = "removed" if found.done else "removes"
    lines = [f"{verb}  view {_view(one)}" for one in found.views]
    for kind, names in (
        ("trigger", found.triggers),
        ("column", found.columns),
        ("table", found.tables),
        ("function", found.functions),
        ("collection", found.collections),
    ):
        lines += [f"{verb}  {kind} {name}" for name in names]
    lines += [f"{verb}  schema {found.removed_schema}"] if found.removed_schema else []
    return Text("\n".join([*lines, *(f"leaves   {one}" for one in found.leaves)]))


def _view(one: RemovedView) -> str:
    readers = f", read by {', '.join(one.readers)}" if one.readers else ""
    return f"{one.name}: applications read {one.collection} through it ({', '.join(one.columns)}; shows {one.version}{readers})"
