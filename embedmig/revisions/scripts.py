"""One migration script as a file: its metadata, read without running it; its module, run when needed."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType

from embedmig.errors import EmbedmigError, ScriptError

RESERVED = frozenset({"head", "heads", "base", "current"})
_METADATA = ("revision", "down_revision", "branch_labels", "depends_on", "replaces")


@dataclass(frozen=True)
class Script:
    """A migration script. ``checksum`` is the SHA-256 of its source with LF line ends and without a BOM.

    ``replaces`` are the revisions that it stands for, its own among them, each with the checksums that they may have had.
    """

    revision: str
    down_revisions: tuple[str, ...]
    path: Path
    message: str = ""
    create_date: datetime | None = None
    labels: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    source: str = field(default="", repr=False)
    replaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    error: EmbedmigError | None = None  # why it can't be used; only where scripts are read tolerantly

    @property
    def checksum(self) -> str:
        """SHA-256, in hex, of the source as it was read: the very text that :meth:`load` runs."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def parents(self) -> tuple[str, ...]:
        """Everything that must be applied before this: its down revisions and what it depends on."""
        return tuple(dict.fromkeys(self.down_revisions + self.depends_on))

    def load(self) -> ModuleType:
        """Runs the script and returns it as a module with ``upgrade``; :class:`ScriptError` if that fails."""
        # Compiled from the text that was checksummed: a .pyc or a file edited meanwhile can't take its place.
        module = ModuleType(f"embedmig_revision_{self.revision}")
        module.__file__ = str(self.path)
        sys.modules[module.__name__] = module  # dataclasses look their module up by name
        try:
            exec(compile(self.source, str(self.path), "exec"), module.__dict__)  # noqa: S102 - a script is code
        except (Exception, SystemExit) as error:
            raise self.blame(error) from error
        if not callable(getattr(module, "upgrade", None)):
            raise ScriptError(f"{self.path.name}: has no upgrade()", hint="def upgrade() -> None: …")
        return module

    def blame(self, error: BaseException) -> ScriptError:
        """``error``, which came out of this script's code, as a :class:`ScriptError` naming file and line."""
        lineno = self.line_of(error)
        place = f"{self.path.name}:{lineno}" if lineno else self.path.name
        if isinstance(error, EmbedmigError):
            return ScriptError(f"{place}: {error.message}", hint=error.hint)
        return ScriptError(f"{place}: {type(error).__name__}: {error}", hint=f"fix {self.path}, line {lineno or '?'}")

    def line_of(self, error: BaseException) -> int | None:
        """The line of this script that ``error`` came out of, the innermost one; None where it has no part in it."""
        if isinstance(error, SyntaxError):
            return error.lineno
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return next(reversed(frames), None)


def number(revision: str) -> int | None:
    """The number that a revision id is; None for ids that are not numbers."""
    return int(revision) if revision.isascii() and revision.isdigit() else None


def sort_key(revision: str) -> tuple[bool, int, str]:
    """Orders ids by number, so that 10 comes after 9; ids that are no numbers come last."""
    value = number(revision)
    return (value is None, value or 0, revision)


def read_scripts(directory: Path) -> list[Script]:
    """Every script in ``directory``, by number; no code runs. Files that begin with ``_`` or ``.`` are none.

    Raises :class:`ScriptError` where a script can't be read, or there is no such directory.
    """
    found = (read_script(path) for path in _paths(directory))
    return sorted(found, key=lambda script: (sort_key(script.revision), script.path))


def _paths(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise ScriptError(f"{directory}: there is no such directory", hint="embedmig init   makes one")
    return sorted(path for path in directory.glob("*.py") if path.name[0] not in "_." and path.is_file())


def read_tolerantly(directory: Path) -> tuple[list[Script], list[tuple[Path, EmbedmigError]]]:
    """As :func:`read_scripts`, for whoever only looks: a script that can't be read keeps its place by what its text says of
    its revision, and has its error. Those that say nothing come apart, by path.
    """
    scripts: list[Script] = []
    lost: list[tuple[Path, EmbedmigError]] = []
    for path in _paths(directory):
        try:
            scripts.append(read_script(path))
        except ScriptError as error:
            found = _guessed(path, error)
            if found is None:
                lost.append((path, error))
            else:
                scripts.append(found)
    return sorted(scripts, key=lambda script: (sort_key(script.revision), script.path)), lost


def _guessed(path: Path, error: EmbedmigError) -> Script | None:
    """A script of which only the lines of its revisions can be read."""
    try:
        source = path.read_text("utf-8", errors="replace")
        lines = re.findall(r"^(revision|down_revision)\b[^=\n]*=\s*(.+?)\s*$", source, re.MULTILINE)
        values = {name: ast.literal_eval(text) for name, text in lines}
        revision, down = _revision_id(path, values), _names(path, "down_revision", values)
    except (OSError, ValueError, SyntaxError, ScriptError):
        return None
    return Script(revision, down, path, source=source, error=error)


def read_script(path: Path) -> Script:
    """The metadata of one script, by ``ast``: nothing is imported. Raises :class:`ScriptError`."""
    try:
        source = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        tree = ast.parse(source, str(path))
    except SyntaxError as error:
        raise ScriptError(f"{path.name}:{error.lineno}: {error.msg}", hint=f"fix {path}") from error
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path.name}: can't be read: {error}", hint=f"check {path}") from error
    values = {name: _literal(path, name, node) for name, node in assignments(tree).items()}
    docstring = ast.get_docstring(tree) or ""
    return Script(
        revision=_revision_id(path, values),
        down_revisions=_names(path, "down_revision", values),
        path=path,
        message=docstring.strip().partition("\n")[0],
        create_date=_create_date(docstring),
        labels=_names(path, "branch_labels", values),
        depends_on=_names(path, "depends_on", values),
        source=source,
        replaces=_replaces(path, values),
    )


def assignments(tree: ast.Module) -> dict[str, ast.expr]:
    """The value node of each metadata name that the module assigns at its top level; the last one counts."""
    return {name: value for node in tree.body for name, value in _assigned(node) if name in _METADATA}


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = getattr(node, "value", None)
    if value is not None:
        yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))


def _literal(path: Path, name: str, node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ScriptError(
            f"{path.name}:{node.lineno}: {name} is not a literal",
            hint=f'the graph is read without running scripts; write {name} = "…"',
        ) from error


def _revision_id(path: Path, values: Mapping[str, object]) -> str:
    if "revision" not in values:
        raise ScriptError(
            f"{path.name}: has no revision",
            hint='give it revision = "…", or begin the file\'s name with _ if it is no migration script',
        )
    revision = values["revision"]
    if not isinstance(revision, str) or not re.fullmatch(r"\w+", revision) or revision in RESERVED:
        raise ScriptError(
            f"{path.name}: revision {revision!r} can't be a name",
            hint="a string of letters, digits and _, and none of " + ", ".join(sorted(RESERVED)),
        )
    return revision


def _names(path: Path, name: str, values: Mapping[str, object]) -> tuple[str, ...]:
    """None, one string, or several, as Alembic lets them be written; always a tuple."""
    value = values.get(name)
    items = (value,) if isinstance(value, str) else value or ()
    if not isinstance(items, (tuple, list, set)) or not all(isinstance(item, str) and item for item in items):
        raise ScriptError(f"{path.name}: {name} is {value!r}", hint=f'write {name} = "…", a tuple of strings, or None')
    return tuple(items) if not isinstance(items, set) else tuple(sorted(items))


def _replaces(path: Path, values: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """``{"0001": CHECKSUM, …}``; of one that was squashed before, several checksums."""
    value = values.get("replaces") or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ScriptError(f"{path.name}: replaces is {value!r}", hint='write replaces = {"0001": "CHECKSUM", …}')
    found = {name: _names(path, "replaces", {"replaces": checksums}) for name, checksums in value.items()}
    if found and values["revision"] not in found:
        raise ScriptError(
            f"{path.name}: replaces does not name {values['revision']} itself",
            hint="restore the file as embedmig squash wrote it",
        )
    return found


def _create_date(docstring: str) -> datetime | None:
    line = re.search(r"^Create Date:\s*(.+?)\s*$", docstring, re.MULTILINE)
    try:
        return datetime.fromisoformat(line.group(1)) if line else None
    except ValueError:
        return None  # someone else's format: the date is shown, never relied on
