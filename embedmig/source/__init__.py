"""The user's table: the source of texts.

``table`` reads the catalog and builds the expressions that every query shares; ``checks`` refuses what can't be a source; ``rows``
are its rows; ``chunking`` cuts long texts; ``capture`` notes which rows change, by the ``triggers`` that it installs.
"""

from __future__ import annotations

from embedmig.source.rows import Key, Piece, Row
from embedmig.source.table import (
    DOC_HASH,
    HAS_TEXT,
    Column,
    Source,
    SourceCounts,
    check_key_types,
    comma,
    count_rows,
    find_table,
    list_columns,
    pick,
    resolve,
)

__all__ = [
    "DOC_HASH", "HAS_TEXT", "Column", "Key", "Piece", "Row", "Source", "SourceCounts", "check_key_types", "comma", "count_rows", "find_table",
    "list_columns", "pick", "resolve",
]  # fmt: skip
