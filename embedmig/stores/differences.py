"""Where the configuration says something else than what is live: never silently followed, never ignored."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from embedmig.config import Collection
from embedmig.config.toml_values import folded
from embedmig.database import Connection
from embedmig.database.registry import AliasRecord, Registry, SpaceRecord
from embedmig.source import Source
from embedmig.stores import aliases
from embedmig.types import Space

Way = Literal["alias rebuild", "sync --repair", "revision", "configuration"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of ``[collections.NAME]`` that is not what is live. ``served`` is what applies until ``command`` is run.

    ``way`` is what carries it out; a flip of the collection does as ``alias rebuild``.
    """

    collection: str
    key: str
    live: str
    configured: str
    served: str
    way: Way
    command: str

    @property
    def in_words(self) -> str:
        """One line, without the command."""
        return f"{self.key} is {self.configured} in the configuration, live is {self.live}: {self.served}"


def live_differences(
    conn: Connection, registry: Registry, collection: Collection, source: Source | None
) -> list[Difference]:
    """What differs from what the alias shows; none while it shows nothing. ``source`` is its table, None
    where that is not there.

    Wants SELECT alone.
    """
    alias = registry.alias(conn, collection.name)
    if alias is None or alias.version is None:
        return []
    record = registry.space(conn, collection.name, alias.version)
    assert record is not None
    found = view_differences(alias, collection, source)
    found += [
        Difference(collection.name, key, live, configured, served, "revision", f"embedmig revision --collection {collection.name} -m …")
        for key, live, configured, served in _space(alias, record, collection, source)
    ]  # fmt: skip
    captured = registry.captured(conn, collection.name)
    if captured is not None and (mode := captured.mode) != collection.capture:
        repair = f"embedmig sync {collection.name} --repair"
        served = f"{mode} was installed"
        found.append(Difference(collection.name, "capture", mode, collection.capture, served, "sync --repair", repair))
    return found


def view_differences(alias: AliasRecord, collection: Collection, source: Source | None) -> list[Difference]:
    """What differs of the view that an alias is read through: a flip carries these out. Asks the database nothing."""
    rebuild = f"embedmig alias rebuild {collection.name}"
    return [
        Difference(collection.name, key, live, configured, served, "alias rebuild", rebuild)
        for key, live, configured, served in (*_alias(alias, collection, source), *_view(alias, collection))
    ]


def undeclared(conn: Connection, registry: Registry, declared: Names[str]) -> list[Difference]:
    """Collections with live versions that the configuration does not name any more, or under another name. Wants SELECT alone."""
    found = []
    for name in dict.fromkeys(record.collection for record in registry.spaces(conn) if record.live):
        if name not in declared:
            alias = registry.alias(conn, name)
            read = f"{alias.alias_name} shows {alias.version}" if alias and alias.version else "its versions are kept"
            command = f"restore [collections.{name}]; embedmig uninstall removes everything instead"
            served = f"{read}, and no command takes changes of its table in"
            found.append(Difference(name, "collection", name, "none", served, "configuration", command))
    return found


Found = tuple[str, str, str, str]


def _alias(alias: AliasRecord, collection: Collection, source: Source | None) -> Iterator[Found]:
    parts = aliases.split_name(collection.alias)
    wanted = (parts[0] if len(parts) == 2 else source.schema if source else alias.alias_schema, parts[-1])
    live = (alias.alias_schema, alias.alias_name)
    if wanted != live:
        yield "alias", ".".join(live), ".".join(wanted), f"{live[1]} is read, {wanted[1]} is not there"


def _view(alias: AliasRecord, collection: Collection) -> Iterator[Found]:
    """What the view itself says; nothing of an alias that an older embedmig made."""
    shown: dict[str, Any] = (alias.encoder or {}).get("collection") or {}
    served = {
        "where": "readers see the rows that the live filter lets through",
        "columns": "readers see the live columns",
        "stale": "readers see rows with an earlier text" if shown.get("stale") == "serve" else "readers see current rows only",
    }  # fmt: skip
    for key, meanwhile in served.items():
        if key not in shown:
            continue
        live, configured = shown[key], getattr(collection, key)
        if _same(live) != _same(configured):
            yield key, in_words(live), in_words(configured), meanwhile


def _same(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.split())
    return [folded(name) for name in value] if isinstance(value, list | tuple) else value


def _space(alias: AliasRecord, record: SpaceRecord, collection: Collection, source: Source | None) -> Iterator[Found]:
    """What the vectors themselves are made of."""
    shown: dict[str, Any] = (alias.encoder or {}).get("collection") or {}
    serves = f"{record.version} is served, and kept as it was made"
    made_of = [column.name for column in source.reading(record.text_columns).text] if source else record.text_columns
    if list(made_of) != [folded(name) for name in collection.text]:
        yield "text", in_words(made_of), in_words(collection.text), serves
    if "key" in shown and _same(shown["key"]) != _same(collection.key):
        yield "key", in_words(shown["key"]), in_words(collection.key), serves
    chunk = record.space.chunk
    if collection.chunk is not None and not record.adopted and chunk != collection.chunk:
        yield "chunk", str(chunk or "none"), str(collection.chunk), serves
    wanted = wanted_version(collection)
    if wanted is not None and wanted != record.version:
        yield "embedding", record.version, wanted, serves


def wanted_version(collection: Collection) -> str | None:
    """The version that ``[collections.NAME.embedding]`` declares; None where it declares none."""
    if collection.embedding is None:
        return None
    return Space(collection=collection.name, chunk=collection.chunk, **collection.embedding).tag


def in_words(value: object) -> str:
    """A value as one line has it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def unmet(
    found: Sequence[Difference], collection: Collection, records: Sequence[SpaceRecord], coming: Sequence[Space]
) -> list[Difference]:
    """Those that want a revision that nobody has written: no live version is what the configuration asks for, and none of
    ``coming``, which the scripts are about to make from it.
    """
    live = [record for record in records if record.live]
    text = [folded(name) for name in collection.text]
    wanted = wanted_version(collection)
    met = {
        "text": bool(coming) or any(list(record.text_columns) == text for record in live),
        "key": bool(coming),
        "chunk": collection.chunk in [one.chunk for one in (*coming, *(record.space for record in live))],
        "embedding": wanted in {*(one.tag for one in coming), *(record.version for record in live)},
    }
    return [one for one in found if one.way == "revision" and not met[one.key]]
