"""Scripts that stand for others: ``replaces = {"0001": CHECKSUM, …}``, and what a ledger that has had those others means by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from embedmig.revisions.graph import Graph
from embedmig.revisions.progress import Progress
from embedmig.revisions.scripts import Script


def understood(graph: Graph, known: Mapping[str, Progress]) -> dict[str, Progress]:
    """How far each revision is, as the scripts have it now.

    Where the last of the replaced revisions is applied, all were, and the script that stands for them is applied; its checksum is
    its own where theirs are those that it names, else that of the one that differs, so that it counts as edited. Where it is not,
    they stay as they are: revisions without a script.
    """
    found = dict(known)
    for script in graph.scripts.values():
        if script.replaces and (one := found.get(script.revision)) and one.state == "applied":
            inner = {name: found.pop(name) for name in script.replaces if name in found and name != script.revision}
            found[script.revision] = replace(one, checksum=_checksum(script, [one, *inner.values()]))
    return found


def _checksum(script: Script, had: list[Progress]) -> str:
    """``had`` begins with the script's own revision: a database on which it ran by itself has its checksum."""
    if had[0].checksum == script.checksum:
        return script.checksum
    others = [
        one.checksum for one in had if one.state != "pending" and one.checksum not in script.replaces[one.revision]
    ]
    return others[0] if others else script.checksum
