"""init: begins a project; with a database, one that has its vectors in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedmig.config import mask, parse_address
from embedmig.database import Connection, Database, scalar, translated
from embedmig.errors import ConfigError, UsageError
from embedmig.revisions import authoring
from embedmig.source import discovery
from embedmig.stores import VectorColumn, vector_columns
from embedmig.types import Space, Storage

SCHEMA = "embedmig"
UNKNOWN = "unknown/model@unlabelled"
"""What vectors are called whose model nobody named: nothing is encoded for them until somebody does."""

BY_DIMENSIONS = {
    384: "sentence-transformers/all-MiniLM-L6-v2",
    1536: "openai/text-embedding-3-small or openai/text-embedding-ada-002",
    3072: "openai/text-embedding-3-large",
}
"""Well-known models, for advice alone: a length proves nothing."""


@dataclass(frozen=True, slots=True)
class FoundVectors:
    """A column of vectors in a database with the collection that ``init`` would write for it.

    ``model`` is PROVIDER/MODEL where the program that made the table recorded it. ``problem`` says why the column can't be
    adopted; empty: it can. Names are written as in SQL. ``rows`` are exact where the table is small.
    """

    collection: str
    table: str
    column: str
    storage: Storage
    dimensions: int | None
    rows: int
    key: tuple[str, ...]
    text: tuple[str, ...]
    alias: str
    where: str | None = None
    made_by: str = ""
    model: str = ""
    problem: str = ""

    @property
    def place(self) -> str:
        """``table.column``"""
        return f"{self.table}.{self.column}"


def find_vectors(database: str) -> list[FoundVectors]:
    """The columns of vectors in a database, which is only read; ``database`` is a URL or ``env:NAME``.

    Raises :class:`ConfigError`, :class:`DatabaseUnavailable`.
    """
    with translated("looking for vectors"), Database(_address(database), SCHEMA).connect("init") as conn:
        conn.execute("set default_transaction_read_only = on")
        found: list[FoundVectors] = []
        for column in vector_columns(conn, SCHEMA):
            for offered in discovery.candidates(conn, column.oid, column.schema, column.table, column.column):
                found.append(_proposal(conn, column, offered, {one.collection for one in found}))
        return found


def init(
    directory: Path | str = ".",
    *,
    database: str | None = None,
    found: Sequence[FoundVectors] | None = None,
    models: Mapping[str, str] | None = None,
) -> list[Path]:
    """Begins a project; returns the files written. Overwrites nothing: raises :class:`UsageError` where one is there.

    With ``database`` (a URL, or ``env:NAME``), the project has a collection for every column of vectors in it and a revision that
    adopts them. ``found`` are those to take, all that :func:`find_vectors` finds unless given. ``models`` says which model made
    the vectors of a collection, as PROVIDER/MODEL@VERSION; one that nobody named stands in the script as unknown.
    """
    if found is None:
        found = find_vectors(database) if database and database != "embedded" else ()
    taken = [one for one in found if not one.problem]
    adoptions = [(f"adopt {one.place}", _adoption(one, (models or {}).get(one.collection))) for one in taken]
    return authoring.init(Path(directory), database=address_in_file(database), collections=taken, adoptions=adoptions)


def address_in_file(database: str | None) -> str:
    """What the configuration says of a database: never a password, which stays in the environment."""
    given = os.environ.get("EMBEDMIG_DATABASE")
    if database and not database.startswith("env:") and mask(database) != database:
        return "env:EMBEDMIG_DATABASE" if database == given else "env:DATABASE_URL"
    return database or "embedded"


def _address(database: str) -> str:
    if not database.startswith("env:"):
        return parse_address(database)
    name = database.removeprefix("env:")
    if not os.environ.get(name, "").strip():
        raise ConfigError(f"--database is {database}, which is not set", hint=f"export {name}=postgresql://…")
    return parse_address(os.environ[name].strip())


def _proposal(conn: Connection, column: VectorColumn, offered: discovery.Candidate, taken: set[str]) -> FoundVectors:
    name = next(name for name in _names(offered.name, column.column) if name not in taken)
    dimensions = column.length(conn, offered.where)
    problem = (
        "no primary key and no unique index without NULLs" if not offered.key
        else "no column of texts: they are in another table" if not offered.text
        else "there is no vector in it" if dimensions is None
        else ""
    )  # fmt: skip
    return FoundVectors(
        name, offered.table, discovery.written(column.column), column.storage, dimensions, offered.rows, offered.key, offered.text,
        _free_alias(conn, column.schema, name), offered.where, offered.made_by, offered.model, problem,
    )  # fmt: skip


def _names(name: str, column: str) -> list[str]:
    """What a collection may be called, best first: a table can have several columns of vectors."""
    return [name, f"{name}_{discovery.slug(column)}", *(f"{name}_{number}" for number in range(2, 1000))]


def _free_alias(conn: Connection, schema: str, name: str) -> str:
    """A name for the view that no relation of that schema has."""
    there = "select to_regclass(format('%%I.%%I', %s::text, %s::text)) is not null"
    wanted = [f"{name}{ending}" for ending in ("_embeddings", "_search", "_embedmig")]
    return next((one for one in wanted if not scalar(conn, there, (schema, one))), f"{name}_embedmig_view")


def _adoption(found: FoundVectors, named: str | None) -> authoring.Body:
    model, _, version = (named or found.model or UNKNOWN).partition("@")
    if not version and named:
        raise UsageError(f"{named}: has no version", hint=f"PROVIDER/MODEL@VERSION, such as {named}@1")
    assert found.dimensions is not None
    # pgai records no version: its date of adoption is none either, so the name says where it comes from.
    space = Space(
        collection=found.collection, model=model, version=version or "pgai", dimensions=found.dimensions, storage=found.storage
    )  # fmt: skip
    unlabelled = named is None and not found.model
    return authoring.adopt_body(space, found.table, found.column, unlabelled=unlabelled)
