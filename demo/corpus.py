"""A corpus that every machine has: the documentation strings of the standard library and of what is installed.

Writes ``documents(id, title, body, embedding vector(64))``, with the vectors of a model already in the column and no
word of which model: the table of a team that has never heard of embedmig.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg

MINIMUM_CHARACTERS = 40
MAXIMUM_CHARACTERS = 4000


def main() -> None:
    """Builds the table in the database of ``--url``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--limit", type=int, default=12_000)
    arguments = parser.parse_args()
    rows = texts(arguments.limit)
    vectors = old_vectors([f"{title}\n\n{body}" for title, body in rows])
    with psycopg.connect(arguments.url) as conn:
        write(conn, rows, vectors)
    print(f"documents: {len(rows):,} rows, each with an untagged vector(64)")


def texts(limit: int) -> list[tuple[str, str]]:
    """Title and text of up to ``limit`` documentation strings, the same on every run on one machine."""
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    seen: dict[str, str] = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if "test" in str(inside) or (root is roots[0] and "context-packages" in inside.parts):
                continue
            for title, body in docstrings(path, ".".join(inside.with_suffix("").parts)):
                seen.setdefault(body, title)
                if len(seen) >= limit:
                    return [(title, body) for body, title in seen.items()]
    return [(title, body) for body, title in seen.items()]


def docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """The documentation strings of one file: read, never run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return
    yield from walk(tree, module)


def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """This node's documentation and that of what it defines."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        body = (ast.get_docstring(node) or "").strip().replace("\0", "")
        if len(body) >= MINIMUM_CHARACTERS:
            yield name, body[:MAXIMUM_CHARACTERS]
        for child in node.body:
            yield from walk(child, f"{name}.{getattr(child, 'name', '')}")


def old_vectors(documents: list[str]) -> np.ndarray:
    """What the team made, long ago: wordllama's vectors at 64 dimensions, ``(n, 64)`` float32."""
    import logging

    logging.disable(logging.INFO)  # wordllama sets the root logger to INFO when it is imported
    import wordllama

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True, trunc_dim=64)
    return np.asarray(model.embed(documents, norm=True), dtype=np.float32)


def write(conn: psycopg.Connection, rows: list[tuple[str, str]], vectors: np.ndarray) -> None:
    """Makes the table again, filled."""
    conn.execute("create extension if not exists vector")
    conn.execute("drop table if exists documents cascade")
    conn.execute("create table documents (id bigint primary key, title text, body text, embedding vector(64))")
    with conn.cursor().copy("copy documents from stdin") as copy:
        for number, ((title, body), vector) in enumerate(zip(rows, vectors, strict=True), 1):
            copy.write_row((number, title, body, str(vector.tolist())))


if __name__ == "__main__":
    sys.exit(main())
