"""Versions of pgvector are compared as numbers, and one that is too old is refused by name."""

from __future__ import annotations

import pytest

from embedmig.errors import DatabaseUnsuitable
from embedmig.stores.pgvector.extension import numbers, require


@pytest.mark.parametrize("version", ["0.7.0", "0.8.5", "0.10", "0.10.0-dev", "0.7", "1.0", "10.2.1"])
def test_a_version_that_is_new_enough_is_taken_however_it_is_written(version: str) -> None:
    require(version, can_create=False)


@pytest.mark.parametrize("version", ["0.6.2", "0.5.1", "0.0.9", "0.6.99-dev"])
def test_a_version_that_is_too_old_is_refused_by_name(version: str) -> None:
    with pytest.raises(DatabaseUnsuitable, match=f"pgvector {version} is too old") as caught:
        require(version, can_create=True)
    assert "ALTER EXTENSION vector UPDATE" in (caught.value.hint or "")


def test_a_database_without_it_is_refused_where_it_can_not_be_created() -> None:
    require(None, can_create=True)
    with pytest.raises(DatabaseUnsuitable, match="is not in this database"):
        require(None, can_create=False)


def test_versions_are_ordered_as_numbers() -> None:
    written = ["1.0", "0.10.1", "0.7", "0.10.0-dev", "0.8.0", "0.7.4"]
    assert sorted(written, key=numbers) == ["0.7", "0.7.4", "0.8.0", "0.10.0-dev", "0.10.1", "1.0"]
