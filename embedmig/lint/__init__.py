"""``embedmig check``: finds mistakes in scripts before they run.

One rule is one function that looks at a :class:`~embedmig.lint.reading.Subject` and yields violations. Rules are
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
    """Where a rule is broken (``path`` None: no file; ``line`` None: the whole file), and the fix as a hint."""

    path: Path | None
    line: int | None
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation as ``check`` reports it. ``where`` is relative to the configuration's folder; ``line`` counts from 1."""

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
        _finding(subject, code, violation)
        for code in sorted(RULES)
        if settings.wants(code)
        for violation in RULES[code](subject)
    ]
    return sorted(found, key=lambda one: (one.where, one.line or 0, one.code))


def _finding(subject: Subject, code: str, violation: Violation) -> Finding:
    return Finding(
        code, NAMES[code], SEVERITY.get(code, "error"), subject.name_of(violation.path), violation.line,
        violation.message, violation.hint,
    )  # fmt: skip
