"""Findings of ``check`` and ``audit``, and the answer of ``drift``, as people, GitHub and code scanners read them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Group, RenderableType
from rich.text import Text

from embedmig import __version__
from embedmig.config.rule_codes import NAMES
from embedmig.formatting import plural
from embedmig.lint import Finding
from embedmig.quality.audit import Audit, AuditFinding, Sampled
from embedmig.quality.drift import Drift
from embedmig.report.layout import Rows

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def text_lines(findings: Sequence[Finding]) -> Text:
    """One finding a line, as compilers write them; the hint below it."""
    return Text("\n".join(_text(one) for one in findings) or "nothing found")


def _text(one: Finding) -> str:
    place = one.where if one.line is None else f"{one.where}:{one.line}"
    hint = f"\n    hint: {one.hint}" if one.hint else ""
    return f"{place}: {one.code} {one.name}: {one.message}{hint}"


def github_lines(findings: Sequence[Finding], folder: Path) -> str:
    """GitHub's workflow commands, which it shows beside the line in the pull request; ``folder`` is the configuration's.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    return "\n".join(_workflow_command(one, folder) for one in findings)


def _workflow_command(one: Finding, folder: Path) -> str:
    line = "" if one.line is None else f",line={one.line}"
    said = one.message if one.hint is None else f"{one.message} ({one.hint})"
    place, title = _property(from_here(one.where, folder)), _property(f"{one.code} {one.name}")
    return f"::{one.severity} file={place}{line},title={title}::{_data(said)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def from_here(where: str, folder: Path) -> str:
    """A path as seen from the current directory, where the repository's root is in CI."""
    return Path(os.path.relpath(folder / where)).as_posix()


def sarif_document(findings: Sequence[Finding], folder: Path) -> str:
    """SARIF 2.1.0, for code scanning: one run, every rule that there is, one result a finding."""
    codes = list(NAMES)
    rules = [{"id": code, "name": NAMES[code], "help": {"text": f"docs/rules/{code}.md"}} for code in codes]
    driver = {"name": "embedmig", "version": __version__, "rules": rules}
    results = [_result(one, codes.index(one.code), folder) for one in findings]
    document = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def _result(one: Finding, rule: int, folder: Path) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(from_here(one.where, folder))}}
    if one.line is not None:
        place["region"] = {"startLine": one.line}
    said = one.message if one.hint is None else f"{one.message}\n{one.hint}"
    return {
        "ruleId": one.code,
        "ruleIndex": rule,
        "level": one.severity,
        "message": {"text": said},
        "locations": [{"physicalLocation": place}],
    }


# --- audit ----------------------------------------------------------------------------------------------------


def audit_page(found: Audit) -> RenderableType:
    """``embedmig audit``: what was looked at, and then what was found."""
    columns = ("collection", "state", "version", "vectors", "sample")
    table = Rows(columns, ("collection", "version"), "version", right=("vectors",), prose=("sample",))
    for space in found.spaces:
        table.add(space.collection, space.state, space.version, f"{space.vectors:,}", _sampled(space.sample))
    lines = [_audited(one) for one in found.findings] or [Text("nothing found", style="green")]
    return Group(table, Text(""), *lines) if found.spaces else Group(*lines)


def _sampled(sample: Sampled | None) -> str:
    if sample is None:
        return "none"
    low, high = sample.interval
    return f"{sample.foreign:,} of {sample.checked:,} foreign ({low:.1%} to {high:.1%}), lowest cosine {_cosine(sample.lowest)}"


def _cosine(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _audited(one: AuditFinding) -> Text:
    place = f"{one.collection} {one.version}" if one.version else one.collection
    keys = f"\n    keys: {'; '.join(one.keys)}{' …' if one.count > len(one.keys) else ''}" if one.keys else ""
    return Text.assemble((f"{one.code}", "bold red"), f": {place}: {one.message}{keys}\n    hint: {one.hint}")


# --- drift ----------------------------------------------------------------------------------------------------


def drift_page(found: Drift) -> Text:
    """``embedmig drift``: the answer first."""
    lines = [f"re-index needed: {found.reindex}", f"  {found.reason}", f"  {found.before} → {found.after}"]
    if found.overlap is not None:
        cosines = (found.cosine_median, found.cosine_5th_percentile, found.cosine_lowest)
        middle, low, lowest = (_cosine(value) for value in cosines)
        lines += [
            f"  {plural(found.texts, 'text')}; cosine of old and new: median {middle}, 5th percentile {low}, lowest {lowest}",
            f"  neighbours kept: {found.overlap:.3f} between the models, {found.own_overlap:.3f} within each",
        ]
    return Text("\n".join(lines))
