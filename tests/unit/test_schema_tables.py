"""What an uninstall removes is what the migrations make."""

from __future__ import annotations

import re
from pathlib import Path

from embedmig.database import schema


def test_every_table_and_function_that_a_migration_makes_is_one_that_uninstall_removes() -> None:
    text = "".join(path.read_text() for path in (Path(schema.__file__).parent / "versions").glob("*.py"))
    made = set(re.findall(r'op\.create_table\(\s*"(\w+)"', text))
    assert made | {schema.VERSION_TABLE} == set(schema.TABLES)
    assert set(re.findall(r"create function \{schema\}\.(\w+)", text)) == set(schema.FUNCTIONS)
