"""Canary texts: does the model behind the name still make the vectors that it made when the space was first filled?

A few fixed texts are embedded before every run, and compared with the vectors kept from the space's first run. A
provider that changes a model behind its name raises no error, and its new vectors fit the column, the tag and the
fingerprint; only the texts can tell.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psycopg import sql

from embedmig.database import Connection, ident
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.errors import EmbedderMisconfigured, ModelChanged
from embedmig.formatting import plural
from embedmig.lazy import Later
from embedmig.types import Role, Vectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = Later("numpy")

TEXTS = (
    "The lighthouse keeper counts the ships that pass at night.",
    "A recipe for bread needs flour, water, salt and time.",
    "Rain falls on the roof of the old railway station.",
    "Two plus two is four, and has been for a while.",
    "The committee will meet again on Thursday to discuss the budget.",
)
"""Harmless, different, of ordinary length. Never to be changed: what is kept was made of them."""

LOWEST_COSINE = 0.99
"""The same model gives 0.999 or more whatever the hardware and the batch, in half precision too; another one, or the same
one trained further, does not. Lower than that for one of five texts is no noise."""

RECHECK_SECONDS = 3600.0  # a process that syncs for months asks again every hour

_checked: dict[tuple[str, str, int], float] = {}


def check_once(place: str, conn: Connection, registry: Registry, record: SpaceRecord, encoder: Encoder) -> None:
    """As :func:`check`, but once an hour in each process. ``place`` tells one database from another."""
    key, now = (place, registry.schema, record.id), time.monotonic()
    if now - _checked.get(key, float("-inf")) >= RECHECK_SECONDS:
        check(conn, registry, record, encoder)
        _checked[key] = now


def check(conn: Connection, registry: Registry, record: SpaceRecord, encoder: Encoder) -> None:
    """Embeds the texts, one small request, and closes the embedder; the first time keeps what comes back.

    Raises :class:`ModelChanged` where the model makes other vectors than it made, and what the model raises.
    """
    vectors = wait_for(_embed(encoder))
    kept = _kept(conn, registry, record)
    if not kept:
        _keep(conn, registry, record, vectors)
        return
    places = [place for place in vectors if place in kept]
    then, now = np.array([kept[place] for place in places]), np.array([vectors[place] for place in places])
    if places and (lowest := float(cosines_of(then, now).min())) < LOWEST_COSINE:
        raise ModelChanged(
            f"{record.space.model} makes other vectors than when {record.version} was first filled: "
            f"of {len(places)} canary texts the lowest cosine is {lowest:.4f}, at least {LOWEST_COSINE} is expected; "
            "nothing was embedded",
            hint="the provider changed the model behind its name, or another server answers: bring the old one back, "
            "or measure what that means (embedmig drift) and migrate to a new version",
        )


def check_query_model(documents: Encoder, queries: Encoder) -> None:
    """Raises :class:`EmbedderMisconfigured` where the query model is not of the documents' vector space: encoded as a query,
    each of the texts must be nearest to itself. Closes both embedders.
    """
    made, asked = wait_for(_embed(documents)), wait_for(_embed(queries, "query"))
    places = [place for place in made if place in asked]
    left, right = np.array([asked[place] for place in places]), np.array([made[place] for place in places])
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    astray = int((np.argmax(left @ right.T / lengths, axis=1) != np.arange(len(places))).sum())
    if astray:
        raise EmbedderMisconfigured(
            f"{queries.space.model} does not encode queries for {documents.space.model}: of {plural(len(places), 'text')}, "
            f"{astray} found another one than itself",
            hint="query_model is for models that share one vector space, as their provider says; leave it out",
        )


def carry(conn: Connection, registry: Registry, old: SpaceRecord, new: SpaceRecord) -> None:
    """Keeps for a space that is derived from ``old`` the vectors that the texts had there, cut to its length; none are kept where
    there are none. So the model that fills it up is compared with the one that made what it is derived from.
    """
    kept, length = _kept(conn, registry, old), new.space.dimensions
    _keep(conn, registry, new, {place: vector[:length] for place, vector in kept.items()})


def cosines_of(one: Vectors, other: Vectors) -> npt.NDArray[np.float64]:
    """Row by row of ``(n, d)`` and ``(n, d)``: ``(n,)``; NaN where a row is zero."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return np.asarray(np.einsum("ij,ij->i", left, right) / lengths)


async def _embed(encoder: Encoder, role: Role = "document") -> dict[int, Sequence[float]]:
    """The vectors by the texts' places; a text that the model refuses is left out."""
    try:
        encoded = await encoder.encode(TEXTS, role)
    finally:
        await encoder.embedder.aclose()
    return {place: row for place, row in enumerate(encoded.vectors.tolist()) if place not in encoded.rejected}


def _table(registry: Registry) -> sql.Identifier:
    return ident(registry.schema, "canaries")


def _kept(conn: Connection, registry: Registry, record: SpaceRecord) -> dict[int, list[float]]:
    query = sql.SQL("select text_no, vector from {} where space = %s").format(_table(registry))
    return {row[0]: row[1] for row in conn.execute(query, (record.id,))}


def _keep(conn: Connection, registry: Registry, record: SpaceRecord, vectors: dict[int, Sequence[float]]) -> None:
    query = sql.SQL("insert into {} (space, text_no, vector) values (%s, %s, %s::real[]) on conflict do nothing")
    with conn.cursor() as cursor:
        cursor.executemany(
            query.format(_table(registry)), [(record.id, place, list(vector)) for place, vector in vectors.items()]
        )
