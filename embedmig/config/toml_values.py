"""A TOML file read with care: unknown keys are refused by name and line, and every value is checked for what it may be."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any, NoReturn

from embedmig.config.toml_lines import KeyPath, key_lines
from embedmig.errors import ConfigError, PlanError
from embedmig.types import Chunk


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


def format_duration(seconds: float) -> str | float:
    """The reverse: ``"15m"``, ``"1h30m"``; a bare number where the seconds are not whole."""
    if seconds != int(seconds) or seconds == 0:
        return seconds
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return "".join(f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if n)


# --- the file, and where in it a fault is -------------------------------------------------------------------

Check = Callable[[Any], Any]
"""Takes a value as TOML has it, gives it as Config has it; raises ValueError saying what was expected."""


@dataclass(frozen=True)
class TomlFile:
    """A file, what it says, and the line of each key."""

    path: Path
    document: dict[str, Any]
    lines: Mapping[KeyPath, int]

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Raises :class:`ConfigError` for a file that is not there, can't be read, or is not TOML."""
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
            self.fail(at, f"must be a table, not {kind(raw)}")
        for key in raw:
            if key not in checks:
                self.fail((*at, key), "is not known", did_you_mean(key, checks) or f"known: {', '.join(checks)}")
        for key in required:
            if key not in raw:
                self.fail(at, f"has no {key}", f"give it: {key} = …")
        return {key: self.value((*at, key), value, checks[key]) for key, value in raw.items()}

    def value(self, at: KeyPath, raw: object, check: Check) -> Any:
        """What ``check`` makes of the value of a key; raises :class:`ConfigError` with the key's name and line."""
        try:
            return check(raw)
        except ValueError as error:
            self.fail(at, f"must be {error}, not {kind(raw)}")
        except (ConfigError, PlanError) as error:
            self.fail(at, error.message, error.hint)

    def fail(self, at: KeyPath, reason: str, hint: str | None = None) -> NoReturn:
        """Says what is wrong with a key and in which line it, or the table that it is in, stands."""
        line = next((self.lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in self.lines), None)
        place = f"{self.path}:{line}" if line else str(self.path)
        raise ConfigError(f"{place}: {'.'.join(at)} {reason}", hint=hint)


def did_you_mean(name: str, known: Mapping[str, object] | Sequence[str]) -> str | None:
    """A hint at the nearest of the known names; None where none is near."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


def kind(value: object) -> str:
    """What a value is, in TOML's words. Only numbers and booleans are echoed: a string may be a secret."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, str):
        return "this string" if value.strip() else "an empty string"
    return "this list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"


NAME_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1

# --- what each key may hold ---------------------------------------------------------------------------------


def string(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a string that is not empty")
    return value


def any_string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def strings(value: object) -> tuple[str, ...]:
    """One string, or a list of them; none twice."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError("a string or a list of strings")
    if len({folded(item) for item in items}) < len(items):
        raise ConfigError("names a column twice")
    return tuple(items)


def columns(value: object) -> tuple[str, ...]:
    return () if value == [] else strings(value)


def table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a table")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def day(value: object) -> date:
    """A day, as TOML has it or as a string."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ValueError('a day such as "2027-01-04"') from None


@dataclass(frozen=True)
class OneOf:
    """The check that a value is one of some words."""

    words: tuple[str, ...]

    def __call__(self, value: object) -> Any:
        if value not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}")
        return value


def one_of(*words: str) -> OneOf:
    return OneOf(words)


@dataclass(frozen=True)
class Number:
    """The check of a number from ``low`` to ``high``; with ``above``, ``low`` itself is out."""

    low: float
    high: float
    whole: bool
    above: bool

    def __call__(self, value: Any) -> int | float:
        right = isinstance(value, int) or (isinstance(value, float) and not self.whole)
        if (
            not right
            or isinstance(value, bool)
            or not self.low <= value <= self.high
            or (self.above and value == self.low)
        ):
            least = f"{'above' if self.above else 'at least'} {self.low}"
            most = "" if self.high == float("inf") else f", at most {self.high}"
            raise ValueError(f"a {'whole ' if self.whole else ''}number, {least}{most}")
        return value  # type: ignore[no-any-return]


def number(low: float, high: float = float("inf"), *, whole: bool = False, above: bool = False) -> Number:
    return Number(low, high, whole, above)


def patience(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("longer than nothing")
    return seconds


def server_time(value: object) -> str:
    """A time as PostgreSQL's settings have it; ``"0"``: none."""
    if not isinstance(value, str) or not re.fullmatch(r"0|[1-9]\d*\s*(ms|s|min|h|d)", value):
        raise ValueError('a time as PostgreSQL writes it: "500ms", "5s", "10min", "1h", or "0" for none')
    return value


def schema_name(value: object) -> str:
    """The name of a schema that embedmig makes, as it is: PostgreSQL would cut a longer one, and keeps ``pg_`` for itself."""
    name = string(value)
    if len(name.encode()) > NAME_BYTES or name.startswith("pg_") or "\0" in name:
        raise ConfigError("can't be the name of a schema", hint=f"at most {NAME_BYTES} bytes, not beginning with pg_")
    return name


def cut(name: str) -> str:
    """A name as PostgreSQL keeps it: its first 63 bytes, no character halved."""
    return name.encode()[:NAME_BYTES].decode(errors="ignore")


def cut_values(value: object) -> dict[str, float | dict[str, float]]:
    """Thresholds by name: a similarity, or one for each of some versions."""
    found = table(value)
    for one in found.values():
        numbers = list(one.values()) if isinstance(one, dict) else [one]
        if not numbers or any(type(number) not in (int, float) for number in numbers):
            raise ValueError('a table of similarities: duplicate = 0.92, or duplicate = { "VERSION" = 0.92 }')
    return found


def models(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) and item for item in value.values()):
        raise ValueError("a table of strings")
    return value


def deployments(value: object) -> dict[str, str]:
    """By the model's name; one for all has the name ``""``."""
    return {"": value} if isinstance(value, str) and value else models(value)


def devices(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value:
        return (value,)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError('"cpu", "cuda", or a list such as ["cuda:0", "cuda:1"]')
    return tuple(value)


def prices(value: object) -> dict[str, float]:
    found = table(value)
    if not all(type(item) in (int, float) and item >= 0 for item in found.values()):
        raise ValueError("a table of numbers, at least 0")
    return {name: float(item) for name, item in found.items()}


def resources(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not all(type(item) in (int, float) and item > 0 for item in value.values()):
        raise ValueError("a table of numbers above 0")
    return value


def chunk(value: object) -> Chunk:
    if not isinstance(value, dict) or "size" not in value or value.keys() - {f.name for f in fields(Chunk)}:
        raise ValueError("{ size = …, overlap = …, unit = … }")
    if not all(type(value.get(name, 0)) is int for name in ("size", "overlap")):
        raise ValueError("{ size = …, overlap = … } with whole numbers")
    return Chunk(**value)


def secret(value: str) -> str | None:
    """A key as files and mounted secrets hold it: without the blanks, line breaks, byte order mark and quotes around it;
    None where nothing is left.
    """
    bare = value.strip(" \t\r\n\ufeff\u00a0")
    quoted = len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'"
    return (bare[1:-1].strip() if quoted else bare) or None


def parse_size(value: object) -> int:
    """Bytes in ``"2GB"``, as PostgreSQL reads it: units of 1,024. Raises :class:`ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+)\s*(kB|MB|GB|TB)", value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ConfigError("is not a size", hint='write it as PostgreSQL does: "512MB", "2GB"')
    return int(found[1]) << 10 * (1 + ("kB", "MB", "GB", "TB").index(found[2]))


def folded(identifier: str) -> str:
    """The last part of an SQL identifier as PostgreSQL reads it: lower case, unless quoted."""
    last = re.search(r'"((?:[^"]|"")*)"\s*$', identifier)
    return last.group(1).replace('""', '"') if last else identifier.rpartition(".")[2].strip().lower()
