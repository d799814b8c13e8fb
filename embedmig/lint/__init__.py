"""``embedmig check``: careless scripts are stopped in CI, before anything runs.

One rule is one function that looks at a :class:`~embedmig.lint.reading.Subject` and yields what it minds. Rules are
pure: files, configuration and the ledger have been read for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embedmig.config import CheckSettings
from embedmig.config.rule_codes import NAMES, SEVERITY, Severity
from embedmig.lint.reading import Subject


@dataclass(frozen=True, slots=True)
class Violation:
    """What a rule minds: in which file and line (None: the file as a whole, or no file at all), and the mend."""

    path: Path | None
    line: int | None
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``check`` has to say. ``where`` is relative to the configuration's folder; ``line`` counts from 1."""

    code: str
    name: str
    severity: Severity
    where: str
    line: int | None
    message: str
    hint: str | None


Rule = Callable[[Subject], Iterator[Violation]]
RULES: dict[str, Rule] = {}


def rule(code: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of a code."""

    def register(function: Rule) -> Rule:
        assert code in NAMES
        assert code not in RULES
        RULES[code] = function
        return function

    return register


def findings(subject: Subject, settings: CheckSettings) -> list[Finding]:
    """What the selected rules find, by file and line; what the configuration ignores is left out."""
    from embedmig.lint import cutover, revisions, spaces  # noqa: F401  their rules register themselves

    found = [
        _finding(subject, code, fault)
        for code in sorted(RULES)
        if settings.wants(code)
        for fault in RULES[code](subject)
    ]
    return sorted(found, key=lambda one: (one.where, one.line or 0, one.code))


def _finding(subject: Subject, code: str, fault: Violation) -> Finding:
    return Finding(
        code, NAMES[code], SEVERITY.get(code, "error"), subject.name_of(fault.path), fault.line, fault.message,
        fault.hint,
    )  # fmt: skip
