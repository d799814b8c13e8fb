"""import: texts that are in a store's payload alone are copied into a table of PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedmig.commands.project import Project, ProjectLike, ignore, opened
from embedmig.commands.revision import revision
from embedmig.config import Collection
from embedmig.config import loading as configuration
from embedmig.config.loading import PYPROJECT, unknown_store
from embedmig.config.toml_values import folded
from embedmig.database import refuse_standby, translated
from embedmig.engine.importing import Copied, Field, Import, Layout
from embedmig.errors import UsageError
from embedmig.events import Event
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.runner import step_of
from embedmig.stores import open_collection


@dataclass(frozen=True, slots=True)
class Imported:
    """What :func:`import_collection` did: ``points`` read, rows ``new``, ``changed`` and ``gone``, and points that are no rows because
    they have no key, no text, or the key of another; ``examples`` names some of those. ``problem`` says why no row was removed.
    ``configured`` and ``script`` are what was written, None where it was there.
    """

    collection: str
    table: str
    points: int
    new: int
    changed: int
    gone: int
    without_key: int = 0
    without_text: int = 0
    duplicates: int = 0
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problem: str = ""
    configured: Path | None = None
    script: Path | None = None


def import_collection(
    project: ProjectLike,
    name: str,
    *,
    store: str,
    collection: str,
    text: Sequence[str],
    key: str = "id",
    columns: Sequence[str] = (),
    table: str | None = None,
    fields: Mapping[str, Any] | None = None,
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> Imported:
    """Copies keys, texts and chosen fields of a store's collection into a table; run again, what is new, changed or gone.

    ``key`` is ``id`` or ``payload.FIELD``; ``text`` and ``columns`` are ``payload.FIELD``, columns also ``payload.FIELD:TYPE``.
    Where the configuration has no collection of that name it is written there, and so is the script that adopts the vectors:
    ``fields`` says with which model they were made, as for :func:`revision`. Raises :class:`UsageError`, :class:`StoreError`, and
    :class:`PlanError` for a table that an import did not make.
    """
    project = opened(project)
    declared = project.config.collections.get(name)
    layout = Layout(
        table or (declared.table if declared else name),
        key,
        [Field.of(one) for one in text],
        [Field.of(one) for one in columns],
    )
    made_by = dict(fields or {}) | {"store": store}
    _refuse(project, declared, layout, store)
    wants_script = not _adopted(project, name)
    if wants_script and not (made_by.get("model") or (declared and declared.embedding)):
        raise UsageError(
            "--model and --model-version are needed: which model made the vectors",
            hint="they go into the script that adopts them",
        )
    copied = _copied(project, layout, store, collection, report or ignore, stop or threading.Event())
    configured = None if declared else _configure(project, name, layout)
    project = replace(
        project, config=replace(project.config, collections=configuration.load(project.config.path).collections)
    )
    script = None
    if wants_script and not copied.problem:
        left = copied.without_key + copied.without_text + copied.duplicates
        script = revision(
            project, f"adopt {collection}", collection=name, fields=made_by, adopt=collection, key=key,
            unmatched=_rounded_up(left / copied.points) if left else 0.0,
        )  # fmt: skip
    return Imported(
        name, layout.name, copied.points, copied.new, copied.changed, copied.gone, copied.without_key, copied.without_text,
        copied.duplicates, copied.examples, copied.problem, configured, script,
    )  # fmt: skip


def _refuse(project: Project, declared: Collection | None, layout: Layout, store: str) -> None:
    """What the configuration says must be what is to be copied. Raises :class:`UsageError`."""
    stores = project.config.stores
    if store not in stores:
        raise UsageError(f"there is no [stores.{store}]", hint=unknown_store(store, stores))
    if not layout.texts:
        raise UsageError("--text is needed: the field that holds the text", hint="--text payload.FIELD")
    if declared is None:
        return
    said = {
        "table": declared.table,
        "key": [folded(one) for one in declared.key],
        "text": [folded(one) for one in declared.text],
    }
    wanted = {"table": layout.name, "key": [layout.key_column], "text": [one.column for one in layout.texts]}
    for name, value in said.items():
        if value != wanted[name]:
            raise UsageError(
                f"[collections.{declared.name}] has {name} = {value}, the import would have {wanted[name]}",
                hint="import it under another name, or as the configuration has it",
            )


def _copied(
    project: Project,
    layout: Layout,
    store: str,
    collection: str,
    report: Callable[[Event], None],
    stop: threading.Event,
) -> Copied:
    context = project.context(start=True)
    with translated("importing"), context.database.connect("import") as conn:
        refuse_standby(conn)
        source = open_collection(project.config.stores, store, collection)
        source.server_version()
        if (shown := source.attempt(lambda: source.alias_target(collection))) is not None:
            source = open_collection(project.config.stores, store, shown)
        if source.attempt(source.describe) is None:
            raise UsageError(
                f"collection {collection!r} is not in {store}", hint=f"look at its name, and at [stores.{store}]"
            )
        return Import(conn, source, layout, report, stop).run()


def _adopted(project: Project, name: str) -> bool:
    """Whether a script adopts a collection of a store for it."""
    operations = (one for script in project.graph.walk() for one in step_of(script, "upgrade").operations)
    return any(isinstance(one, AdoptCollection) and one.space.collection == name for one in operations)


def _configure(project: Project, name: str, layout: Layout) -> Path:
    """The collection is written at the end of the configuration's file."""
    path = project.config.path
    prefix = "tool.embedmig." if path.name == PYPROJECT else ""
    values: dict[str, Any] = {
        "table": layout.name, "key": _quoted(layout.key_column), "text": [_quoted(one.column) for one in layout.texts],
        "alias": f"{layout.name}_search",
    }  # fmt: skip
    if layout.columns:
        values["columns"] = [_quoted(one.column) for one in layout.columns]
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    section = name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)
    before = path.read_text()
    path.write_text("\n".join([before.rstrip("\n"), "", f"[{prefix}collections.{section}]", *lines, ""]))
    return path


def _quoted(column: str) -> str:
    """As SQL has the name."""
    return column if folded(column) == column and column.isidentifier() else '"' + column.replace('"', '""') + '"'


def _rounded_up(share: float) -> float:
    return min(1.0, -(-share // 0.0001) / 10_000)
