"""Figures go into the documentation by machine: a part between two comments is replaced."""

from __future__ import annotations

from pathlib import Path


def rewrite(path: Path, part: str, text: str) -> None:
    """Replaces what stands between ``<!-- measured: PART -->`` and ``<!-- end -->``. Raises ``ValueError`` where there is none."""
    begin, end = f"<!-- measured: {part} -->\n", "<!-- end -->"
    before, found, after = path.read_text().partition(begin)
    if not found or end not in after:
        raise ValueError(f"{path} has no part {part!r}")
    path.write_text(before + begin + "\n" + text.strip() + "\n\n" + end + after.partition(end)[2])
