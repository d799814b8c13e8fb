"""On which line of a TOML file each key stands: what the standard library's parser does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

KeyPath = tuple[str, ...]

_TOKEN = re.compile(
    r"""
      (?P<comment> \#[^\n]* )
    | (?P<string>  \"{3} (?: \\. | [^\\] )*? \"{3,5} | '{3} .*? '{3,5}
                 | \" (?: \\. | [^"\\\n] )* \" | ' [^'\n]* ' )
    | (?P<newline> \n )
    | (?P<open>    [\[{] )
    | (?P<close>   [\]}] )
    | (?P<equals>  = )
    | (?P<dot>     \. )
    | (?P<bare>    [A-Za-z0-9_-]+ )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(source: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of every table header and key in ``source``, which must be valid TOML.

    A key inside an inline table or an array has no entry of its own; the key that holds it is the nearest.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, is_header, path in _statements(source):
        if is_header:
            table = path
        full = path if is_header else table + path
        for end in range(1, len(full) + 1):  # [a.b] also brings a into being
            lines.setdefault(full[:end], line)
        lines[full] = line
    return lines


def _statements(source: str) -> Iterator[tuple[int, bool, KeyPath]]:
    """(line, is it a header, key) of every header and every ``key = value``, in order."""
    path: KeyPath = ()
    line, at, depth, in_value, is_header = 1, 1, 0, False, False
    for token in _TOKEN.finditer(source):
        kind, text = token.lastgroup, token.group()
        if kind == "open":
            is_header = is_header or not (in_value or path)
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "equals" and not in_value:
            in_value = True
            yield at, False, path
        elif kind in ("bare", "string") and not in_value:
            at = at if path else line
            path = (*path, text if kind == "bare" else _unquote(text))
        elif kind == "newline" and (depth == 0 or is_header):
            if is_header:
                yield at, True, path
            path, in_value, is_header, depth = (), False, False, 0
        line += text.count("\n")
    if is_header:
        yield at, True, path


def _unquote(text: str) -> str:
    inner = text[1:-1]
    return inner if text[0] == "'" else re.sub(r"\\(.)", r"\1", inner)
