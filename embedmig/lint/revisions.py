"""Rules about the scripts as such: whether they can be read, fit together, and are those that were applied."""

from __future__ import annotations

import re
from collections.abc import Iterator

from embedmig.errors import UnpinnedModel
from embedmig.lint import Violation, rule
from embedmig.lint.reading import Reading, State, Subject
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.base import Operation
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.recording import Call


@rule("EM011")
def two_heads(subject: Subject) -> Iterator[Violation]:
    """Two revisions build on the same one, so their order is not defined."""
    if len(subject.heads) > 1:
        last = subject.readings[-1].script.path
        names = ", ".join(subject.heads)
        fix = f'embedmig merge -m "…", or embedmig rebase {last.stem}'
        yield Violation(last, None, f"the graph has several heads: {names}", fix)


@rule("EM012")
def edited_script(subject: Subject) -> Iterator[Violation]:
    """The script differs from what was applied."""
    for reading in subject.readings:
        applied = (subject.applied or {}).get(reading.script.revision)
        if applied not in (None, reading.script.checksum):
            yield Violation(
                reading.script.path,
                None,
                f"{reading.script.revision} was edited after it was applied",
                "restore it; changes belong in a new revision",
            )


@rule("EM013")
def unknown_collection(subject: Subject) -> Iterator[Violation]:
    """An operation on a collection that the configuration doesn't declare."""
    for reading in subject.readings:
        for call in reading.calls:
            name = collection_of(call.operation)
            if name is not None and name not in subject.config.collections:
                known = ", ".join(subject.config.collections) or "none"
                yield Violation(
                    reading.script.path,
                    call.line,
                    f"collection {name!r} is not declared in {subject.config.path.name}",
                    f"declared: {known}",
                )


@rule("EM015")
def pending(subject: Subject) -> Iterator[Violation]:
    """A revision that the database has not had yet."""
    if subject.applied is None:
        return
    for reading in subject.readings:
        if reading.script.revision not in subject.applied:
            message = subject.partly.get(reading.script.revision, f"{reading.script.revision} is not applied")
            yield Violation(reading.script.path, None, message, "embedmig upgrade head")


@rule("EM016")
def missing_script(subject: Subject) -> Iterator[Violation]:
    """A revision that the database has had and that has no script here."""
    if subject.broken is not None:
        return
    known = {reading.script.revision for reading in subject.readings}
    for revision in (subject.applied or {}).keys() - known:
        stand_in = next((reading.script for reading in subject.readings if revision in reading.script.replaces), None)
        of = (
            f"; it is one of those that {stand_in.path.name} stands for, and not all of them are applied"
            if stand_in
            else ""
        )
        fix = "finish them with the scripts from before the squash" if stand_in else "restore its file"
        yield Violation(None, None, f"{revision} is applied and has no script{of}", fix)
    for revision in subject.partly.keys() - known:
        yield Violation(None, None, f"{subject.partly[revision]}, and it has no script", "restore its file")


@rule("EM017")
def unreadable_script(subject: Subject) -> Iterator[Violation]:
    """A script that does not load, does not record, or does not fit into the graph."""
    if subject.broken is not None:
        named = re.match(r"(?P<name>[^\s:/]+\.py)(?::(?P<line>\d+))?: ", subject.broken.message)
        path = subject.config.migrations / named["name"] if named else None
        line = int(named["line"]) if named and named["line"] else None
        yield Violation(path, line, subject.broken.message, subject.broken.hint)
    for reading in subject.readings:
        if reading.error is not None and not isinstance(reading.cause, UnpinnedModel):
            yield Violation(reading.script.path, reading.line, reading.error.message, reading.error.hint)


@rule("EM022")
def refused_plan(subject: Subject) -> Iterator[Violation]:
    """What upgrade would refuse: by the database where it was asked, else as far as the files tell."""
    for path, error in subject.refused:
        yield Violation(path, None, error.message, error.hint)


@rule("EM018")
def unknown_version(subject: Subject) -> Iterator[Violation]:
    """An operation on a version that no revision up to that point makes, or that one has retired."""
    for reading in subject.readings:
        if reading.error is None and reading.before.known:
            yield from _unknown(subject, reading, reading.upgrade, reading.before)
            # EM004 reports what this revision retires.
            there = State({**reading.after.spaces, **reading.before.spaces}, reading.after.aliases)
            yield from _unknown(subject, reading, reading.downgrade or (), there)


@rule("EM019")
def configuration_not_live(subject: Subject) -> Iterator[Violation]:
    """The configuration says something else than what is live, and nothing has carried it out."""
    for one in subject.differences:
        yield Violation(subject.config.path, None, f"{one.collection}: {one.in_words}", one.command)


@rule("EM025")
def missing_object(subject: Subject) -> Iterator[Violation]:
    """A table, column, view or collection that a live version needs is not there any more."""
    for one in subject.losses:
        yield Violation(subject.config.path, None, one.named, one.hint)


def _unknown(subject: Subject, reading: Reading, calls: tuple[Call, ...], state: State) -> Iterator[Violation]:
    for call in calls:
        name, version = collection_of(call.operation), version_of(call.operation)
        if name in subject.config.collections and version and (name, version) not in state.spaces:
            made = ", ".join(tag for collection, tag in state.spaces if collection == name) or "none"
            yield Violation(
                reading.script.path,
                call.line,
                f"{name!r} has no version {version} at this point",
                f"known versions: {made}",
            )
        state = state.after([call])


def collection_of(operation: Operation) -> str | None:
    """The collection that an operation is about; None for SQL."""
    space = getattr(operation, "space", None)
    name: str | None = getattr(operation, "collection", None) or getattr(space, "collection", None)
    return name


def version_of(operation: Operation) -> str | None:
    """The version that must be there for an operation."""
    if isinstance(operation, CreateSpace | AdoptSpace | AdoptCollection):
        return None
    space = getattr(operation, "space", None)
    version: str | None = space.tag if space is not None else getattr(operation, "version", None)
    return version
