"""Databases whose encoding is not UTF-8: what embedmig writes down for people may hold letters that such a database can't."""

from __future__ import annotations

import codecs

import psycopg
from psycopg.types.string import StrBinaryDumper, StrDumperUnknown


def fit_encoding(conn: psycopg.Connection) -> None:
    """Has the connection replace letters that the database can't hold, as ``&#8805;``; texts out of it are not touched."""
    name = conn.info.parameter_status("server_encoding") or "UTF8"
    if name in ("UTF8", "SQL_ASCII"):
        return
    codec = python_codec(name)

    def fitting(text: str) -> str:
        return text.encode(codec, "xmlcharrefreplace").decode(codec)

    class Text(StrDumperUnknown):
        def dump(self, obj: str) -> bytes | bytearray | memoryview | None:
            return super().dump(fitting(obj))

    class Binary(StrBinaryDumper):
        def dump(self, obj: str) -> bytes | bytearray | memoryview | None:
            return super().dump(fitting(obj))

    conn.adapters.register_dumper(str, Binary)
    conn.adapters.register_dumper(str, Text)


def python_codec(name: str) -> str:
    """Python's name of a PostgreSQL encoding; ASCII, which every one of them can hold, for one that Python lacks."""
    for known in (name, name.replace("WIN", "cp"), name.replace("KOI8", "KOI8_"), name.replace("_", "")):
        try:
            return codecs.lookup(known).name
        except LookupError:
            continue
    return "ascii"
