"""A collection of a store beside PostgreSQL that was there before embedmig: its points stay where they are, and the manifest says
whose they are.

The application goes on writing it. So the manifest is what a listing found, and is brought up to date by another one: before a
gate, by ``sync``. Of which text a vector was made nobody wrote down: content hashes are null, completeness is by presence. A point
that carries no version, or another, is known and never read; one whose key no row has is left alone. Nothing is ever deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, first_line, ident, literal, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import PlanError, StoreError
from embedmig.source import DOC_HASH, HAS_TEXT, Source, comma
from embedmig.source.rows import Key
from embedmig.source.sampling import by_hash
from embedmig.stores.adopted_place import VERSION, AdoptedPlace, text_of
from embedmig.stores.external_manifest import ExternalManifest
from embedmig.stores.manifest import Drawn, Listing, SpaceCounts
from embedmig.stores.protocol import pages

if TYPE_CHECKING:
    from embedmig.stores.external import Held

EXAMPLES = 3
NOT_ALLOWED = (pg.InsufficientPrivilege, pg.ReadOnlySqlTransaction)
TAGGED = 2_000  # points that are given their version at once


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Points that can't be adopted, by reason, with some of their ids or keys."""

    reason: str
    points: int
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class Matched:
    """The ``points`` of a collection, and those that no row can be found for."""

    points: int
    unmatched: Sequence[Unmatched] = field(default_factory=tuple)

    @property
    def left(self) -> int:
        """How many are not adopted."""
        return sum(one.points for one in self.unmatched)

    @property
    def share(self) -> float:
        """Of all points."""
        return self.left / self.points if self.points else 0.0

    @property
    def in_words(self) -> str:
        """By reason; empty where there are none."""
        return "; ".join(
            f"{one.points:,} {one.reason} ({', '.join(one.examples)}{', …' if one.points > len(one.examples) else ''})"
            for one in self.unmatched
        )


class AdoptedManifest(ExternalManifest):
    """One collection's. Rows of :attr:`table`: a key, the id of its point, and the version that the point carries."""

    listed: ClassVar[sql.Identifier] = sql.Identifier("embedmig_seen")
    listed_columns: ClassVar[sql.SQL] = sql.SQL("point_id text, key text, version text")

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        super().__init__(source, record)
        self.place = AdoptedPlace.of(record.place)
        self.tag = sql.Literal(self.record.version)

    @property
    def value_type(self) -> sql.SQL:
        """Ids are the application's: numbers, UUIDs, texts."""
        return sql.SQL("text")

    def create_sql(self) -> sql.Composed:
        """The table. Its versions are what the points say."""
        keys = comma(
            sql.SQL("{} {} not null").format(ident(column.name), literal(column.declaration))
            for column in self.source.key
        )
        return sql.SQL(
            """create table if not exists {table} (
                 {keys}, chunk int not null default 0, version text, content_hash bytea, point_id text not null unique,
                 embedded_at timestamptz not null default now(), primary key ({key}, chunk))"""
        ).format(table=self.table, keys=keys, key=self.source.key_columns)

    # --- the collection as it is now

    def _copy_listed(self, conn: Connection) -> int:
        """Id, key and version of every point."""
        listed = 0
        fields = [VERSION] if self.place.field is None else [self.place.field, VERSION]
        for page in self.store.held(fields):
            with conn.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(self.listed)) as copy:
                for point in page:
                    copy.write_row((point.id, self._key_of(point), point.payload.get(VERSION)))
            listed += len(page)
        return listed

    def _key_of(self, point: Held) -> str | None:
        return point.id if self.place.field is None else text_of(point.payload.get(self.place.field))

    def look(self, conn: Connection) -> Matched:
        """Lists the collection and compares it with the source. Raises :class:`StoreError` where the listing can't be trusted."""
        if problem := self._list(conn):
            raise StoreError(
                f"collection {self.place.collection!r} can't be adopted: {problem}", hint="try again later"
            )
        conn.execute(sql.SQL("analyze {}").format(self.listed))
        row = conn.execute(sql.SQL("select count(*), {} from ({}) m").format(
            comma(sql.SQL("count(*) filter (where {})").format(condition) for _, condition, _ in self._reasons()), self._matching()
        )).fetchone()  # fmt: skip
        assert row is not None
        found = [
            Unmatched(reason, count, self._examples(conn, condition, shown))
            for (reason, condition, shown), count in zip(self._reasons(), row[1:], strict=True)
            if count
        ]
        return Matched(row[0], found)

    def _reasons(self) -> list[tuple[str, sql.Composable, sql.Composable]]:
        """Why points are not adopted, over a row ``m`` of :meth:`_matching`; and what names such a point."""
        table, key = self.source.collection.table, self.source.key[0].name
        id_, key_ = sql.SQL("m.point_id"), sql.SQL("m.listed_key")
        return [
            (f"have no {self.place.key}", sql.SQL("m.listed_key is null"), id_),
            (f"have a key that {table}.{key} does not have", sql.SQL("m.listed_key is not null and not m.known"), key_),
            ("have the key of another point", sql.SQL("m.known and m.place > 1"), key_),
            ("carry another version", sql.SQL("m.known and m.place = 1 and m.version <> {}").format(self.tag), id_),
        ]

    def _examples(self, conn: Connection, condition: sql.Composable, shown: sql.Composable) -> list[str]:
        query = sql.SQL("select {shown} from ({matching}) m where {condition} order by 1 limit {limit}").format(
            shown=shown, matching=self._matching(), condition=condition, limit=sql.Literal(EXAMPLES)
        )
        return [str(row[0]) for row in conn.execute(query)]

    def _matching(self) -> sql.Composed:
        """Every listed point with the key's column where a row has it. Of several with one key the first counts: one that carries
        the version, then one that carries none.
        """
        key = self.source.key[0]
        spelt = sql.SQL("lower(l.key)" if key.base == "uuid" else "l.key")
        return sql.SQL(
            """select l.point_id, l.key as listed_key, l.version, s.{key}, s.{key} is not null as known,
                      row_number() over (partition by s.{key}
                        order by l.version is distinct from {tag}, l.version is not null, l.point_id) as place
               from {listed} l left join {rows} s on s.{key}::text = {spelt}"""
        ).format(
            key=ident(key.name), tag=self.tag, listed=self.listed, rows=self.source.rows(text=False), spelt=spelt
        )  # fmt: skip

    def tag_points(self, conn: Connection, after: Callable[[int, int], None]) -> int:
        """Writes the version onto every listed point that carries none, by the store's own bulk update; returns how many.

        ``after`` hears how many of how many are done. Any number of times: those that carry one are not listed for it again.
        """
        untagged = sql.SQL("from {} where version is null").format(self.listed)
        done, total = 0, int(scalar(conn, sql.SQL("select count(*) {}").format(untagged)))
        with conn.cursor("embedmig_untagged", withhold=True) as cursor:
            cursor.execute(sql.SQL("select point_id {}").format(untagged))
            for ids in pages((row[0] for row in cursor), TAGGED):
                self.store.attempt(lambda ids=ids: self.store.set_version(ids, self.record.version))  # type: ignore[misc]
                done += len(ids)
                after(done, total)
        conn.execute(sql.SQL("update {} set version = {} where version is null").format(self.listed, self.tag))
        return done

    def fill(self, conn: Connection) -> int:
        """Inside a transaction: has the table say what was listed; returns how many rows of it changed."""
        gone = sql.SQL("delete from {} e where {}").format(self.table, self._outdated())
        new = sql.SQL(
            "insert into {} ({key}, point_id, version) select w.{key}, w.point_id, w.version from {} w on conflict do nothing"
        ).format(self.table, self._wanted(), key=ident(self.source.key[0].name))
        return max(conn.execute(gone).rowcount, conn.execute(new).rowcount)

    def _wanted(self) -> sql.Composed:
        """What the table should say."""
        return sql.SQL("(select m.{}, m.point_id, m.version from ({}) m where m.known and m.place = 1)").format(
            ident(self.source.key[0].name), self._matching()
        )

    def _outdated(self) -> sql.Composed:
        """Whether row ``e`` is not what was listed."""
        return sql.SQL(
            """not exists (select from {} w where {} and w.point_id = e.point_id
                           and w.version is not distinct from e.version)"""
        ).format(self._wanted(), self.source.join("w", "e"))

    def reread(self, conn: Connection) -> int:
        """Lists the collection and brings the table up to date. Raises :class:`StoreError`."""
        with self._lock(conn, "pg_advisory_lock", "pg_advisory_unlock"):
            if problem := self._list(conn):
                raise StoreError(
                    f"{self.record.version} can't be compared with its store: {problem}", hint="try again later"
                )
            return self._take(conn)

    def _take(self, conn: Connection) -> int:
        with conn.transaction():
            conn.execute("set transaction read write")
            return self.fill(conn)

    def listing(self, conn: Connection) -> Listing:
        """The table is brought up to date; where this role may not, points that are gone are missing, and new ones don't count.
        What no row can be found for is the application's own.
        """
        with self._lock(conn, "pg_advisory_lock", "pg_advisory_unlock"):
            try:
                problem = self._list(conn)
            except NOT_ALLOWED as error:
                problem = f"the listing has no place to be kept in: {first_line(error)}"
            if problem:
                return Listing(problem=problem)
            try:
                self._take(conn)
            except NOT_ALLOWED:
                lost = sql.SQL("select count(*) from {} e where e.version = {} and {}")
                return Listing(int(scalar(conn, lost.format(self.table, self.tag, self._outdated()))))
        return Listing()

    # --- questions

    def present(self, *, current: bool = True) -> sql.Composable:
        """By presence, whatever is asked for: of which text the vector was made is not known."""
        return sql.SQL("exists (select from {} e where {} and e.version = {})").format(
            self.table, self.source.join("e", "s"), self.tag
        )

    def untagged(self) -> sql.Composable:
        """A point that somebody wrote without its version."""
        return sql.SQL("exists (select from {} e where {} and e.version is null)").format(
            self.table, self.source.join("e", "s")
        )

    def counts(self, conn: Connection) -> SpaceCounts:
        """As of the last listing."""
        query = sql.SQL(
            """select count(*) filter (where s.embedmig_has_text),
                      count(*) filter (where s.embedmig_has_text and e.version = {tag}),
                      count(*) filter (where e.version = {tag}),
                      count(*) filter (where not s.embedmig_has_text),
                      count(*) filter (where e.point_id is not null and e.version is null),
                      count(*) filter (where e.version = {tag} and s.embedmig_has_text is not true)
               from (select {key}, {has_text} as embedmig_has_text from {rows} s) s full join {table} e on {join}"""
        ).format(
            tag=self.tag, key=self.source.key_of("s"), has_text=HAS_TEXT, rows=self.source.rows(), table=self.table,
            join=self.source.join("s", "e"),
        )  # fmt: skip
        row = conn.execute(query).fetchone()
        assert row is not None
        return SpaceCounts(
            eligible=row[0],
            complete=row[1],
            vectors=row[2],
            blank=row[3],
            untagged=row[4],
            orphans=row[5],
            hash_known=False,
        )

    def untagged_since_adoption(self, conn: Connection) -> str | None:
        """The field of the payload."""
        return VERSION

    def current_values(self, after: Key | None, upto: Key | None) -> sql.Composed:
        """Of which text a vector was made is not known, so all count as current."""
        return sql.SQL(
            """select {key}, 0 as chunk, {hash} as content_hash, e.point_id from {rows} s join {table} e on {join}
               where {bounds} and {has_text} and e.version = {tag}"""
        ).format(
            key=self.source.key_of("s"), hash=DOC_HASH, rows=self.source.rows(), table=self.table, join=self.source.join("s", "e"),
            bounds=self.between(after, upto), has_text=HAS_TEXT, tag=self.tag,
        )  # fmt: skip

    # --- what others show of it

    def view(self, order: Sequence[str] = ()) -> sql.Composed:
        """The alias view; a point without its version is never read, and whatever the text of a row, its vector is."""
        return sql.SQL(
            """select {shown}, e.chunk, {tag}::text as version, {value}{extra}
               from {table} e join {rows} s on {join} where e.version = {tag}"""
        ).format(
            shown=self.source.key_of("s"), tag=self.tag, value=self.value_shown(), extra=self.following(order), table=self.table,
            rows=self.source.rows(text=False, extra=self.source.columns), join=self.source.join("s", "e"),
        )  # fmt: skip

    def draw(self, conn: Connection, size: int, seed: int) -> Sequence[Drawn]:
        """Beside the text that stands in the row now."""
        query = sql.SQL(
            """select {key}, s.embedmig_doc, e.point_id
               from (select * from {table} e where e.version = {tag} order by {order} limit {size}) e
               join {rows} s on {join} where {has_text}"""
        ).format(
            key=self.source.key_text("e"), table=self.table, tag=self.tag, size=sql.Literal(size), rows=self.source.rows(),
            order=by_hash(sql.SQL("({}::text)").format(self.source.key_text("e")), seed), join=self.source.join("s", "e"),
            has_text=HAS_TEXT,
        )  # fmt: skip
        rows = conn.execute(query).fetchall()
        vectors = self.store.fetch(conn, [row[2] for row in rows])
        return [Drawn(row[0], row[1], 0, None, vectors[row[2]]) for row in rows if row[2] in vectors]

    # --- what belongs to the application

    def mend(self, conn: Connection) -> None:
        """The table alone."""
        self.reread(conn)

    def sweep(self, conn: Connection) -> None:
        """Nothing: points that nobody knows are the application's."""

    def create(self, conn: Connection) -> None:
        """Refused: it is adopted, or not."""
        raise _not_ours()

    def drop(self, conn: Connection) -> None:
        """Refused."""
        raise _not_ours()

    def finish_drop(self, conn: Connection) -> bool:
        """There is nothing to finish."""
        return False


def _not_ours() -> PlanError:
    return PlanError("adopted vectors belong to the application; embedmig neither makes nor drops their collection")
