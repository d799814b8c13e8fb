"""The picture and the list of packages in docs/architecture.md are what the imports and the folders say."""

from __future__ import annotations

import re

from tests.architecture import PICTURE, drawn, imported
from tests.unit.test_layers import ROOMS


def test_the_picture_shows_the_imports_of_today() -> None:
    assert PICTURE.read_text() == drawn(imported()), "make docs-picture draws it again"


def test_an_import_more_or_less_changes_the_picture() -> None:
    graph = dict(imported())
    assert drawn(graph | {"stores": graph["stores"] - {"embedders"}}) != drawn(graph)
    assert drawn(graph | {"testing": graph["testing"] | {"engine"}}) != drawn(graph)


def test_the_page_lists_every_package_in_the_order_of_imports() -> None:
    page = PICTURE.with_name("architecture.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(ROOMS)
