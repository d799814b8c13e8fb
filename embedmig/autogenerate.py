"""For the application's own Alembic: keeps its autogenerate away from what embedmig put into the database.

In ``env.py``::

    from embedmig.autogenerate import include_object

    context.configure(..., include_object=include_object)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def excluding(
    schema: str = "embedmig", version_columns: tuple[str, ...] = ("embedding_version",)
) -> Callable[[Any, str | None, str, bool, Any], bool]:
    """An ``include_object`` for another schema, or for adopted vectors with other version columns.

    Signature and meaning are Alembic's: https://alembic.sqlalchemy.org/en/latest/autogenerate.html
    """

    def include(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        """False for what is in the database, not in the models, and embedmig's."""
        if not reflected or compare_to is not None:
            return True
        if kind == "column":
            return name not in version_columns
        return kind != "table" or item.schema != schema

    return include


include_object = excluding()
"""For the defaults: schema ``embedmig``, version column ``embedding_version``."""
