"""embedmig.toml, read into a frozen :class:`Config`: how to reach things, and which collections there are.

What a model *is* stands in the migration scripts. Nothing here connects to anything.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from embedmig.codes import NAMES
from embedmig.errors import ConfigError, PlanError
from embedmig.settings import BackfillSettings, EmbedderSettings, RaySettings
from embedmig.toml_lines import KeyPath, key_lines
from embedmig.types import Chunk, Space

FILE_NAME = "embedmig.toml"
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Collection:
    """A corpus: where its texts are, and the alias under which its vectors are read.

    ``table``, ``key``, ``text``, ``alias`` and ``columns`` are written as in SQL: ``schema.table``,
    ``"Quoted"``. ``embedding`` is the model that the file asks for, as keyword arguments of :class:`Space`;
    None: none is asked.
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


@dataclass(frozen=True)
class GateDefaults:
    """What a gate asks for where the script doesn't say: a share in (0, 1], and seconds."""

    completeness: float = 0.995
    freshness: float = 900.0


@dataclass(frozen=True)
class Throttle:
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
    """A whole configuration file."""

    path: Path
    address: Callable[[], str] = field(repr=False, compare=False)
    migrations: Path
    schema: str = "embedmig"
    collections: Mapping[str, Collection] = field(default_factory=dict)
    embedders: Mapping[str, EmbedderSettings] = field(default_factory=dict)
    gates: GateDefaults = field(default_factory=GateDefaults)
    throttle: Throttle = field(default_factory=Throttle)
    check: CheckSettings = field(default_factory=CheckSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    backfill: BackfillSettings = field(default_factory=BackfillSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    max_cost: float | None = None  # USD, of this run: from the command line, on top of each embedder's own

    @cached_property
    def database(self) -> str:
        """A URL, a libpq string or ``"embedded"``; it may hold a password, so what prints it goes through :func:`mask`.

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
            hint=_did_you_mean(name, self.collections) or f"declared: {known}",
        )

    def settings(self, provider: str) -> EmbedderSettings:
        """How to reach ``provider``; the defaults where the file says nothing about it."""
        found = self.embedders.get(provider, EmbedderSettings())
        limits = [limit for limit in (found.max_cost, self.max_cost) if limit is not None]
        return replace(found, max_cost=min(limits)) if limits else found


def load(path: Path | None = None, *, database: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the configuration at ``path``, else at ``EMBEDMIG_CONFIG``, else ``embedmig.toml`` right here.

    The database is ``database`` (the flag), else ``EMBEDMIG_DATABASE``, else the file's. Raises
    :class:`ConfigError` with the key's name and its line.
    """
    file = _File.read(Path(path or environ.get("EMBEDMIG_CONFIG") or FILE_NAME))
    root = file.section((), file.document, _ROOT)
    main = file.section(("embedmig",), root.get("embedmig", {}), _MAIN)
    return Config(
        path=file.path,
        address=_database(file, database or environ.get("EMBEDMIG_DATABASE"), main.get("database"), environ),
        schema=main.get("schema", "embedmig"),
        migrations=(file.path.parent / main.get("migrations", "migrations")).resolve(),
        collections={name: _collection(file, name, raw) for name, raw in root.get("collections", {}).items()},
        embedders={name: _embedder(file, name, raw, environ) for name, raw in root.get("embedders", {}).items()},
        gates=GateDefaults(**file.section(("gates",), root.get("gates", {}), _GATES)),
        throttle=Throttle(**file.section(("throttle",), root.get("throttle", {}), _THROTTLE)),
        check=_check(file, root.get("check", {})),
        index=IndexSettings(**file.section(("index",), root.get("index", {}), _INDEX)),
        backfill=BackfillSettings(**file.section(("backfill",), root.get("backfill", {}), _BACKFILL)),
        ray=RaySettings(**file.section(("ray",), root.get("ray", {}), _RAY)),
    )


def mask(database: str) -> str:
    """``database`` with every password in it replaced by ``***``: a URL or a libpq keyword string."""
    # To the last @: a password with an unescaped @ or / in it must not shine through.
    url = re.sub(r"(://[^:@/?]*):(.*)@", r"\1:***@", database, flags=re.DOTALL)
    if "://" in url:
        return re.sub(r"([?&](?:ssl)?password=)[^&\s]*", r"\1***", url, flags=re.IGNORECASE)
    return re.sub(
        r"((?:ssl)?password\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|\S)+)",
        r"\1***",
        url,
        flags=re.IGNORECASE | re.DOTALL,
    )


def parse_duration(value: str | float) -> float:
    """Seconds in ``"90s"``, ``"15m"``, ``"1h30m"``, ``"21d"``, or in a number of seconds.

    Raises :class:`ConfigError` for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value) if isinstance(value, str) else None
    if not value or parts is None:
        raise ConfigError(f"{value!r} is not a duration", hint='write "90s", "15m", "1h30m", "21d", or seconds')
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


# --- the file, and where in it a fault is -------------------------------------------------------------------

Check = Callable[[Any], Any]
"""Takes a value as TOML has it, gives it as Config has it; raises ValueError saying what was expected."""


@dataclass(frozen=True)
class _File:
    path: Path
    document: dict[str, Any]
    lines: Mapping[KeyPath, int]

    @classmethod
    def read(cls, path: Path) -> _File:
        try:
            source = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
            return cls(path.resolve(), tomllib.loads(source), key_lines(source))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: there is no such file",
                hint="embedmig init   writes one; or name yours with -c FILE or EMBEDMIG_CONFIG",
            ) from None
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8, at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"\(at line (\d+)", str(error))
            at = line.group(1) if line else max(source.rstrip().count("\n") + 1, 1)
            raise ConfigError(f"{path}:{at}: is not TOML: {error}") from error

    def section(
        self, at: KeyPath, raw: object, checks: Mapping[str, Check], required: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The values of one table, checked; only the keys that are there."""
        if not isinstance(raw, dict):
            self.fail(at, f"must be a table, not {_kind(raw)}")
        for key in raw:
            if key not in checks:
                self.fail((*at, key), "is not known", _did_you_mean(key, checks) or f"known: {', '.join(checks)}")
        for key in required:
            if key not in raw:
                self.fail(at, f"has no {key}", f"give it: {key} = …")
        return {key: self.value((*at, key), value, checks[key]) for key, value in raw.items()}

    def value(self, at: KeyPath, raw: object, check: Check) -> Any:
        try:
            return check(raw)
        except ValueError as error:
            self.fail(at, f"must be {error}, not {_kind(raw)}")
        except (ConfigError, PlanError) as error:
            self.fail(at, error.message, error.hint)

    def fail(self, at: KeyPath, reason: str, hint: str | None = None) -> NoReturn:
        line = next((self.lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.lines), None)
        place = f"{self.path}:{line}" if line else str(self.path)
        raise ConfigError(f"{place}: {'.'.join(at)} {reason}", hint=hint)


def _did_you_mean(name: str, known: Mapping[str, object] | Sequence[str]) -> str | None:
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


def _kind(value: object) -> str:
    """What a value is, in TOML's words. Only numbers and booleans are echoed: a string may be a secret."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, str):
        return "this string" if value.strip() else "an empty string"
    return "this list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"


# --- what each key may hold ---------------------------------------------------------------------------------


def _string(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a string that is not empty")
    return value


def _any_string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def _strings(value: object) -> tuple[str, ...]:
    """One string, or a list of them; none twice."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError("a string or a list of strings")
    if len({_folded(item) for item in items}) < len(items):
        raise ConfigError("names a column twice")
    return tuple(items)


def _columns(value: object) -> tuple[str, ...]:
    return () if value == [] else _strings(value)


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a table")
    return value


def _one_of(*words: str) -> Check:
    def check(value: object) -> Any:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return value

    return check


def _number(low: float, high: float = float("inf"), *, whole: bool = False, above: bool = False) -> Check:
    """A number from ``low`` to ``high``; with ``above``, ``low`` itself is out."""

    def check(value: object) -> int | float:
        right = isinstance(value, int) or (isinstance(value, float) and not whole)
        if not right or isinstance(value, bool) or not low <= value <= high or (above and value == low):  # type: ignore[operator]
            bounds = f"{'above' if above else 'at least'} {low}" + ("" if high == float("inf") else f", at most {high}")
            raise ValueError(f"a {'whole ' if whole else ''}number, {bounds}")
        return value  # type: ignore[return-value]

    return check


def _patience(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("longer than nothing")
    return seconds


def _models(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) and item for item in value.values()):
        raise ValueError("a table of strings")
    return value


def _devices(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value:
        return (value,)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError('"cpu", "cuda", or a list such as ["cuda:0", "cuda:1"]')
    return tuple(value)


def _prices(value: object) -> dict[str, float]:
    prices = _table(value)
    if not all(type(item) in (int, float) and item >= 0 for item in prices.values()):
        raise ValueError("a table of numbers, at least 0")
    return {name: float(item) for name, item in prices.items()}


def _resources(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not all(type(item) in (int, float) and item > 0 for item in value.values()):
        raise ValueError("a table of numbers above 0")
    return value


def _chunk(value: object) -> Chunk:
    if not isinstance(value, dict) or "size" not in value or value.keys() - {f.name for f in fields(Chunk)}:
        raise ValueError("{ size = …, overlap = …, unit = … }")
    if not all(type(value.get(name, 0)) is int for name in ("size", "overlap")):
        raise ValueError("{ size = …, overlap = … } with whole numbers")
    return Chunk(**value)


def parse_size(value: object) -> int:
    """Bytes in ``"2GB"``, as PostgreSQL reads it: units of 1,024. Raises :class:`ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+)\s*(kB|MB|GB|TB)", value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ConfigError("is not a size", hint='write it as PostgreSQL does: "512MB", "2GB"')
    return int(found[1]) << 10 * (1 + ("kB", "MB", "GB", "TB").index(found[2]))


_ROOT: dict[str, Check] = dict.fromkeys(
    ("embedmig", "collections", "embedders", "gates", "throttle", "check", "index", "backfill", "ray"), _table
)
_INDEX: dict[str, Check] = {"memory": parse_size}
_THROTTLE: dict[str, Check] = {"replication_lag": _patience, "pause_when": _string}
_BACKFILL: dict[str, Check] = {
    "workers": _number(1, whole=True),
    "lease": _patience,
    "range_rows": _number(1, whole=True),
}
_RAY: dict[str, Check] = {
    "address": _string,
    "workers": _number(1, whole=True),
    "num_cpus": _number(0),
    "num_gpus": _number(0),
    "resources": _resources,
}
_MAIN: dict[str, Check] = {"database": _string, "schema": _string, "migrations": _string}
_CHECK: dict[str, Check] = {"select": _columns, "ignore": _table}
_GATES: dict[str, Check] = {"completeness": _number(0, 1, above=True), "freshness": parse_duration}
_COLLECTION: dict[str, Check] = {
    "table": _string,
    "key": _strings,
    "text": _strings,
    "where": _string,
    "alias": _string,
    "columns": _columns,
    "stale": _one_of("serve", "hide"),
    "chunk": _chunk,
    "embedding": _table,
    "capture": _one_of("triggers", "watermark"),
    "changed_at": _string,
}
_EMBEDDING: dict[str, Check] = {
    "model": _string,
    "version": _string,
    "dimensions": _number(1, whole=True),
    "normalize": _one_of("l2", "none"),
    "metric": _one_of("cosine", "l2", "ip"),
    "storage": _one_of("vector", "halfvec"),
    "document_prefix": _any_string,
    "query_prefix": _any_string,
    "weights": _any_string,
    "variant": _any_string,
    "dtype": _one_of("float32", "float16", "bfloat16"),
}
_EMBEDDER: dict[str, Check] = {
    "api_key": _string,
    "base_url": _string,
    "concurrency": _number(1, whole=True),
    "batch_size": _number(1, whole=True),
    "requests_per_minute": _number(1, whole=True),
    "tokens_per_minute": _number(1, whole=True),
    "max_cost": _number(0),
    "timeout": _patience,
    "price": _number(0),
    "device": _devices,
    "tokens_per_batch": _number(1, whole=True),
    "prices": _prices,
    "models": _models,
    "path": _string,
    "give_up_after": _patience,
    "reserve": _number(0, 0.9),
    "mode": _one_of("live", "batch"),
}


def _collection(file: _File, name: str, raw: object) -> Collection:
    at = ("collections", name)
    values = file.section(at, raw, _COLLECTION, required=("table", "key", "text", "alias"))
    if "embedding" in values:
        values["embedding"] = _embedding(file, name, values)
    if _folded(values["alias"]) == _folded(values["table"]):
        file.fail((*at, "alias"), "is the name of the table itself", "the alias is a view beside it: name it anew")
    taken = {_folded(column) for column in values["key"]} | {"chunk", "version", "embedding"}
    for column in values.get("columns", ()):
        if _folded(column) in taken:
            file.fail(
                (*at, "columns"),
                f"repeats {column}",
                "the alias shows the key, chunk, version and embedding anyway",
            )
    watermark = values.get("capture") == "watermark"
    if watermark != ("changed_at" in values):
        file.fail(
            (*at, "capture" if watermark else "changed_at"),
            'capture = "watermark" and changed_at go together',
        )
    return Collection(name=name, **values)


def _embedding(file: _File, name: str, collection: Mapping[str, Any]) -> dict[str, Any]:
    at = ("collections", name, "embedding")
    wanted = file.section(at, collection["embedding"], _EMBEDDING, required=("model", "version", "dimensions"))
    file.value(at, wanted, lambda kw: Space(collection=name, chunk=collection.get("chunk"), **kw))
    return wanted


def _check(file: _File, raw: object) -> CheckSettings:
    values = file.section(("check",), raw, _CHECK)
    for key in ("select", "ignore"):
        for code in values.get(key, ()):
            if code not in NAMES:
                file.fail(
                    ("check", key, code),
                    "is no rule",
                    _did_you_mean(code.upper(), NAMES) or f"known: {', '.join(NAMES)}",
                )
    for code, reason in values.get("ignore", {}).items():
        if not isinstance(reason, str) or not reason.strip():
            file.fail(("check", "ignore", code), "has no reason", f'say why: {code} = "…"')
    return CheckSettings(**values)


def _embedder(file: _File, name: str, raw: object, environ: Mapping[str, str]) -> EmbedderSettings:
    at, beside = ("embedders", name), file.path.parent
    if isinstance(raw, dict) and "dtype" in raw:
        hint = (
            'Space(…, dtype="float16") in the script; revision --dtype and [collections.NAME.embedding] write it there'
        )
        file.fail((*at, "dtype"), "shapes the vectors: it is a part of the space", hint)
    values = file.section(at, raw, _EMBEDDER)
    if values.get("mode") == "batch" and name != "openai":
        file.fail((*at, "mode"), 'can be "batch" for openai alone')
    if "api_key" in values:
        kind, _, variable = values["api_key"].partition(":")
        if kind != "env" or not variable:
            example = f'api_key = "env:{name.upper().replace("-", "_")}_API_KEY"'
            file.fail((*at, "api_key"), "is a key in plain text", f"{example} names the variable that holds it")
        # Not refused here when it isn't set: most commands need no key. Who needs it can name the variable.
        values["api_key"], values["api_key_variable"] = environ.get(variable) or None, variable
    if "path" in values:
        values["path"] = _beside(beside, values["path"])
    if "models" in values:
        values["models"] = {model: _beside(beside, place) for model, place in values["models"].items()}
    return EmbedderSettings(**values)


def _beside(directory: Path, place: str) -> str:
    """A path from the file, made absolute: relative to the file, not to where the command was started."""
    return place if place.startswith("package:") else str((directory / Path(place).expanduser()).resolve())


def _folded(identifier: str) -> str:
    """The last part of an SQL identifier as PostgreSQL reads it: lower case, unless quoted."""
    last = re.search(r'"((?:[^"]|"")*)"\s*$', identifier)
    return last.group(1).replace('""', '"') if last else identifier.rpartition(".")[2].strip().lower()


def _database(
    file: _File, given: str | None, in_file: str | None, environ: Mapping[str, str]
) -> Callable[[], str]:  # fmt: skip
    """The first of flag, environment and file, checked; ``env:NAME`` is looked up only when it is asked for."""
    at = ("--database",) if given else ("embedmig", "database")
    name = given or in_file
    if not name:
        raise ConfigError(
            f"{file.path}: no database is given",
            hint='under [embedmig] write database = "embedded" or "postgresql://…"; or --database URL',
        )
    if name.startswith("env:"):
        return partial(_of_environment, file, at, name.removeprefix("env:"), dict(environ))
    return partial(str, _address(file, at, name))


def _of_environment(file: _File, at: KeyPath, variable: str, environ: Mapping[str, str]) -> str:
    name = environ.get(variable, "").strip()
    if not name:
        file.fail(at, f"is env:{variable}, which is not set", f"export {variable}=postgresql://…")
    return _address(file, at, name)


def _address(file: _File, at: KeyPath, name: str) -> str:
    """A URL with SQLAlchemy's spelling undone, a libpq string, or ``embedded``."""
    url = re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", name)
    if url != EMBEDDED and not url.startswith("postgresql://") and not re.match(r"\s*\w+\s*=", url):
        # Not echoed: what is no URL can't be masked.
        file.fail(at, "is not a PostgreSQL address", 'write "embedded", "postgresql://…", or "env:NAME"')
    return url
