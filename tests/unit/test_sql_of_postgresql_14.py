"""Every SQL text of the package is PostgreSQL 14's: nothing newer slips in without a fallback.

The lists are what 15 to 18 added and a text of ours could use: release notes, sections "SQL", "Functions", "System views".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedmig

PACKAGE = Path(embedmig.__file__).parent

FUNCTIONS = """
regexp_count regexp_instr regexp_like regexp_substr pg_settings_get_flags has_parameter_privilege any_value
array_shuffle array_sample random_normal date_add date_subtract erf erfc json_serialize json_scalar json_array
json_arrayagg json_object json_objectagg pg_input_is_valid pg_input_error_info pg_split_walfile_name to_bin to_oct
json_table json_exists json_query json_value xmltext unicode_assigned pg_basetype pg_wal_summary
uuid_extract_timestamp uuid_extract_version pg_available_wal_summaries pg_column_toast_chunk_id array_reverse
array_sort casefold crc32 crc32c gamma lgamma uuidv4 uuidv7 pg_get_acl pg_get_loaded_modules pg_numa_available
has_largeobject_privilege to_regtypemod pg_get_wal_summarizer_state
""".split()  # noqa: SIM905  a list in words is read at a glance

AGGREGATES_OF_NEWER_TYPES = r"\b(?:min|max)\s*\(\s*[\w.\"{}]*(?:hash|digest|bytea|record|xid8)"
"""``min(bytea)``, ``max(bytea)`` and those of rows came with 18."""

KEYWORDS = (
    r"\bmerge\s+into\b", r"\bnulls\s+not\s+distinct\b", r"\bsecurity_invoker\b", r"\breturning\s+(?:old|new)\b",
    r"\bwithout\s+overlaps\b", r"\bgenerated\s+always\s+as\s*\([^)]*\)\s+virtual\b", r"\bnot\s+enforced\b", r"\bon_error\b",
    r"\bgrant\s+set\s+on\s+parameter\b",
    r"\bis\s+json\b", r"\bgrant\s+maintain\b", r"\bat\s+local\b", r"\bexplain\s*\([^)]*(?:serialize|memory|generic_plan)",
    r"\bpg_maintain\b", r"\bpg_create_subscription\b", r"\bpg_checkpoint\b",
)  # fmt: skip

COLUMNS = """
colliculocale collicurules collocale datlocale daticulocale daticurules datlocprovider datcollversion pg_stat_io
pg_stat_checkpointer pg_parameter_acl pg_ident_file_mappings pg_stat_subscription_stats pg_publication_namespace
pg_wait_events pg_aios prattrs prqual subskiplsn subrunasowner last_seq_scan last_idx_scan n_tup_newpage_upd
total_vacuum_time total_analyze_time total_autovacuum_time indnullsnotdistinct subpasswordrequired suborigin
invalidation_reason conflicting inactive_since inherit_option set_option conenforced conperiod relallfrozen
""".split()  # noqa: SIM905

FALLBACKS = {
    r"\bsecurity_invoker\b": "15; on 14 a source with row-level security is refused",
    "last_idx_scan": "16; an older server isn't asked",
}
"""What is newer, and what is done on a server that lacks it."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a module that are SQL, with their lines; docstrings left out."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    raised = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | raised:
            yield node.lineno, node.value


def too_new(text: str) -> Iterator[str]:
    """What of a text PostgreSQL 14 doesn't have."""
    low = text.lower()
    for name in FUNCTIONS:
        if re.search(rf"\b{name}\s*\(", low):
            yield f"{name}()"
    for name in COLUMNS:
        if re.search(rf"\b{name}\b", low):
            yield name
    for pattern in (*KEYWORDS, AGGREGATES_OF_NEWER_TYPES):
        if re.search(pattern, low):
            yield pattern


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_sql_is_newer_than_postgresql_14(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    found = [f"{name}:{line}: {what}" for line, text in texts(path) for what in too_new(text) if what not in FALLBACKS]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "select min(content_hash) from t", "select any_value(x) from t", "merge into t using s on true", "select uuidv7()",
        "create unique index on t (a) nulls not distinct", "insert into t values (1) returning old.*", "select * from pg_stat_io",
        "select array_sort(a) from t", "create view v with (security_invoker = true) as select 1",
    ],
)  # fmt: skip
def test_what_is_newer_is_found(text: str) -> None:
    assert list(too_new(text))
