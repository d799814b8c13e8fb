"""What ``embedmig check`` can find: the stable code of every rule, and its name. Each has a page in ``docs/rules/``."""

from __future__ import annotations

from typing import Literal

Severity = Literal["error", "warning"]

NAMES: dict[str, str] = {
    "EM001": "flip-without-gate",
    "EM002": "gate-without-completeness",
    "EM003": "retire-too-early",
    "EM004": "retire-with-flip",
    "EM005": "unpinned-model",
    "EM006": "index-over-limit",
    "EM007": "downgrade-missing",
    "EM008": "downgrade-not-inverse",
    "EM009": "metric-against-normalization",
    "EM010": "changed-without-version",
    "EM011": "two-heads",
    "EM012": "edited-script",
    "EM013": "unknown-collection",
    "EM014": "index-before-load",
    "EM015": "pending",
    "EM016": "missing-script",
    "EM017": "unreadable-script",
    "EM018": "unknown-version",
    "EM019": "configuration-not-live",
    "EM020": "quality-not-measured",
    "EM021": "work-after-flip",
    "EM022": "refused-plan",
    "EM023": "store-can-not",
    "EM024": "alias-changes-columns",
    "EM025": "missing-object",
    "EM026": "model-ends",
    "EM027": "cut-not-made-for",
}

SEVERITY: dict[str, Severity] = {
    "EM009": "warning",
    "EM015": "warning",
    "EM020": "warning",
    "EM024": "warning",
    "EM026": "warning",
    "EM027": "warning",
}
"""Those that are no error by themselves; ``check`` exits 3 for both kinds."""
