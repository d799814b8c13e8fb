"""Cuts: thresholds that the configuration declares for one version, and that every other version gets by measuring.

They are settled before a flip commits, so that no read with a cut ever meets a version without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from embedmig.database import Connection
from embedmig.database.cuts_table import Cut, CutsTable
from embedmig.database.registry import SpaceRecord
from embedmig.errors import ConfigError, CutUnknown, EmbedderError, UsageError
from embedmig.operations.base import Context
from embedmig.operations.evaluating import default_set, encoded_queries
from embedmig.operations.shared_vectors import shared_vectors
from embedmig.quality import cuts, golden
from embedmig.types import Vectors

SAMPLE, LEAST = 2_000, 50
"""Rows whose pairs are looked at, and how many both versions must hold."""


def settle(context: Context, conn: Connection, target: SpaceRecord, shown: SpaceRecord | None) -> list[Cut]:
    """The cuts of ``target``, declared or carried over from ``shown`` or another live version; those that are new are kept.

    Raises :class:`CutUnknown` where one can't be had, :class:`ConfigError` where what is declared has no version.
    """
    table, collection = CutsTable(context.database.schema), target.collection
    records = {record.version: record for record in context.registry.spaces(conn, collection) if record.live}
    for cut in declared(context, table.all_of(conn, collection), records, shown or target):
        table.save(conn, collection, cut)
    found, measured = [], Measured(context, conn, target)
    for name in context.config.collection(collection).cuts:
        known = {
            cut.version: cut for cut in table.all_of(conn, collection) if cut.name == name and cut.version in records
        }
        if target.version not in known:
            known[target.version] = _carried(measured, name, known, records, shown)
            table.save(conn, collection, known[target.version])
        found.append(known[target.version])
    return found


def declared(
    context: Context, kept: list[Cut], records: Mapping[str, SpaceRecord], first: SpaceRecord
) -> Iterator[Cut]:
    """What the configuration declares and is not kept yet: a bare number for the version ``first``, unless it was seen before."""
    for name, asked in context.config.collection(first.collection).cuts.items():
        known = {cut.version: cut for cut in kept if cut.name == name and cut.carried_from is None}
        if isinstance(asked, Mapping):
            values = {version: value for version, value in asked.items() if version in records}
        elif known:
            if all(cut.similarity != asked for cut in known.values()):
                one = next(iter(known.values()))
                raise ConfigError(
                    f"collections.{first.collection}.cuts.{name} is {asked}, and was {one.similarity} for {one.version}",
                    hint=f'say for which version it is: {name} = {{ "{first.version}" = {asked} }}',
                )
            continue
        else:
            values = {first.version: asked}
        for version, value in values.items():
            if version not in known or known[version].similarity != value:
                yield made(records[version], name, value)


def made(record: SpaceRecord, name: str, similarity: float) -> Cut:
    """Raises :class:`ConfigError` for a space that has no similarity."""
    limit = cuts.max_distance(record.space, similarity)
    if limit is None:
        raise ConfigError(
            f"the cut {name!r} is a similarity, and {record.version} compares vectors of any length by l2",
            hint='cuts want metric "cosine" or "ip", or normalize "l2"',
        )
    return Cut(record.version, name, similarity, limit)


@dataclass(frozen=True)
class Measured:
    """The similarities of the same pairs in ``target`` and in others, measured once for all cuts: it may ask models."""

    context: Context
    conn: Connection
    target: SpaceRecord
    pairs: dict[str, list[tuple[str, Vectors, Vectors]]] = field(default_factory=dict)

    def beside(self, source: SpaceRecord) -> list[tuple[str, Vectors, Vectors]]:
        """Raises :class:`UsageError` where too few rows are in both."""
        if source.version not in self.pairs:
            self.pairs[source.version] = list(_pairs(self.context, self.conn, source, self.target))
        return self.pairs[source.version]


def _carried(
    measured: Measured, name: str, known: Mapping[str, Cut], records: Mapping[str, SpaceRecord], shown: SpaceRecord | None
) -> Cut:  # fmt: skip
    target = measured.target
    origin = known.get(shown.version) if shown else None
    origin = origin or next(iter(known.values()), None)
    if origin is None:
        raise _unknown(target, name, "no live version has it")
    try:
        found = measured.beside(records[origin.version])
    except UsageError as error:
        raise _unknown(target, name, error.message) from error
    for pairs, old, new in found:
        if one := cuts.carried(origin.similarity, old, new):
            cut = made(target, name, one.value)
            return replace(cut, low=one.low, high=one.high, carried_from=origin.version, pairs=pairs, above=one.above)
    few = (
        f"fewer than {cuts.FEWEST_ABOVE} of the pairs measured lie at or above {origin.similarity} in {origin.version}"
    )
    raise _unknown(target, name, few)


def _unknown(target: SpaceRecord, name: str, why: str) -> CutUnknown:
    return CutUnknown(
        f"the cut {name!r} of {target.collection} can't be carried over to {target.version}: {why}",
        hint=f'declare it: [collections.{target.collection}.cuts] {name} = {{ "{target.version}" = … }}',
    )


def _pairs(
    context: Context, conn: Connection, source: SpaceRecord, target: SpaceRecord
) -> Iterator[tuple[str, Vectors, Vectors]]:
    """The similarities of the same pairs in both: of the golden set's queries with documents, then of documents with each other."""
    old, new = shared_vectors(context, conn, source, target, SAMPLE, 0, LEAST)
    if queries := _queries(context, conn, source, target):
        yield (
            "query-document",
            cuts.similarities(source.space, queries[0], old),
            cuts.similarities(target.space, queries[1], new),
        )
    yield "document-document", cuts.similarities(source.space, old), cuts.similarities(target.space, new)


def _queries(
    context: Context, conn: Connection, source: SpaceRecord, target: SpaceRecord
) -> tuple[Vectors, Vectors] | None:
    """The golden set's queries in the terms of both; None where there is none, or where a model can't be asked."""
    path = default_set(context.config, source.collection)
    if not path.exists():
        return None
    asked = golden.read(path)
    try:
        found = [encoded_queries(context, conn, record, asked, [])[1] for record in (source, target)]
    except EmbedderError:
        return None
    kept = [place for place in range(len(asked.questions)) if not any(place in one.rejected for one in found)]
    return found[0].vectors[kept], found[1].vectors[kept]
