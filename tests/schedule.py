"""The order in which the processes of pytest-xdist take the tests: the slowest first, so that none runs alone at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("slowest.json")
RECORD = "EMBEDMIG_RECORD_SLOWEST"
SLOW_SECONDS = 8
"""From here on a test is named in ``slowest.json``. A name there that no longer exists does no harm."""


def arranged(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """One part a process, as ``--dist worksteal`` deals them out: each begins with its share of the slowest."""
    seconds = json.loads(FILE.read_text())
    slow = sorted((one for one in items if one.nodeid in seconds), key=lambda one: -seconds[one.nodeid])
    others = iter([one for one in items if one.nodeid not in seconds])
    order: list[pytest.Item] = []
    for process in range(processes):
        share = slow[process::processes]
        size = (len(items) - len(order)) // (processes - process)
        order += share + [one for _, one in zip(range(size - len(share)), others, strict=False)]
    return order + list(others)


def record(stats: dict[str, list[Any]]) -> None:
    """Writes ``slowest.json`` after a run of everything with ``EMBEDMIG_RECORD_SLOWEST=1``."""
    if RECORD not in os.environ:
        return
    took: dict[str, float] = {}
    for report in (*stats.get("passed", []), *stats.get("failed", []), *stats.get("", [])):
        took[report.nodeid] = took.get(report.nodeid, 0) + report.duration
    slowest = sorted(((round(spent), name) for name, spent in took.items() if spent >= SLOW_SECONDS), reverse=True)
    FILE.write_text(json.dumps({name: spent for spent, name in slowest}, indent=0) + "\n")
