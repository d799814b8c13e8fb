"""Writing migration scripts: a new project, new revisions, merges, and scripts that must be renumbered."""

from __future__ import annotations

import ast
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embedmig.config import FILE_NAME, GateDefaults
from embedmig.config.toml_values import format_duration
from embedmig.errors import GraphError, ScriptError, UsageError
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script, assignments, number, read_script, read_scripts
from embedmig.types import Chunk, Space

if TYPE_CHECKING:
    from jinja2 import Environment

LINE = 100
DROP = 0.01  # nDCG@10 that a new version may lose; what is written into its gate
_ALWAYS_SHOWN = ("collection", "model", "version", "dimensions", "normalize", "metric", "storage")


@dataclass(frozen=True)
class Body:
    """The content of a new script: a template and its values."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)


Strategy = Literal["all-at-once", "parallel", "lazy"]


@dataclass(frozen=True, slots=True)
class Derived:
    """The version that a new one is computed from; ``assumed``: its vectors are taken to be of the texts as they are."""

    version: str
    assumed: bool = False


def space_body(
    space: Space, old: str | None, gates: GateDefaults, strategy: Strategy = "all-at-once", *, judged: bool = False,
    derived: Derived | None = None,
) -> Body:  # fmt: skip
    """A move to ``space`` from the version ``old``, a tag; None: the collection has no version yet.

    ``all-at-once`` fills, gates and flips. ``parallel`` leaves the flip to a later revision: both versions are kept
    fresh and can be read. ``lazy`` embeds first what readers find. ``judged``: there is a golden set that the gate can measure on.
    ``derived``: the vectors are computed from another version's.
    """
    freshness = format_duration(gates.freshness)
    return Body(
        "space.py.j2",
        {
            "new": space,
            "old": old,
            "completeness": gates.completeness,
            "freshness": freshness,
            "strategy": strategy,
            "judged": judged,
            "drop": DROP,
            "derived": derived,
        },
    )


def adopt_body(
    space: Space,
    table: str,
    column: str,
    version_column: str = "embedding_version",
    writer: str = "application",
    *,
    unlabelled: bool = False,
) -> Body:
    """Taking over the vectors that ``table.column`` holds already; ``space`` says how they were made.

    ``unlabelled``: nobody knows which model that was, and the script says what to do about it.
    """
    where = {
        "table": table,
        "column": column,
        "version_column": version_column,
        "writer": writer,
        "unlabelled": unlabelled,
    }
    return Body("adopt.py.j2", {"old": space} | where)


def adopt_collection_body(space: Space, collection: str, key: str, unmatched: float = 0.0) -> Body:
    """Taking over the points of a collection in the store that ``space`` names; ``key`` is where they say their row's key."""
    return Body(
        "adopt.py.j2", {"old": space, "collection": collection, "key": key, "unmatched": unmatched, "unlabelled": False}
    )


def empty_body(explanation: Sequence[str] = ()) -> Body:
    """Nothing yet; the lines of ``explanation`` go into the docstring."""
    return Body("empty.py.j2", {"explanation": [_plain(line) for line in explanation]})


def squash_body(spaces: Mapping[str, Space], calls: Sequence[str]) -> Body:
    """One script in the place of many: ``spaces`` by their names in it, ``calls`` of ``op``."""
    return Body("squash.py.j2", {"spaces": spaces, "calls": calls})


def new_revision(
    graph: Graph,
    message: str,
    body: Body,
    *,
    head: str = "head",
    label: str | None = None,
    now: datetime | None = None,
) -> Path:
    """Writes the next script and returns its path: the highest number plus one, built on ``head``.

    Two at once get two numbers, one built on the other, and no file is ever overwritten. Raises
    :class:`UsageError` for an empty message, :class:`GraphError` where ``head`` is ambiguous.
    """
    with _alone(graph.directory):
        graph = Graph(graph.directory)  # what another run wrote meanwhile
        down = () if head == "base" or not graph.scripts else (graph.resolve(head).revision,)
        return _write(graph, message, body, down, label, now)


def merge(graph: Graph, revisions: Sequence[str], message: str, *, now: datetime | None = None) -> Path:
    """Writes a script that joins ``revisions`` (none given: all heads). Raises :class:`UsageError`."""
    with _alone(graph.directory):
        graph = Graph(graph.directory)
        down = tuple(dict.fromkeys(graph.resolve(name).revision for name in revisions or graph.heads()))
        if len(down) < 2:
            heads = ", ".join(graph.heads()) or "none"
            raise UsageError("there is nothing to merge", hint=f"the heads are: {heads}")
        for one in down:
            if any(graph.is_ancestor(one, other) for other in down):
                raise UsageError(f"one of the revisions builds on {one} already", hint="embedmig heads")
        return _write(graph, message, Body("merge.py.j2"), down, None, now)


def rebase(directory: Path, name: str, applied: Mapping[str, str]) -> Path:
    """Renumbers a script that is not applied, so that it builds on the one other head; returns its new path.

    ``name`` is an id, or a file's name where two files have one number. ``applied`` holds the checksum of
    every applied revision. Only the lines that say the revision change. Raises :class:`UsageError` where the
    script is applied, others build on it, or there is nothing to do.
    """
    with _alone(directory):
        scripts = read_scripts(directory)
        moved = _named(scripts, name)
        others = [script for script in scripts if script.path != moved.path]
        _refuse_applied(moved, others, applied)
        _refuse_entangled(moved, others)
        graph = Graph.of(directory, others)
        onto = graph.resolve("head").revision if others else None
        revision = next_number(others)
        if (number(moved.revision) or 0) > int(revision):
            revision = moved.revision  # high enough as it is
        if moved.down_revisions == ((onto,) if onto else ()) and moved.revision == revision:
            raise UsageError(f"{moved.path.name} is on {onto or 'base'} already; there is nothing to do")
        return _renumber(moved, revision, onto)


def squash(
    graph: Graph, scripts: Sequence[Script], body: Body, message: str, *, now: datetime | None = None
) -> tuple[Path, list[Path]]:
    """Writes a script that stands for ``scripts``, under the revision of the last, and moves theirs into ``squashed_REV/``, which
    is no part of the graph. Returns its path, and theirs.
    """
    last = scripts[-1].revision
    replaces: dict[str, tuple[str, ...]] = {}
    for script in scripts:
        for name, checksums in {**script.replaces, script.revision: (script.checksum,)}.items():
            replaces[name] = tuple(dict.fromkeys((*replaces.get(name, ()), *script.replaces.get(name, ()), *checksums)))
    with _alone(graph.directory):
        folder = graph.directory / f"squashed_{last}"
        if folder.exists():
            raise UsageError(
                f"{folder} exists already; nothing was written",
                hint="it holds the scripts of an earlier squash: remove it",
            )
        source = _rendered(body, _plain(message), last, (), None, now, {
            "replaced": ", ".join(replaces), "replaces": {name: found[0] if len(found) == 1 else found for name, found in replaces.items()},
        })  # fmt: skip
        path = graph.directory / f"{last}_squashed.py"
        draft = graph.directory / f".{path.name}.new"
        draft.write_text(source, "utf-8")
        folder.mkdir()
        moved = [script.path.rename(folder / script.path.name) for script in scripts]
        draft.rename(path)
    return path, moved


def init(
    directory: Path,
    *,
    database: str = "embedded",
    collections: Sequence[object] = (),
    adoptions: Sequence[tuple[str, Body]] = (),
    now: datetime | None = None,
) -> list[Path]:
    """Starts a project in ``directory``: a configuration and first revisions. Returns what it wrote.

    ``collections`` have the fields of :class:`~embedmig.config.Collection` that the file needs; ``adoptions`` are revisions with
    their messages, and without any there is one empty revision. Raises :class:`UsageError`, with nothing written, where there is
    a configuration or a script already.
    """
    config, migrations = directory / FILE_NAME, directory / "migrations"
    for path in (config, *sorted(migrations.glob("[!_.]*.py"))):
        if path.exists():
            raise UsageError(
                f"{path} exists already; nothing was written", hint="embedmig init DIR   uses another folder"
            )
    values = {"migrations": "migrations", "database": database, "collections": collections}
    try:
        migrations.mkdir(parents=True, exist_ok=True)
        _create(config, _environment().get_template("embedmig.toml.j2").render(values))
        ignored = _ignore(directory / ".gitignore", ".embedmig/")
    except OSError as error:
        raise UsageError(f"{directory}: can't be written: {error.strerror}") from error
    baseline = empty_body(
        ["Where this project begins. The revisions after it make, fill and adopt the spaces of embeddings:",
         "embedmig revision -m MESSAGE --collection NAME --model PROVIDER/MODEL …"]
    )  # fmt: skip
    first = adoptions or [("baseline", baseline)]
    scripts = [new_revision(Graph(migrations), message, body, now=now) for message, body in first]
    return [config, *ignored, *scripts]


def _ignore(path: Path, line: str) -> list[Path]:
    """Keeps the embedded server's files out of version control; returns the file where it was changed."""
    before = path.read_text("utf-8") if path.exists() else ""
    if line in before.splitlines():
        return []
    path.write_text(before + ("" if before.endswith("\n") or not before else "\n") + line + "\n", "utf-8")
    return [path]


def next_number(scripts: Sequence[Script]) -> str:
    """The highest number plus one, in four digits or as many as it takes."""
    numbers = (number(script.revision) for script in scripts)
    return f"{max((n for n in numbers if n is not None), default=0) + 1:04d}"


def slug(message: str) -> str:
    """A message as a part of a file's name: ASCII, lower case, 40 characters at most, never empty."""
    ascii_only = unicodedata.normalize("NFKD", message).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", ascii_only).strip("_")[:40].rstrip("_") or "revision"


# --- templates ----------------------------------------------------------------------------------------------


def template_dir() -> Path:
    """The folder of the templates: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parents[1] / "templates"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Python, not HTML; what is put in passes through `literal`
        loader=FileSystemLoader(template_dir()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(literal=literal, call=_space_call, toml=_toml)
    return environment


def literal(value: object) -> str:
    """``value`` as Python source, by ``repr``; in double quotes where the text allows."""
    if isinstance(value, tuple):
        return "(" + ", ".join(literal(item) for item in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)}: {literal(part)}" for name, part in value.items()) + "}"
    text = repr(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text


def _toml(value: object) -> str:
    """A string, or a list of one or more, as TOML."""
    if isinstance(value, tuple):
        return _toml(value[0]) if len(value) == 1 else "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _space_call(space: Space, name: str) -> str:
    """``NAME = Space(…)`` with what differs from the defaults, filled into lines."""
    plain = Space(space.collection, space.model, space.version, space.dimensions)
    shown = [f for f in fields(space) if f.name in _ALWAYS_SHOWN or getattr(space, f.name) != getattr(plain, f.name)]
    arguments = [f"{f.name}={_argument(getattr(space, f.name))}" for f in shown]
    opening = f"{name} = Space("
    lines = [""]
    for argument in arguments:
        if lines[-1] and len(opening) + len(lines[-1]) + len(argument) + 2 > LINE:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + argument
    return opening + (",\n" + " " * len(opening)).join(lines) + ")"


def _argument(value: object) -> str:
    if not isinstance(value, Chunk):
        return literal(value)
    # Space takes a mapping for a chunk, so that a script needs no further import.
    return literal({f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default})


def _plain(text: str) -> str:
    """Text that can stand in a docstring: one line, printable, without what would end it."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


# --- files --------------------------------------------------------------------------------------------------


def _write(
    graph: Graph, message: str, body: Body, down: tuple[str, ...], label: str | None, now: datetime | None
) -> Path:
    title = _plain(message)
    if not title:
        raise UsageError("a revision needs a message", hint='-m "wordllama 256"')
    revision = next_number(list(graph.scripts.values()))
    source = _rendered(body, title, revision, down, label, now, {})
    path = graph.directory / f"{revision}_{slug(message)}.py"
    _create(path, source)
    return path


def _rendered(
    body: Body, title: str, revision: str, down: tuple[str, ...], label: str | None, now: datetime | None, more: Mapping[str, Any]
) -> str:  # fmt: skip
    return _environment().get_template(body.template).render(
        body.values,
        message=title,
        revision=revision,
        down_revisions=down,
        down_revision=down if len(down) > 1 else down[0] if down else None,
        branch_labels=label,
        create_date=(now or datetime.now(UTC)).isoformat(" ", "seconds"),
        **more,
    )  # fmt: skip


def _create(path: Path, source: str) -> None:
    """Writes a file that must not be there yet; raises :class:`UsageError` if it is."""
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(source)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already; nothing was written") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the directory while a number is taken, so that two runs never take the same one."""
    try:
        import fcntl
    except ImportError:  # Windows: exclusive creation still keeps a file from being overwritten
        yield
        return
    if not directory.is_dir():
        raise ScriptError(f"{directory}: there is no such directory", hint="embedmig init   makes one")
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- rebase -------------------------------------------------------------------------------------------------


def _named(scripts: Sequence[Script], name: str) -> Script:
    file = Path(name).name.removesuffix(".py")
    by_file = [script for script in scripts if script.path.stem == file]
    wanted = number(name)
    by_id = [s for s in scripts if s.revision == name or (wanted is not None and number(s.revision) == wanted)]
    found = by_file or by_id
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(script.path.name for script in found)} are both {name}",
            hint=f"say which: embedmig rebase {found[-1].path.stem}",
        )
    if not found:
        raise UsageError(f"no script is named {name!r}", hint="embedmig history   lists them")
    return found[0]


def _refuse_applied(moved: Script, others: Sequence[Script], applied: Mapping[str, str]) -> None:
    recorded = applied.get(moved.revision)
    twins = [script for script in others if script.revision == moved.revision]
    if recorded is None or (recorded != moved.checksum and any(recorded == twin.checksum for twin in twins)):
        return
    raise UsageError(
        f"{moved.path.name} is applied, or its number is; an applied script is never changed",
        hint="embedmig downgrade -1 first, or rebase the other one",
    )


def _refuse_entangled(moved: Script, others: Sequence[Script]) -> None:
    if any(script.revision == moved.revision for script in others):
        return  # what builds on this number builds on the other one
    children = [script.path.name for script in others if moved.revision in script.parents]
    if children:
        raise UsageError(f"{', '.join(children)} builds on {moved.path.name}", hint="rebase the last one first")
    if len(moved.down_revisions) > 1:
        raise GraphError(f"{moved.path.name} is a merge", hint="delete it and merge again")


def _renumber(moved: Script, revision: str, onto: str | None) -> Path:
    """Rewrites the file in place, whole or not at all, then gives it the name of its new number."""
    raw = moved.path.read_bytes()
    draft = moved.path.with_name(f".{moved.path.name}.new")
    draft.write_bytes(_rewritten(raw, revision, onto))
    read_script(draft)
    draft.replace(moved.path)
    rest = moved.path.name.removeprefix(moved.revision).lstrip("_")
    target = moved.path.with_name(f"{revision}_{rest}" if rest != ".py" else f"{revision}.py")
    return moved.path.rename(target) if not target.exists() else moved.path


def _rewritten(raw: bytes, revision: str, onto: str | None) -> bytes:
    """The source with another revision and down_revision; every other byte, line ends included, as it was."""
    bom = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
    lines = raw.removeprefix(bom).splitlines(keepends=True)
    tree = ast.parse(raw.removeprefix(bom))
    nodes = assignments(tree)
    for name, value in (("down_revision", onto), ("revision", revision)):
        if name in nodes:
            _replace(lines, nodes[name], literal(value).encode())
    if ast.get_docstring(tree) is not None:
        said = {b"Revision ID:": f" {revision}", b"Revises:": f" {onto}" if onto else ""}
        for i in range(tree.body[0].end_lineno or 0):
            for words, text in said.items():
                lines[i] = re.sub(b"^(" + words + b")[^\r\n]*", rb"\g<1>" + text.encode(), lines[i])
    return bom + b"".join(lines)


def _replace(lines: list[bytes], node: ast.expr, text: bytes) -> None:
    """Puts ``text`` in the place of ``node``; its lines stay as many as they were."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    lines[first : last + 1] = [before + text + after] + [b""] * (last - first)
