"""What ``import`` did, for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embedmig.commands.import_collection import Imported


def imported_page(found: Imported, shown: Callable[[Path], str]) -> str:
    """Rows first, then what is no row, then what was written; ``shown`` says a path."""
    lines = [
        f"{found.table}: {found.points:,} points; {found.new:,} rows new, {found.changed:,} changed, {found.gone:,} gone"
    ]
    for words, name, count in (
        ("without a key", "without_key", found.without_key), ("without a text", "without_text", found.without_text),
        ("with the key of another", "duplicates", found.duplicates),
    ):  # fmt: skip
        some = found.examples.get(name, [])
        if count:
            lines.append(f"not copied: {count:,} {words} ({', '.join(some)}{', …' if count > len(some) else ''})")
    lines += [found.problem] if found.problem else []
    lines += [f"wrote {shown(path)}" for path in (found.configured, found.script) if path]
    return "\n".join(lines)
