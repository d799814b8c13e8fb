"""embedmig.toml, read into a frozen :class:`Config`: how to reach things, and which collections there are.

What a model *is* stands in the migration scripts. Nothing here connects to anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from embedmig.config import toml_values
from embedmig.config.addresses import parse_address
from embedmig.config.placeholders import expanded
from embedmig.config.providers import look_up_key, read_embedder
from embedmig.config.rule_codes import NAMES
from embedmig.config.settings import (
    BackfillSettings,
    ConnectSettings,
    EmbedderSettings,
    HookSettings,
    RaySettings,
    StoreSettings,
)
from embedmig.config.toml_lines import KeyPath
from embedmig.config.toml_values import Check, TomlFile
from embedmig.errors import ConfigError
from embedmig.types import IN_POSTGRESQL, Chunk, Space

FILE_NAME = "embedmig.toml"
PYPROJECT = "pyproject.toml"


@dataclass(frozen=True)
class Collection:
    """A corpus: where its texts are, and the alias under which its vectors are read.

    ``table``, ``key``, ``text``, ``alias`` and ``columns`` are written as in SQL: ``schema.table``,
    ``"Quoted"``. ``embedding`` is the wanted model, as keyword arguments of :class:`Space`; None: not set. ``store_alias``
    is the alias in a store beside PostgreSQL; None: the last part of ``alias``. With ``rescue``, a version whose model can't be
    reached may be searched through a bridge. ``cuts`` are thresholds of similarity by name, for the version
    that is shown when they are first seen, or by version. ``stores`` say how to reach those stores.
    """

    name: str
    table: str
    key: tuple[str, ...]
    text: tuple[str, ...]
    alias: str
    where: str | None = None
    columns: tuple[str, ...] = ()
    stale: Literal["serve", "hide"] = "serve"
    chunk: Chunk | None = None
    embedding: Mapping[str, Any] | None = None
    capture: Literal["triggers", "watermark"] = "triggers"
    changed_at: str | None = None
    rescan: float | None = None
    store_alias: str | None = None
    rescue: bool = False
    cuts: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict, repr=False, compare=False)
    stores: Mapping[str, StoreSettings] = field(default_factory=dict, repr=False, compare=False)

    @property
    def bare_table(self) -> str:
        """The table's name as the catalog has it, without its schema."""
        return toml_values.cut(toml_values.folded(self.table))


@dataclass(frozen=True)
class GateDefaults:
    """Thresholds of gates whose script sets none: a share in (0, 1], and seconds."""

    completeness: float = 0.995
    freshness: float = 900.0


@dataclass(frozen=True)
class ThrottleSettings:
    """When running backfills and syncs hold back by themselves.

    ``replication_lag`` is the seconds that the slowest standby may be behind; ``pause_when`` a query of the user's
    that returns true while nothing new is to be begun.
    """

    replication_lag: float | None = None
    pause_when: str | None = None


@dataclass(frozen=True)
class IndexSettings:
    """What an index build may take of the server's machine: bytes of memory, None: what the server's settings allow."""

    memory: int | None = None


@dataclass(frozen=True)
class CheckSettings:
    """Which rules ``check`` applies: those selected (none named: all) but for those ignored, each with its reason."""

    select: tuple[str, ...] = ()
    ignore: Mapping[str, str] = field(default_factory=dict)

    def wants(self, code: str) -> bool:
        """Whether a rule is to be applied."""
        return code not in self.ignore and (not self.select or code in self.select)


@dataclass(frozen=True)
class Config:
    """A checked configuration file; missing sections have their defaults. ``path`` is the file."""

    path: Path
    address: Callable[[], str] = field(repr=False, compare=False)
    migrations: Path
    schema: str = "embedmig"
    collections: Mapping[str, Collection] = field(default_factory=dict)
    embedders: Mapping[str, EmbedderSettings] = field(default_factory=dict)
    stores: Mapping[str, StoreSettings] = field(default_factory=dict)
    gates: GateDefaults = field(default_factory=GateDefaults)
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    backfill: BackfillSettings = field(default_factory=BackfillSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    connect: ConnectSettings = field(default_factory=ConnectSettings)
    sunsets: Mapping[str, date] = field(default_factory=dict)  # by provider/name: from that day on it is not served
    hooks: HookSettings = field(default_factory=HookSettings)
    max_cost: float | None = None  # USD, of this run: from the command line, on top of each embedder's own

    def __getstate__(self) -> dict[str, Any]:
        """What travels to workers: the address itself, not the environment that it was read from."""
        return self.__dict__ | {"address": partial(str, self.database)}

    @cached_property
    def database(self) -> str:
        """A URL, a libpq string or ``"embedded"``; it may hold a password, so what prints it masks it.

        Looked up when it is first wanted, for what reads files alone works without one. Raises :class:`ConfigError`
        where ``env:NAME`` is not set.
        """
        return self.address()

    @property
    def data_dir(self) -> Path:
        """Where embedmig keeps what belongs to this project alone: the embedded server, tracebacks."""
        return self.path.parent / ".embedmig"

    def collection(self, name: str) -> Collection:
        """The collection of that name; raises :class:`ConfigError` naming those there are."""
        if name in self.collections:
            return self.collections[name]
        known = ", ".join(self.collections) or "none"
        raise ConfigError(
            f"collection {name!r} is not declared in {self.path.name}",
            hint=toml_values.did_you_mean(name, self.collections) or f"declared: {known}",
        )

    def key_variables(self, *, but: Space | None = None) -> frozenset[str]:
        """The variables that hold keys of providers and stores, but for those that who fills a space needs."""
        needed = self.for_space(but) if but else None
        kept = needed.key_variables() if needed else frozenset()
        named = [one.api_key_variable for one in self.embedders.values()]
        named += [name for one in self.embedders.values() for name in one.header_variables.values()]
        named += [one.api_key_variable for one in self.stores.values()]
        return frozenset(name for name in named if name) - kept

    def for_space(self, space: Space) -> Config:
        """The configuration as a process needs it that fills this space: its model's provider and its store, and no others."""
        stores = {name: to for name, to in self.stores.items() if name == space.store}
        return replace(
            self,
            embedders={name: to for name, to in self.embedders.items() if name == space.provider},
            stores=stores,
            collections={name: replace(one, stores=stores) for name, one in self.collections.items()},
        )

    def settings(self, provider: str) -> EmbedderSettings:
        """How to reach ``provider``; the defaults where the file says nothing about it."""
        found = self.embedders.get(provider, EmbedderSettings())
        limits = [limit for limit in (found.max_cost, self.max_cost) if limit is not None]
        return replace(found, max_cost=min(limits)) if limits else found


def load(path: Path | None = None, *, database: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the configuration at ``path``, else at ``EMBEDMIG_CONFIG``, else the ``embedmig.toml`` that :func:`find_file` finds.

    The database is ``database`` (the flag), else ``EMBEDMIG_DATABASE``, else the file's. ``${NAME}`` is replaced by what
    ``environ`` has. Raises :class:`ConfigError` with the key's name and its line.
    """
    file = TomlFile.read(Path(path or environ.get("EMBEDMIG_CONFIG") or find_file(Path.cwd())))
    if file.path.name == PYPROJECT:
        file = _tool_table(file)
    file = expanded(file, environ)
    root = file.section((), file.document, _ROOT)
    main = file.section(("embedmig",), root.get("embedmig", {}), _MAIN)
    stores = {name: _store(file, name, raw, environ) for name, raw in root.get("stores", {}).items()}
    return Config(
        path=file.path,
        address=_database(file, database or environ.get("EMBEDMIG_DATABASE"), main.get("database"), environ),
        schema=main.get("schema", "embedmig"),
        migrations=(file.path.parent / main.get("migrations", "migrations")).resolve(),
        connect=ConnectSettings(**file.section(("embedmig", "connect"), main.get("connect", {}), _CONNECT)),
        collections=_collections(file, root.get("collections", {}), stores),
        embedders={name: read_embedder(file, name, raw, environ) for name, raw in root.get("embedders", {}).items()},
        stores=stores,
        gates=GateDefaults(**file.section(("gates",), root.get("gates", {}), _GATES)),
        throttle=ThrottleSettings(**file.section(("throttle",), root.get("throttle", {}), _THROTTLE)),
        check=_check(file, root.get("check", {})),
        index=IndexSettings(**file.section(("index",), root.get("index", {}), _INDEX)),
        backfill=BackfillSettings(**file.section(("backfill",), root.get("backfill", {}), _BACKFILL)),
        hooks=HookSettings(**file.section(("hooks",), root.get("hooks", {}), _HOOKS)),
        ray=RaySettings(**file.section(("ray",), root.get("ray", {}), _RAY)),
        sunsets={
            model: file.value(("sunsets", model), day, toml_values.day)
            for model, day in root.get("sunsets", {}).items()
        },
    )


def find_file(folder: Path) -> Path:
    """``embedmig.toml`` in ``folder``, or a ``pyproject.toml`` with ``[tool.embedmig]``; else in the nearest parent that has one of
    them, up to the repository's root.

    Outside a repository no parent is looked at. Where there is none, the path that ``folder`` would have.
    """
    searched = [folder]
    if root := next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None):
        searched += [parent for parent in folder.parents if parent.is_relative_to(root)]
    for place in searched:
        if (place / FILE_NAME).is_file():
            return place / FILE_NAME
        if (place / PYPROJECT).is_file() and _has_tool_table(place / PYPROJECT):
            return place / PYPROJECT
    return Path(FILE_NAME)


def _has_tool_table(path: Path) -> bool:
    """Whether a ``pyproject.toml`` speaks of embedmig; one that is no TOML is somebody else's business."""
    try:
        return isinstance(TomlFile.read(path).document.get("tool", {}).get("embedmig"), dict)
    except (ConfigError, AttributeError):
        return False


def _tool_table(file: TomlFile) -> TomlFile:
    """``[tool.embedmig]`` as a file of its own: the keys of ``[embedmig]`` stand directly in it."""
    prefix = ("tool", "embedmig")
    table = file.document.get("tool", {}).get("embedmig")
    if not isinstance(table, dict):
        raise ConfigError(f"{file.path}: has no [tool.embedmig]", hint="embedmig init   writes an embedmig.toml")
    main = {key: value for key, value in table.items() if key in _MAIN}
    rest = {key: value for key, value in table.items() if key not in _MAIN}
    found = {at[2:]: line for at, line in file.lines.items() if at[:2] == prefix and len(at) > 2}
    lines = {("embedmig", *at) if at[0] in _MAIN else at: line for at, line in found.items()}
    return TomlFile(file.path, {"embedmig": main, **rest}, lines)


_ROOT: dict[str, Check] = dict.fromkeys(
    (
        "embedmig",
        "collections",
        "embedders",
        "stores",
        "gates",
        "throttle",
        "check",
        "index",
        "backfill",
        "ray",
        "hooks",
        "sunsets",
    ),
    toml_values.table,
)
_HOOKS: dict[str, Check] = {"after_flip": toml_values.string}
_INDEX: dict[str, Check] = {"memory": toml_values.parse_size}
_THROTTLE: dict[str, Check] = {"replication_lag": toml_values.patience, "pause_when": toml_values.string}
_BACKFILL: dict[str, Check] = {
    "workers": toml_values.number(1, whole=True),
    "lease": toml_values.patience,
    "range_rows": toml_values.number(1, whole=True),
    "writers": toml_values.number(1, whole=True),
}
_RAY: dict[str, Check] = {
    "address": toml_values.string,
    "workers": toml_values.number(1, whole=True),
    "num_cpus": toml_values.number(0),
    "num_gpus": toml_values.number(0),
    "resources": toml_values.resources,
}
_MAIN: dict[str, Check] = {
    "database": toml_values.string,
    "schema": toml_values.schema_name,
    "migrations": toml_values.string,
    "connect": toml_values.table,
}
_CONNECT: dict[str, Check] = {
    "statement_timeout": toml_values.server_time,
    "lock_timeout": toml_values.server_time,
    "role": toml_values.string,
}
_CHECK: dict[str, Check] = {"select": toml_values.columns, "ignore": toml_values.table}
_GATES: dict[str, Check] = {
    "completeness": toml_values.number(0, 1, above=True),
    "freshness": toml_values.parse_duration,
}
_COLLECTION: dict[str, Check] = {
    "table": toml_values.string,
    "key": toml_values.strings,
    "text": toml_values.strings,
    "where": toml_values.string,
    "alias": toml_values.string,
    "columns": toml_values.columns,
    "stale": toml_values.one_of("serve", "hide"),
    "chunk": toml_values.chunk,
    "embedding": toml_values.table,
    "capture": toml_values.one_of("triggers", "watermark"),
    "changed_at": toml_values.string,
    "rescan": toml_values.patience,
    "store_alias": toml_values.string,
    "rescue": toml_values.boolean,
    "cuts": toml_values.cut_values,
}
_EMBEDDING: dict[str, Check] = {
    "model": toml_values.string,
    "version": toml_values.string,
    "dimensions": toml_values.number(1, whole=True),
    "normalize": toml_values.one_of("l2", "none"),
    "metric": toml_values.one_of("cosine", "l2", "ip"),
    "storage": toml_values.one_of("vector", "halfvec"),
    "document_prefix": toml_values.any_string,
    "query_prefix": toml_values.any_string,
    "weights": toml_values.any_string,
    "variant": toml_values.any_string,
    "dtype": toml_values.one_of("float32", "float16", "bfloat16"),
    "store": toml_values.string,
    "cut": toml_values.boolean,
    "query_model": toml_values.string,
    "roles": toml_values.table,
}
STORE_KINDS = ("milvus", "qdrant", "pinecone", "weaviate", IN_POSTGRESQL, "memory")
_STORE: dict[str, Check] = {
    "kind": toml_values.one_of(*STORE_KINDS),
    "url": toml_values.string,
    "api_key": toml_values.string,
    "timeout": toml_values.patience,
    "give_up_after": toml_values.patience,
    "options": toml_values.table,
}


def _collections(
    file: TomlFile, raw: Mapping[str, object], stores: Mapping[str, StoreSettings]
) -> dict[str, Collection]:
    found = {name: replace(_collection(file, name, section), stores=stores) for name, section in raw.items()}
    for name, collection in found.items():
        store = (collection.embedding or {}).get("store", IN_POSTGRESQL)
        if store not in (IN_POSTGRESQL, *stores):
            at = ("collections", name, "embedding", "store")
            file.fail(at, f"is {store}, and there is no [stores.{store}]", unknown_store(store, stores))
    owners: dict[tuple[str, str], str] = {}
    for name, collection in found.items():
        schema = (_qualifier(collection.alias) or _qualifier(collection.table)).lower()
        shown = toml_values.cut(toml_values.folded(collection.alias))
        if other := owners.setdefault((schema, shown), name) != name and owners[schema, shown]:
            file.fail(
                ("collections", name, "alias"),
                f"is the alias of {other} too, as PostgreSQL reads it: {shown}",
                "names are cut to 63 bytes, and folded to lower case unless quoted: give each collection its own",
            )
    return found


def _qualifier(name: str) -> str:
    """What stands before the last dot of an SQL name that is no part of quotes."""
    found = re.fullmatch(r"""(?s)(.*)\.(?:"(?:[^"]|"")*"|[^".]*)""", name)
    return found[1] if found else ""


def _collection(file: TomlFile, name: str, raw: object) -> Collection:
    at = ("collections", name)
    values = file.section(at, raw, _COLLECTION, required=("table", "key", "text", "alias"))
    if "embedding" in values:
        values["embedding"] = _embedding(file, name, values)
    if toml_values.folded(values["alias"]) == toml_values.folded(values["table"]):
        file.fail(
            (*at, "alias"),
            "is the name of the table itself",
            "the alias is a view in the same schema: choose another name",
        )
    taken = {toml_values.folded(column) for column in values["key"]} | {"chunk", "version", "embedding"}
    for column in values.get("columns", ()):
        if toml_values.folded(column) in taken:
            file.fail(
                (*at, "columns"),
                f"repeats {column}",
                "the alias always shows the key, chunk, version and embedding",
            )
    watermark = values.get("capture") == "watermark"
    if watermark != ("changed_at" in values):
        file.fail(
            (*at, "capture" if watermark else "changed_at"),
            'capture = "watermark" and changed_at go together',
        )
    return Collection(name=name, **values)


def _embedding(file: TomlFile, name: str, collection: Mapping[str, Any]) -> dict[str, Any]:
    at = ("collections", name, "embedding")
    wanted = file.section(at, collection["embedding"], _EMBEDDING, required=("model", "version", "dimensions"))
    file.value(at, wanted, lambda kw: Space(collection=name, chunk=collection.get("chunk"), **kw))
    return wanted


def _check(file: TomlFile, raw: object) -> CheckSettings:
    values = file.section(("check",), raw, _CHECK)
    for key in ("select", "ignore"):
        for code in values.get(key, ()):
            if code not in NAMES:
                file.fail(
                    ("check", key, code),
                    "is not a rule",
                    toml_values.did_you_mean(code.upper(), NAMES) or f"known: {', '.join(NAMES)}",
                )
    for code, reason in values.get("ignore", {}).items():
        if not isinstance(reason, str) or not reason.strip():
            file.fail(("check", "ignore", code), "has no reason", f'say why: {code} = "…"')
    return CheckSettings(**values)


def _store(file: TomlFile, name: str, raw: object, environ: Mapping[str, str]) -> StoreSettings:
    at = ("stores", name)
    if name == IN_POSTGRESQL or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        hint = "letters, digits, '_' and '-'; pgvector is the store beside the texts, which needs no settings; another database's has a name of its own"
        file.fail(at, "can't be the name of a store", hint)
    values = file.section(at, raw, _STORE)
    if "kind" not in values and name not in STORE_KINDS:
        file.fail(at, "has no kind", f'kind = "…": one of {", ".join(STORE_KINDS[:-1])}')
    look_up_key(file, at, values, environ)
    scheme, _, variable = values.get("url", "").partition(":")
    if scheme == "env":
        values["url"], values["url_variable"] = environ.get(variable, "").strip(), variable
    return StoreSettings(**({"name": name, "kind": name} | values))


def unknown_store(name: str, stores: Mapping[str, StoreSettings]) -> str:
    """What to do about a store that is not declared."""
    known = ", ".join((IN_POSTGRESQL, *stores))
    return toml_values.did_you_mean(name, (IN_POSTGRESQL, *stores)) or f"known: {known}; [stores.{name}] declares it"


def _database(
    file: TomlFile, given: str | None, in_file: str | None, environ: Mapping[str, str]
) -> Callable[[], str]:  # fmt: skip
    """The first of flag, environment and file; ``env:NAME`` is looked up whenever it is asked for, and not before."""
    at = ("--database",) if given else ("embedmig", "database")
    name = given or in_file
    if not name:
        raise ConfigError(
            f"{file.path}: no database is given",
            hint='under [embedmig] write database = "embedded" or "postgresql://…"; or --database URL',
        )
    if name.startswith("env:"):
        return partial(_of_environment, file, at, name.removeprefix("env:"), environ)
    return partial(str, file.value(at, name, parse_address))


def _of_environment(file: TomlFile, at: KeyPath, variable: str, environ: Mapping[str, str]) -> str:
    name = environ.get(variable, "").strip()
    if not name:
        file.fail(at, f"is env:{variable}, which is not set", f"export {variable}=postgresql://…")
    return str(file.value(at, name, parse_address))
