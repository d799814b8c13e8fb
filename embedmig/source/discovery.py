"""Which collections a table with vectors offers: its key, its texts, and what is known of the program that made it.

The tables are those of langchain-postgres 0.0.19, llama-index-vector-stores-postgres 0.9.0, pgai 0.12.1 and the guides of Supabase.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from embedmig.database import Connection, ident, planned_rows, scalar
from embedmig.source.table import Column, comma, list_columns

TITLES = ("title", "headline", "subject", "heading")
BODIES = (
    "content", "text", "body", "document", "chunk", "page_content", "chunk_text", "passage", "paragraph", "description", "abstract",
    "article", "message", "answer", "question", "raw_text", "full_text",
)  # fmt: skip
"""Names of columns that usually hold what was embedded, in lower case."""
LONG = 40.0  # characters, on average: other columns of text that are as long are texts, not labels
SAMPLE = 200
COUNTED = 100_000  # rows: tables that the planner believes to be smaller are counted

KEY = """
    select array(select a.attname::text from unnest(i.indkey[0:i.indnkeyatts - 1]) with ordinality k (number, place)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number order by k.place)
    from pg_index i where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
      and not exists (select from unnest(i.indkey[0:i.indnkeyatts - 1]) k (number)
                      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number where not a.attnotnull)
    order by i.indisprimary desc, i.indnkeyatts, i.indexrelid limit 1"""

LANGCHAIN = sql.SQL(
    "select c.uuid::text, c.name, count(*) from {} c join {} e on e.collection_id = c.uuid group by 1, 2 order by 2"
)
PGAI_MODEL = """
    select v.config #>> '{embedding,implementation}', v.config #>> '{embedding,model}'
    from (select config, to_jsonb(w) || coalesce(config -> 'destination', '{}') as place from ai.vectorizer w) v
    where (place ->> 'target_schema', place ->> 'target_table') = (%(schema)s, %(table)s)
       or (place ->> 'source_schema', place ->> 'source_table', place ->> 'embedding_column') = (%(schema)s, %(table)s, %(column)s)"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A collection that could be declared. ``made_by`` is the program whose tables look like this, ``model`` what it recorded
    of the vectors, as ``provider/name``; empty where unknown. Names are written as in SQL.
    """

    name: str
    table: str
    key: tuple[str, ...]
    text: tuple[str, ...]
    rows: int
    where: str | None = None
    made_by: str = ""
    model: str = ""


def candidates(conn: Connection, oid: int, schema: str, table: str, column: str) -> list[Candidate]:
    """What the table with vectors in ``column`` offers: one collection, or one for each of LangChain's."""
    columns = list_columns(conn, oid)
    key = tuple(scalar(conn, KEY, (oid,)) or ())
    text = _texts(conn, sql.Identifier(schema, table), columns, key)
    place = written(table) if schema == "public" else f"{written(schema)}.{written(table)}"
    made_by, name = _maker(conn, table, columns)
    model = _pgai_model(conn, schema, table, column)
    whole = Candidate(
        slug(name), place, tuple(map(written, key)), tuple(map(written, text)), _rows(conn, ident(schema, table)),
        made_by="pgai" if model else made_by, model=model,
    )  # fmt: skip
    if table == "langchain_pg_embedding" and "collection_id" in columns:
        return [
            replace(whole, name=slug(name), rows=rows, where=f"collection_id = '{uuid}'", made_by="LangChain")
            for uuid, name, rows in conn.execute(
                LANGCHAIN.format(ident(schema, "langchain_pg_collection"), ident(schema, table))
            )
        ]
    return [whole]


def _maker(conn: Connection, table: str, columns: dict[str, Column]) -> tuple[str, str]:
    """The program that makes such tables, and what its user called this one."""
    if table.startswith("data_") and {"text", "metadata_", "node_id", "embedding"} <= columns.keys():
        return "LlamaIndex", table.removeprefix("data_")
    if {"embedding_uuid", "chunk_seq", "chunk"} <= columns.keys():
        return "pgai", re.sub(r"_embedding(_store)?$", "", table)
    if "langchain_id" in columns:
        return "LangChain", table
    matching = "select exists (select from pg_proc where proname = %s)"
    if {"content", "embedding"} <= columns.keys() and scalar(conn, matching, (f"match_{table}",)):
        return "a guide of Supabase", table
    return "", table


def _pgai_model(conn: Connection, schema: str, table: str, column: str) -> str:
    """The model that a vectorizer of pgai names for this column; empty where there is none."""
    if not scalar(conn, "select has_table_privilege(to_regclass('ai.vectorizer'), 'select')"):
        return ""
    found = conn.execute(PGAI_MODEL, {"schema": schema, "table": table, "column": column}).fetchone()
    return "/".join(found) if found and all(found) else ""


def _texts(
    conn: Connection, relation: sql.Identifier, columns: dict[str, Column], key: Sequence[str]
) -> tuple[str, ...]:
    """Columns that probably were embedded: titles and bodies by their names, else what is long."""
    found = [c.name for c in columns.values() if c.name not in key and re.match(r"(text|character|citext)", c.base)]
    bodies = [name for name in found if name.lower() in BODIES]
    if found and not bodies:
        means = comma(sql.SQL("coalesce(avg(length({}::text)), 0)::float8").format(ident(name)) for name in found)
        some = comma(map(ident, found))
        sample = sql.SQL("select {} from (select {} from {} limit {}) s").format(means, some, relation, SAMPLE)
        lengths = dict(zip(found, conn.execute(sample).fetchone() or (), strict=True))
        bodies = [name for name in found if lengths[name] >= LONG] or [max(found, key=lengths.__getitem__)]
    titles = [name for name in found if name.lower() in TITLES and name not in bodies]
    return tuple(titles + bodies)


def _rows(conn: Connection, relation: sql.Identifier) -> int:
    """Exact where the table is small."""
    planned = planned_rows(conn, relation)
    if planned >= COUNTED:
        return planned
    return int(scalar(conn, sql.SQL("select count(*) from {}").format(relation)))


def slug(name: str) -> str:
    """``name`` as a collection's: letters, digits and underscores."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:40] or "docs"


def written(name: str) -> str:
    """A name as SQL wants it: in quotes where it would be folded or read as something else."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
