"""Rules about what a space is, and in which order it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from embedmig.config import Collection
from embedmig.config.toml_lines import key_lines
from embedmig.embedders.matryoshka import cut_warning
from embedmig.errors import PlanError, UnpinnedModel
from embedmig.lint import Violation, rule
from embedmig.lint.reading import Named, Reading, Subject, joined
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.create_index import CreateIndex
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.derive_space import DeriveSpace
from embedmig.operations.recording import Call
from embedmig.planning.sunsets import find_sunset
from embedmig.stores import IndexOptions, check_capabilities, store_class
from embedmig.types import Chunk, Space

SOON_DAYS = 180  # a day that is further away is no reason yet to stop a pull request


@rule("EM005")
def unpinned_model(subject: Subject) -> Iterator[Violation]:
    """A model name that does not pin a version: vectors of different versions would be compared."""
    for reading in subject.readings:
        if isinstance(reading.cause, UnpinnedModel):
            yield Violation(reading.script.path, reading.line, reading.cause.message, reading.cause.hint)


@rule("EM006")
def index_over_limit(subject: Subject) -> Iterator[Violation]:
    """An index holds fewer dimensions than a column: the build would fail after the load."""
    for reading, call, space in of_spaces(subject, CreateIndex):
        assert isinstance(call.operation, CreateIndex)
        options = IndexOptions(storage=call.operation.storage)
        if space.external and space.store not in subject.config.stores:
            continue  # store_can_not says so
        if limit := store_class(space, subject.config.stores).index_over_limit(space, options):
            yield Violation(reading.script.path, call.line, *limit)


@rule("EM023")
def store_can_not(subject: Subject) -> Iterator[Violation]:
    """A store that is not declared, or that can't hold such vectors."""
    for reading, call, space in of_spaces(subject, CreateSpace):
        try:
            check_capabilities(space, store_class(space, subject.config.stores).capabilities)
        except PlanError as error:
            yield Violation(reading.script.path, call.line, error.message, error.hint)


@rule("EM026")
def model_ends(subject: Subject) -> Iterator[Violation]:
    """A version that is shown, kept for a rollback, or yet to be made, of a model that is soon not served any more."""
    last = joined(reading.after for reading in subject.readings if reading.script.revision in subject.heads)
    for reading, call, space in of_spaces(subject, CreateSpace, AdoptSpace, AdoptCollection):
        sunset = find_sunset(space, subject.config)
        if sunset is None or (space.collection, space.tag) not in last.spaces or sunset.days_left() > SOON_DAYS:
            continue
        shown = last.aliases.get(space.collection) == space.tag
        what = (
            "queries of what the alias shows need it"
            if shown
            else "a rollback to this version finds nothing after that"
        )
        fix = "move to another model before that day" if shown else "retire the version, or keep another to go back to"
        yield Violation(reading.script.path, call.line, f"{sunset.words()}: {what} ({sunset.source})", fix)


@rule("EM027")
def cut_not_made_for(subject: Subject) -> Iterator[Violation]:
    """A cut of a model whose first numbers mean no more than any others: quality is lost that a smaller model would keep."""
    for reading, call, space in of_spaces(subject, CreateSpace):
        if warned := cut_warning(space):
            fix = "take its own dimensions, or measure what the cut costs on queries of yours"
            yield Violation(reading.script.path, call.line, warned, fix)


@rule("EM009")
def metric_against_normalization(subject: Subject) -> Iterator[Violation]:
    """Of vectors that are not of unit norm, ip prefers the long ones and l2 those of the query's own length.

    Under ``normalize="l2"`` cosine, l2 and ip rank alike, and cosine ranks alike whatever the norms: those fit.
    """
    for reading, call, space in of_spaces(subject, CreateSpace, AdoptSpace, AdoptCollection):
        if space.normalize == "none" and space.metric != "cosine":
            yield Violation(
                reading.script.path,
                call.line,
                f'metric="{space.metric}" with normalize="none": the length of a vector changes the ranking',
                'normalize="l2", or metric="cosine"; ignore it with a reason for a model trained for that',
            )


@rule("EM010")
def changed_without_version(subject: Subject) -> Iterator[Violation]:
    """Two configurations under one tag; or chunks that the configuration cuts otherwise than the newest space."""
    for reading, call, space in of_spaces(subject, CreateSpace, AdoptSpace, AdoptCollection):
        known = reading.before.spaces.get((space.collection, space.tag))
        if known is not None and known != space:
            different = [
                field.name for field in fields(Space) if getattr(known, field.name) != getattr(space, field.name)
            ]
            yield Violation(
                reading.script.path,
                call.line,
                f"{space.tag} of {space.collection!r} exists already, with another {' and '.join(different)}",
                'two configurations need two tags: variant="…", or another version',
            )
    for collection in subject.config.collections.values():
        yield from _rechunked(subject, collection)


def _rechunked(subject: Subject, collection: Collection) -> Iterator[Violation]:
    made = [space for _, _, space in of_spaces(subject, CreateSpace) if space.collection == collection.name]
    if collection.chunk is None or not made or made[-1].chunk == collection.chunk:
        return
    path = subject.config.path
    line = key_lines(path.read_text("utf-8-sig")).get(("collections", collection.name, "chunk"))
    message = (
        f"the newest space of {collection.name!r} has {_cut(made[-1].chunk)}, and chunk says {_cut(collection.chunk)}"
    )
    yield Violation(path, line, message, "a change of chunking is a migration: embedmig revision writes it")


def _cut(chunk: Chunk | None) -> str:
    return "whole texts" if chunk is None else f"chunks of {chunk.size} {chunk.unit}, {chunk.overlap} shared"


@rule("EM014")
def index_on_the_wrong_side(subject: Subject) -> Iterator[Violation]:
    """Loading into an HNSW index takes five times the work of building it afterwards: only where the script wants it so.

    And what is said to grow with the backfill stands after it, or before vectors that are derived, which wait for no model.
    """
    for reading in subject.readings:
        for number, call in enumerate(reading.upgrade):
            if isinstance(call.operation, CreateIndex) and (found := _wrong_side(reading, number, call.operation)):
                yield Violation(reading.script.path, call.line, *found)


def _wrong_side(reading: Reading, number: int, index: CreateIndex) -> tuple[str, str] | None:
    """What is wrong with where an index is built, and what to do; None where nothing is."""
    mine = [
        (place, call.operation)
        for place, call in enumerate(reading.upgrade)
        if isinstance(call.operation, CreateSpace | BackfillSpace | DeriveSpace)
        and space_of(call) == space_of(reading.upgrade[number])
    ]
    later = [operation for place, operation in mine if place > number]
    tag = index.space.tag
    if index.during is None:
        made_empty = bool(mine) and not any(isinstance(operation, BackfillSpace | DeriveSpace) for _, operation in mine)
        if later or made_empty:
            return (
                f"the index of {tag} is built before the vectors are loaded",
                'op.backfill first, then op.create_index; or during="backfill", where the model is slower than the index',
            )
    elif any(isinstance(operation, DeriveSpace) for operation in later):
        return f"the vectors of {tag} are derived into its index", "op.derive_space first, then op.create_index"
    elif not any(isinstance(operation, BackfillSpace) for operation in later):
        return (
            f'the index of {tag} has during="backfill", and no backfill follows',
            "op.create_index first, then op.backfill; or leave during out",
        )
    return None


def of_spaces(subject: Subject, *kinds: type) -> Iterator[tuple[Reading, Call, Space]]:
    """The calls of some kinds in all upgrades, with the space that each is about."""
    for reading in subject.readings:
        for call in reading.upgrade:
            if isinstance(call.operation, kinds):
                yield reading, call, call.operation.space  # type: ignore[attr-defined]  # those kinds have one


def space_of(call: Call) -> Named:
    """Which space an operation that has one is about."""
    space: Space = call.operation.space  # type: ignore[attr-defined]
    return space.collection, space.tag
