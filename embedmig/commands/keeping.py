"""What it takes to keep a version that one could go back to: texts and money a month, disk, and until when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from embedmig.commands.retire import RETENTION
from embedmig.config.toml_values import parse_duration
from embedmig.database import Connection, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.operations.base import Context
from embedmig.planning.prices import find_price

MONTH_SECONDS = 30 * 86400
CHARACTERS_A_TOKEN = 4


def keeping(context: Context, conn: Connection, record: SpaceRecord, size: int) -> dict[str, Any] | None:
    """Of a retained version, as :func:`costs`, with the day from which it may be retired; None of others."""
    if record.state != "retained" or record.state_since is None:
        return None
    until = record.state_since + timedelta(seconds=parse_duration(RETENTION))
    return costs(context, conn, record, size) | {"retire_from": until.date().isoformat()}


def costs(context: Context, conn: Connection, record: SpaceRecord, size: int) -> dict[str, Any]:
    """Texts are at most so many: every update of a row is counted as one of its text. Money is None where the price is unknown,
    texts where the statistics say nothing.
    """
    texts: int | None = 0  # what the application writes itself costs embedmig nothing
    usd: float | None = 0.0
    if record.writer == "embedmig":
        rate = changes_per_second(context, conn, record.collection)
        texts = None if rate is None else round(rate * MONTH_SECONDS)
        price = find_price(record.space, context.config.settings(record.space.provider))
        usd = price.of(None if texts is None else texts * text_bytes(context, conn, record) / CHARACTERS_A_TOKEN)
    return {"texts_per_month": texts, "usd_per_month": usd, "bytes": size}


def text_bytes(context: Context, conn: Connection, record: SpaceRecord) -> float:
    """How long a row's text is on the average, by the statistics of its columns."""
    source = context.source(conn, record.collection)
    query = """select coalesce(sum(avg_width), 0)::float8 from pg_stats
               where schemaname = %s and tablename = %s and attname = any(%s)"""
    return float(scalar(conn, query, (source.schema, source.table, list(record.text_columns))))


def changes_per_second(context: Context, conn: Connection, collection: str) -> float | None:
    """Updates and deletes since PostgreSQL's statistics began; inserts are left out, for the load was inserts too."""
    query = """select (n_tup_upd + n_tup_del) / nullif(extract(epoch from now() - coalesce(
                 (select stats_reset from pg_stat_database where datname = current_database()), pg_postmaster_start_time())), 0)::float8
               from pg_stat_user_tables where relid = %s"""
    return scalar(conn, query, (context.source(conn, collection).oid,))  # type: ignore[no-any-return]
