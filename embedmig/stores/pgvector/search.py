"""Searching one relation of vectors: the alias, or one version's space; through the index, or exactly."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

from psycopg import Cursor, DataError, sql
from psycopg import errors as pg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader

from embedmig.database import Connection, ident, literal, planned_rows, scalar
from embedmig.database.cursors import escaped, fixed
from embedmig.database.registry import AliasRecord
from embedmig.errors import UsageError
from embedmig.source.rows import Key
from embedmig.stores.manifest_table import OFFSETS
from embedmig.stores.pgvector.hnsw import OPERATOR, IndexEncoding, encoding_of
from embedmig.stores.protocol import rows_once
from embedmig.types import Hit, Space

CHUNKS = 5
"""Hits that the index is asked for per row wanted, where a row has several; at each refill four times as many."""
USUAL_CANDIDATES = 40
"""What pgvector's index gives unless a session says otherwise."""
LOOK_SECONDS = 60.0  # for which a look at a plan is kept
KEPT = 1_000  # statements, and looks at plans, of one relation
SETTINGS = """select set_config('hnsw.ef_search', %s, true),
    (select set_config('hnsw.iterative_scan', 'strict_order', true) from pg_extension where extname = 'vector'
     and string_to_array(substring(extversion from '^[0-9]+[.][0-9]+'), '.')::int[] >= '{0,8}')"""
"""Filters and deleted rows thin an index scan out: it goes on until it has found as many as it is asked for."""
DEEPEST = 20_000  # hits; pgvector's own limit of what one walk of the index looks at


def _or_text(loader: type[Loader]) -> type[Loader]:
    """As ``loader``; a date that Python has no value for, such as ``infinity``, stays what PostgreSQL prints."""

    class OrText(loader):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except DataError:
                return bytes(data).decode()

    return OrText


DATES = {
    "date": _or_text(DateLoader),
    "timestamp": _or_text(TimestampLoader),
    "timestamptz": _or_text(TimestamptzLoader),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A relation of one version's vectors: key, chunk, version, embedding, and the application's columns.

    ``offsets``: it says where each chunk lies. A view that an older embedmig made of a chunked space does not.
    """

    relation: sql.Composable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    version: str
    space: Space
    form: IndexEncoding | None  # the stand-in that the index holds; None: the vectors themselves
    rows: int  # about how many it shows
    offsets: bool = False
    memory: Memory = field(default_factory=lambda: Memory(), repr=False, compare=False)

    def nearest(
        self, conn: Connection, vector: Sequence[float], k: int, *, exact: bool = False, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:  # fmt: skip
        """:func:`nearest`."""
        return nearest(conn, self, vector, k, exact=exact, where=where)

    def query_among(self, keys: sql.Composable) -> sql.SQL:
        """What :meth:`among` asks: the rows of a relation of keys, which are its parameters, nearest first."""
        return fixed(
            sql.SQL("select {shown} from {relation} where {among} order by {distance}").format(
                shown=_shown(self), relation=escaped(self.relation), among=among(self, keys), distance=_distance(self)
            )
        )

    def among(
        self, conn: Connection, query: sql.SQL, keys: Mapping[str, Any], vector: Sequence[float]
    ) -> list[Hit]:  # fmt: skip
        """The rows of these keys, each by its nearest chunk, nearest first."""
        values = {"vector": str(list(vector)), "version": self.version, **keys}
        return rows_once([read_hit(row, self) for row in reading(conn).execute(query, values)])

    def vectors(self, conn: Connection, keys: sql.Composable) -> dict[tuple[Key, int], Sequence[float]]:
        """Of the rows of a relation of keys: by key and chunk, ``(dimensions,)`` each."""
        query = sql.SQL("select array[{}], chunk, embedding::real[] from {} where {}").format(
            key_text(self), escaped(self.relation), among(self, escaped(keys))
        )
        return {(tuple(key), chunk): vector for key, chunk, vector in conn.execute(query, {"version": self.version})}


def shown_by_alias(conn: Connection, alias: AliasRecord, space: Space) -> Shown:
    """The alias' view, which is all that a reader need be allowed to read. Raises :class:`UsageError` where it is gone."""
    with view_of(conn, alias) as relation:
        return shown(conn, relation, space, alias.version or "", encoding_of(conn, relation))


@contextmanager
def view_of(conn: Connection, alias: AliasRecord) -> Iterator[sql.Identifier]:
    """An alias' view while it is looked at. Raises :class:`UsageError` where it is gone."""
    relation = ident(alias.alias_schema, alias.alias_name)
    try:
        yield relation
    except pg.UndefinedTable as error:
        raise UsageError(
            f"the alias is gone: {relation.as_string(conn)} is not there; perhaps its table was dropped with CASCADE",
            hint=f"embedmig alias rebuild {alias.collection} makes it anew",
        ) from error
    except ForeignView as error:
        raise UsageError(
            f"{relation.as_string(conn)} is not the view that embedmig made: it has no vectors",
            hint=f"rename or drop what took its place, then embedmig alias rebuild {alias.collection}",
        ) from error


class ForeignView(Exception):
    """A relation that lacks the columns of an alias."""


def shown(conn: Connection, relation: sql.Composable, space: Space, version: str, form: IndexEncoding | None) -> Shown:
    """A relation with the columns that it has now."""
    names = column_names(conn, relation)
    keys, columns = split_columns(names, "embedding")
    offsets = space.chunk is not None and set(OFFSETS) <= set(names)
    return Shown(relation, keys, columns, version, space, form, planned_rows(conn, relation), offsets)


def column_names(conn: Connection, relation: sql.Composable) -> list[str]:
    """The columns of a view, in order."""
    cursor = conn.execute(sql.SQL("select * from {} limit 0").format(relation), prepare=False)  # its shape may change
    return [column.name for column in cursor.description or ()]


def split_columns(names: Sequence[str], value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A view's columns: the key is what stands before ``chunk``, the application's own columns after the ``value``. Raises :class:`ForeignView`."""
    if not {"chunk", value} <= set(names):
        raise ForeignView
    shown = names[names.index(value) + 1 :]
    return tuple(names[: names.index("chunk")]), tuple(name for name in shown if name not in OFFSETS)


def nearest(
    conn: Connection,
    current: Shown,
    vector: Sequence[float],
    k: int,
    *,
    exact: bool = False,
    where: Mapping[str, Any] | None = None,
) -> list[Hit]:
    """Top ``k`` rows by the space's own metric, filtered on its version, each by its nearest chunk.

    ``where`` gives values that key or columns of the alias must have; a list: one of them. With ``exact``, every vector is
    compared: no index matches an order by the distance plus nothing. Raises :class:`UsageError` for an unknown column.
    """
    wanted, values = conditions(current, where or {})
    values |= {"vector": str(list(vector)), "version": current.version}
    search = Search(conn, current, shape_of(where or {}), wanted, values, k)
    plan = None if exact or not where else search.looked_at(where)
    if exact or (plan and plan.few(k, current.rows)):
        return search.exactly()
    rows = search.by_index(plan)
    if len(rows) < k and plan and plan.kept and search.looked_at(where or {}, anew=True).few(k, current.rows):
        return search.exactly()  # the conditions are met by fewer rows than they were
    return rows


@dataclass(frozen=True, slots=True)
class PlanSeen:
    """What the planner expects of comparing all rows that meet the conditions: how many there are, and its price. ``kept``: it was
    looked at a while ago.
    """

    matching: int
    price: float
    kept: bool = False

    def few(self, k: int, rows: int) -> bool:
        """Whether so few rows meet the conditions that comparing all of them is quicker than walking the index for ``k``.

        Of ``n`` rows ``r`` meet them: the index is walked for about ``k · n / r`` rows, each four times the price of a row
        compared. pgvector's own estimate leaves the filter out. They must be found by an index, too: by the planner's price.
        """
        return self.matching**2 <= 4 * k * rows and self.price <= 1000 + 20 * self.matching


class Memory:
    """What a reader need not do again for every search of a relation: its statements, by the shape of their conditions, and its
    looks at plans, by the values too. An old look makes a search slower at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._statements: dict[Hashable, str] = {}
        self._plans: OrderedDict[Hashable, tuple[float, PlanSeen]] = OrderedDict()

    def statement(self, kind: Hashable, compose: Callable[[], sql.Composed]) -> str:
        """As text; ``kind`` says all that it depends on beside the relation."""
        if kind not in self._statements:
            if len(self._statements) >= KEPT:
                self._statements.clear()
            self._statements[kind] = fixed(compose()).as_string()
        return self._statements[kind]

    def plan(self, where: Mapping[str, Any], look: Callable[[], PlanSeen], *, anew: bool = False) -> PlanSeen:
        """Kept for :data:`LOOK_SECONDS`; the least used of :data:`KEPT` goes first."""
        kind = tuple((name, _hashable(value)) for name, value in where.items())
        try:
            since, seen = self._plans[kind]
        except TypeError:  # a value that can't be a key
            return look()
        except KeyError:
            since, seen = float("-inf"), None
        if seen and not anew and self._clock() < since + LOOK_SECONDS:
            self._plans.move_to_end(kind)
            return seen
        seen = look()
        self._plans[kind] = self._clock(), replace(seen, kept=True)
        self._plans.move_to_end(kind)
        while len(self._plans) > KEPT:
            self._plans.popitem(last=False)
        return seen


def _hashable(value: Any) -> Hashable:
    """With its type: ``1``, ``1.0`` and ``True`` are one key."""
    many = isinstance(value, list | tuple | set | frozenset)
    return (type(value), tuple((type(one), one) for one in value)) if many else (type(value), value)


def shape_of(where: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """What a statement depends on of its conditions: the columns, and which of them have a list."""
    return tuple((name, isinstance(value, list | tuple | set | frozenset)) for name, value in where.items())


@dataclass(frozen=True, slots=True)
class Search:
    """One question to a relation."""

    conn: Connection
    shown: Shown
    shape: Hashable
    wanted: sql.Composed
    values: dict[str, Any]
    k: int

    def looked_at(self, where: Mapping[str, Any], *, anew: bool = False) -> PlanSeen:
        """The plan of comparing all rows that meet the conditions."""

        def look() -> PlanSeen:
            query = sql.SQL("explain (format json) {}").format(_by_vector(self.shown, self.wanted, None, exact=True))
            plan = scalar(self.conn, query, self.values)[0]["Plan"]
            return PlanSeen(plan["Plan Rows"], plan["Total Cost"])

        return self.shown.memory.plan(where, look, anew=anew)

    def exactly(self) -> list[Hit]:
        """By comparing every vector."""
        if self.shown.space.chunk is None:
            return self._read("exact", self.k, lambda: _by_vector(self.shown, self.wanted, self.k, exact=True))
        return self._read("rows", self.k, lambda: _rows_exactly(self.shown, self.wanted, self.k))

    def by_index(self, plan: PlanSeen | None) -> list[Hit]:
        """Through the index. What an index gives by itself is asked for first: it is one statement, in no transaction."""
        if self._likely_enough(plan):
            hits = self._read("index", self.k, lambda: _by_vector(self.shown, self.wanted, self.k, exact=False))
            if len(hits) >= self.k:
                return sorted(hits, key=attrgetter("distance"))  # a session may have said relaxed_order
        with self.conn.transaction():
            if self.shown.space.chunk is None:
                return self._hits(self.k)
            rows = self._rows_by_index()
        return rows[: self.k] if len(rows) >= self.k else self.exactly()

    def _likely_enough(self, plan: PlanSeen | None) -> bool:
        """Whether the candidates that an index gives without being asked for more will do."""
        if self.shown.space.chunk is not None or self.shown.form is not None or self.k > USUAL_CANDIDATES:
            return False
        return plan is None or USUAL_CANDIDATES * plan.matching >= 2 * self.k * self.shown.rows

    def _rows_by_index(self) -> list[Hit]:
        """The nearest rows of a chunked space, refilled until there are ``k`` or the index gives no more. Fewer than ``k``
        don't prove that there are no others: a walk of the index ends at ``hnsw.max_scan_tuples``.
        """
        depth = self.k * CHUNKS
        while True:
            hits = self._hits(depth)
            rows = rows_once(hits)
            if len(rows) >= self.k or len(hits) < depth or depth >= DEEPEST:
                return rows
            depth = min(4 * depth, DEEPEST)

    def _hits(self, k: int) -> list[Hit]:
        """The ``k`` nearest vectors; the index is asked for at least ``k`` candidates. Inside a transaction."""
        form = self.shown.form
        candidates = k * form.rerank if form else k
        self.conn.execute(SETTINGS, (str(max(USUAL_CANDIDATES, min(candidates, 1000))),))
        if form:
            compose = partial(_by_quantized, self.shown, form, self.wanted, k, candidates)
            return self._read("quantized", k, compose)
        return self._read("index", k, lambda: _by_vector(self.shown, self.wanted, k, exact=False))

    def _read(self, kind: str, k: int, compose: Callable[[], sql.Composed]) -> list[Hit]:
        """The limit stands in the statement: of a parameter the planner would expect a tenth of all rows, and plan each search anew."""
        query = self.shown.memory.statement((kind, k, self.shape), compose)
        return [read_hit(row, self.shown) for row in reading(self.conn).execute(query, self.values)]


def reading(conn: Connection) -> Cursor[tuple[Any, ...]]:
    """A cursor that reads any date."""
    cursor = conn.cursor()
    for name, loader in DATES.items():
        cursor.adapters.register_loader(name, loader)
    return cursor


def conditions(current: Shown, where: Mapping[str, Any]) -> tuple[sql.Composed, dict[str, Any]]:
    """The version, and what else a row must have, as SQL over the alias with the values apart."""
    known = (*current.keys, *current.columns)
    if unknown := [name for name in where if name not in known]:
        raise UsageError(
            f"the alias shows no column {unknown[0]!r}",
            hint=f"it shows {', '.join(known)}; columns = […] in embedmig.toml, then embedmig alias rebuild {current.space.collection}",
        )
    parts: list[sql.Composable] = [sql.SQL("version = %(version)s")]
    for place, (name, value) in enumerate(where.items()):
        form = "{} = any({})" if isinstance(value, list | tuple | set | frozenset) else "{} = {}"
        parts.append(sql.SQL(form).format(ident(name), sql.Placeholder(f"w{place}")))
    found = (list(value) if isinstance(value, tuple | set | frozenset) else value for value in where.values())
    return sql.SQL(" and ").join(parts), {f"w{place}": value for place, value in enumerate(found)}


def among(current: Shown, keys: sql.Composable) -> sql.Composed:
    """The version, and that a row is one of a relation of keys."""
    names = sql.SQL(", ").join(ident(name) for name in current.keys)
    return sql.SQL("version = %(version)s and ({names}) in (select {names} from {keys} k)").format(
        names=names, keys=keys
    )


def _by_vector(current: Shown, wanted: sql.Composable, limit: int | None, *, exact: bool) -> sql.Composed:
    """Ordered by the vectors themselves, out of the index or out of all of them."""
    return sql.SQL(
        """select {shown} from {relation} where {wanted} order by {distance}{exactly}{limit}"""
    ).format(
        shown=_shown(current), relation=escaped(current.relation), wanted=wanted, distance=_distance(current),
        exactly=sql.SQL(" + 0" if exact else ""), limit=sql.SQL("" if limit is None else " limit {}").format(sql.Literal(limit)),
    )  # fmt: skip


def _by_quantized(current: Shown, form: IndexEncoding, wanted: sql.Composable, k: int, candidates: int) -> sql.Composed:
    """Candidates out of the index in the order of their stand-ins, ranked by the vectors themselves."""
    space = current.space
    near = sql.SQL("{} {} {}").format(
        form.quantized(space, ident("embedding")),
        form.operator(space),
        form.quantized(space, sql.Placeholder("vector")),
    )
    return sql.SQL(
        """select {shown} from (
             select * from {relation} where {wanted} order by {near} limit {candidates}) candidates
           order by {distance} limit {k}"""
    ).format(
        shown=_shown(current), relation=escaped(current.relation), wanted=wanted, near=near, distance=_distance(current),
        candidates=sql.Literal(candidates), k=sql.Literal(k),
    )  # fmt: skip


def _rows_exactly(current: Shown, wanted: sql.Composable, k: int) -> sql.Composed:
    """Every row's nearest chunk, and of those the nearest."""
    distance = sql.Literal(2 * len(current.keys) + 3)  # the column's number: the application may have one of that name
    return sql.SQL(
        """select * from (
             select distinct on ({row}) {shown} from {relation} where {wanted} order by {row}, {distance}, chunk) best
           order by {place} limit {k}"""
    ).format(
        row=key_text(current), shown=_shown(current), relation=escaped(current.relation), wanted=wanted,
        distance=_distance(current), place=distance, k=sql.Literal(k),
    )  # fmt: skip


def key_text(current: Shown) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{}::text").format(ident(name)) for name in current.keys)


def _shown(current: Shown) -> sql.Composed:
    keys = sql.SQL(", ").join(ident(name) for name in current.keys)
    names = (*(OFFSETS if current.offsets else ()), *current.columns)
    extra = sql.Composed([sql.SQL(", {}").format(ident(name)) for name in names])
    return sql.SQL("{}, {}, chunk, version, {} as distance{}").format(
        keys, key_text(current), _distance(current), extra
    )


def _distance(current: Shown) -> sql.Composed:
    space = current.space
    kind = literal(f"{space.storage}({space.dimensions})")
    return sql.SQL("(embedding {} %(vector)s::{})").format(literal(OPERATOR[space.metric]), kind)


def read_hit(row: tuple[Any, ...], current: Shown) -> Hit:
    """A row of the result as a value."""
    width = len(current.keys)
    at, first = 2 * width, 2 * width + 3
    start = end = None
    if current.offsets:
        start, end = row[first : first + 2]
        first += 2
    columns = dict(zip(current.columns, row[first:], strict=True))
    return Hit(row[:width], row[at], row[at + 1], row[at + 2], columns, start, end, row[width:at])
