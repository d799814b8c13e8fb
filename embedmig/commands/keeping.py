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
    """Of a retained version; None of others. Texts are at most so many: every update of a row is counted as one of its text. Money is None
    where the price is unknown, texts where the statistics say nothing.
    """
    if record.state != "retained":
        return None
    texts, usd = 0, 0.0  # what the application writes itself costs embedmig nothing
    if record.writer == "embedmig":
        rate = changes_per_second(context, conn, record.collection)
        texts = None if rate is None else round(rate * MONTH_SECONDS)  # type: ignore[assignment]
        price = find_price(record.space, context.config.settings(record.space.provider))
        tokens = None if texts is None else texts * text_bytes(context, conn, record) / CHARACTERS_A_TOKEN
        usd = price.of(tokens)  # type: ignore[assignment]
    since = record.state_since
    until = since + timedelta(seconds=parse_duration(RETENTION)) if since else None
    return {
        "texts_per_month": texts, "usd_per_month": usd, "bytes": size,
        "retire_from": until.date().isoformat() if until else None,
    }  # fmt: skip


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
