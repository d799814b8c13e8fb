"""Addresses of databases: what is one, and what of it may be shown.

An address holds a password, and libpq's messages repeat parts of an address that it can't read. So what can't be read without
doubt is refused here without being repeated, and of the rest only what is known to be harmless is shown.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from embedmig.errors import ConfigError

EMBEDDED = "embedded"
EXAMPLE = 'write "embedded", "postgresql://user:password@host:5432/name", or "env:NAME"'
HARMLESS = frozenset((
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name", "gssencmode",
    "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "options",
    "passfile", "port", "require_auth", "service", "ssl", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslrootcert",
    "target_session_attrs", "tcp_user_timeout", "user",
))  # fmt: skip
"""libpq's keywords whose values may be shown; what is not listed is a secret."""
SECRET = frozenset(("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"))
"""libpq's keywords that may be named beside ``***``; another name may itself be a piece of a password."""

_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_HOST = r"(?: \[[0-9a-fA-F:.%]+\] | [^:@/?\#\[\]\s,]* ) (?: :\d* )?"
_URL = re.compile(  # stricter than libpq, which looks for the first @ before the first /
    rf"""postgresql://
    (?: (?P<user>[^:@/\s]*) (?: :(?P<password>[^@/\s]*) )? @ )?
    (?P<hosts> {_HOST} (?: , {_HOST} )* )
    (?: /(?P<name>[^@/?\#\s]*) )?
    (?: \?(?P<query> (?: [^=&\s]+=[^=&\s]* (?: & | $ ) )* ) )?""",
    re.VERBOSE,
)
_PAIR = re.compile(r"\s*(\w+)(\s*=\s*)('(?:\\.|[^'\\])*'|(?!')(?:\\.|[^\s\\])*)(?=\s|$)", re.DOTALL)
_BROKEN_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})|%00")


def parse_address(text: str) -> str:
    """A URL with SQLAlchemy's spelling undone, a libpq string, or ``embedded``.

    Raises :class:`ConfigError`, which repeats nothing of it: what can't be read can't be masked.
    """
    address = _SCHEME.sub("postgresql://", text.strip(), count=1) if _SCHEME.match(text.strip()) else text.strip()
    if address == EMBEDDED:
        return address
    if address.startswith("postgresql://"):
        if not _URL.fullmatch(address) or _BROKEN_ESCAPE.search(address):
            raise ConfigError(
                "is a URL that can't be read",
                hint="in user and password write @ : / ? # [ ] % and blanks as %40 %3A %2F %3F %23 %5B %5D %25 %20",
            )
        return address
    if not re.match(r"\w+\s*=", address):
        raise ConfigError("is not a PostgreSQL address", hint=EXAMPLE)
    if _pairs(address) is None:
        raise ConfigError(
            "is a libpq string that can't be read",
            hint="values with blanks stand in single quotes; write ' and \\ within them as \\' and \\\\",
        )
    return address


def mask(address: str) -> str:
    """``address`` with ``***`` for every password, and for whatever is not known to be harmless."""
    if found := _URL.fullmatch(address):
        return _mask_url(found)
    if "://" in address or (pairs := _pairs(address)) is None:
        return address if address == EMBEDDED else "***"
    return " ".join(_shown(name, sign, value) for name, sign, value in pairs)


def secrets_in(address: str) -> list[str]:
    """Every spelling of what :func:`mask` hides, longest first."""
    found: set[str] = set()
    if url := _URL.fullmatch(address):
        hidden = [url["password"] or ""]
        for part in (url["query"] or "").split("&"):
            name, _, value = part.partition("=")
            hidden += [] if name in HARMLESS else [value]
        found = {spelling for raw in hidden for spelling in (raw, unquote(raw))}
    else:
        for name, _, value in _pairs(address) or ():
            if name not in HARMLESS:
                found |= {value, re.sub(r"\\(.)", r"\1", value.strip("'"), flags=re.DOTALL)}
    return sorted((secret for secret in found if secret), key=len, reverse=True)


def scrub(text: str, address: str) -> str:
    """``text`` without the secrets of ``address``, whatever it repeats of them."""
    for secret in secrets_in(address):
        text = text.replace(secret, "***")
    return text


def _mask_url(found: re.Match[str]) -> str:
    who = "" if found["user"] is None else found["user"] + (":***" if found["password"] is not None else "") + "@"
    name = "" if found["name"] is None else f"/{found['name']}"
    parameters = [part.partition("=") for part in (found["query"] or "").split("&") if part]
    query = "&".join(_shown(*parameter) for parameter in parameters)
    return f"postgresql://{who}{found['hosts']}{name}" + (f"?{query}" if query else "")


def _shown(name: str, sign: str, value: str) -> str:
    if name in HARMLESS:
        return f"{name}{sign}{value}"
    return f"{name}{sign}***" if name in SECRET else "***"


def _pairs(address: str) -> list[tuple[str, str, str]] | None:
    """Keyword, sign and value as libpq reads them; None where it would not."""
    pairs, place, rest = [], 0, address.rstrip()
    while place < len(rest):
        found = _PAIR.match(rest, place)
        if found is None:
            return None
        pairs.append((found[1], found[2], found[3]))
        place = found.end()
    return pairs
