"""What ``embedmig try`` has embedded, for the backfill of the model that was chosen: these texts are not sent again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from embedmig.database import Connection, translated
from embedmig.database.registry import SpaceRecord
from embedmig.embedders.blocking import wait_for
from embedmig.engine.context import RunContext, SpendingLimit
from embedmig.engine.on_demand import embed_keys
from embedmig.formatting import plural
from embedmig.operations.base import Context
from embedmig.quality.embedding_cache import CacheDamaged, CachedEncoder, EmbeddingCache, cache_file, identity
from embedmig.source.rows import Key
from embedmig.types import Tally


def take_kept(
    context: Context, conn: Connection, record: SpaceRecord, run: RunContext, limit: SpendingLimit, check_model: Callable[[], None]
) -> Tally:  # fmt: skip
    """Writes the rows of which the cache has vectors by the very same model, through the door that every vector passes; a text that
    was edited since is embedded. A cache that is damaged, or that another model filled under this name, is left aside, which is
    said. ``check_model`` is called before anything is written, where there is something.
    """
    if not cache_file(context.config).exists():
        return Tally()
    try:
        with closing(EmbeddingCache(cache_file(context.config))) as cache:
            return _take(context, conn, record, run, limit, check_model, cache)
    except CacheDamaged as damaged:
        run.notice(f"{damaged.message}; {damaged.hint}")
        return Tally()


def _take(
    context: Context, conn: Connection, record: SpaceRecord, run: RunContext, limit: SpendingLimit, check_model: Callable[[], None],
    cache: EmbeddingCache,
) -> Tally:  # fmt: skip
    encoder = context.encoder(record.space, record.weights)
    url = context.config.settings(record.space.provider).base_url or ""
    model = identity(record.space, encoder.embedder.weights(), url)
    rows = cache.rows(model, record.collection)
    keys = _lacking(context, conn, record, rows) if rows else []
    if not keys:
        return Tally()
    cache.check(model)
    check_model()
    kept = CachedEncoder(cache, model, encoder)
    if not wait_for(kept.same_model()):
        run.notice(f"{record.space.model} makes other vectors than embedmig try kept in {cache.path}: none is used")
        return Tally()
    with (
        translated("taking what try embedded"),
        context.database.connect("kept reader") as reading,
        context.database.connect("kept writer") as writing,
    ):
        did = embed_keys(
            (reading, writing), context.registry, context.manifest(reading, record), kept, run, limit, keys
        )
    run.notice(f"{plural(kept.used, 'text')} had a vector from embedmig try in {cache.path}: not sent again")
    return did


def _lacking(context: Context, conn: Connection, record: SpaceRecord, keys: list[Key]) -> list[Key]:
    """In the order of ``keys``, those whose rows want a vector and are in no batch."""
    lacking = context.manifest(conn, record).lacking_among(conn, keys)
    return [key for key in keys if lacking.get(key) is False]
