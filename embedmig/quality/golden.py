"""Golden sets: questions with the rows that answer them, read from YAML, JSONL or TREC files.

YAML and JSONL hold a list of ``{query, relevant: {key: grade} or [key, …], tags: […]}``. A composite key is a list; with
grades it is written ``relevant: [{key: [a, b], grade: 2}]``. TREC judgements (``query 0 document grade``, or three
columns) have their queries beside them, in ``queries.jsonl`` or ``queries.tsv``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedmig.errors import UsageError
from embedmig.source.rows import Key

SHAPE = "a list of {query: …, relevant: {key: grade} or [key, …], tags: […]}"
TREC = (".tsv", ".qrels", ".txt")


@dataclass(frozen=True, slots=True)
class Question:
    """A query, the rows that answer it with their grades (0: judged and not relevant), and what kind of query it is.

    ``number`` is its place in its set, from 1; 0: it has none.
    """

    query: str
    relevant: Mapping[Key, int]
    tags: tuple[str, ...] = ()
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Questions under a name; ``digest`` identifies queries and judgements, whatever file they stand in."""

    name: str
    questions: tuple[Question, ...]

    @property
    def digest(self) -> str:
        """Half a SHA-256 of queries and judgements, tags and order aside."""
        items = sorted(
            (q.query, sorted((list(key), grade) for key, grade in q.relevant.items())) for q in self.questions
        )
        return hashlib.sha256(json.dumps(items, ensure_ascii=False).encode()).hexdigest()[:32]

    @property
    def judged(self) -> bool:
        """Whether every question has a relevant row."""
        return all(any(grade > 0 for grade in question.relevant.values()) for question in self.questions)


def read(path: Path, *, judged: bool = True) -> GoldenSet:
    """Reads a set. With ``judged``, every question must have a relevant row; without, a text file of one query a line will do.

    Raises :class:`UsageError` naming the file and the question at fault.
    """
    try:
        questions = tuple(replace(one, number=n) for n, one in enumerate(_questions(path, judged), 1))
    except OSError as error:
        raise UsageError(
            f"{path}: can't be read: {error.strerror}", hint="name a golden set with --golden FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8, at byte {error.start}") from error
    if not questions:
        raise UsageError(f"{path}: the set is empty", hint=f"expected: {SHAPE}")
    found = GoldenSet(path.name, questions)
    for question in questions:
        number = question.number
        if not question.query.strip():
            raise UsageError(f"{path}: query {number} is empty", hint="a text without words has no vector")
        if judged and not any(grade > 0 for grade in question.relevant.values()):
            raise UsageError(
                f"{path}: query {number} ({question.query[:40]!r}) has no relevant row",
                hint="add one, or remove the query",
            )
    return found


def _questions(path: Path, judged: bool) -> Iterator[Question]:
    suffix = path.suffix.lower()
    if suffix in TREC and judged:
        yield from _trec(path)
    elif suffix in TREC:
        yield from (Question(line, {}) for line in path.read_text("utf-8").splitlines())
    elif suffix == ".jsonl":
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.strip():
                yield _question(path, number, _json(path, number, line))
    else:
        yield from (_question(path, number, item) for number, item in enumerate(_yaml(path), 1))


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{number}: is not JSON: {error.msg}") from error


def _yaml(path: Path) -> list[Any]:
    import yaml

    try:
        items = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML: {str(error).splitlines()[0]}", hint=f"expected: {SHAPE}") from error
    if items is not None and not isinstance(items, list):
        raise UsageError(f"{path}: is not a list", hint=f"expected: {SHAPE}")
    return items or []


def _question(path: Path, number: int, item: Any) -> Question:
    """One entry; raises :class:`UsageError` saying which."""
    try:
        unknown = set(item) - {"query", "relevant", "tags"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(map(str, unknown)))} is not known")
        if not isinstance(item.get("query"), str):
            raise ValueError("query must be a text")
        tags = item.get("tags") or []
        return Question(item["query"], _relevant(item.get("relevant") or []), tuple(map(str, tags)))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: entry {number}: {error}", hint=f"expected: {SHAPE}") from error


def _relevant(found: Any) -> dict[Key, int]:
    if isinstance(found, dict):
        return {key_of(key): _grade(grade) for key, grade in found.items()}
    if not isinstance(found, list):
        raise ValueError("relevant must be {key: grade} or a list of keys")
    pairs = ((item["key"], item.get("grade", 1)) if isinstance(item, dict) else (item, 1) for item in found)
    return {key_of(key): _grade(grade) for key, grade in pairs}


def _grade(grade: Any) -> int:
    if isinstance(grade, bool) or not isinstance(grade, int) or grade < 0:
        raise ValueError(f"grade {grade!r} is not a whole number from 0 up")
    return grade


def key_of(value: Any) -> Key:
    """A row's key as text, part by part, as PostgreSQL prints it."""
    parts = value if isinstance(value, list | tuple) else [value]
    return tuple(str(part).lower() if isinstance(part, bool) else str(part) for part in parts)


def _trec(path: Path) -> Iterator[Question]:
    """Judgements with the queries that lie beside them."""
    judgements: dict[str, dict[Key, int]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        parts = line.split()
        if not parts or (number == 1 and len(parts) in (3, 4) and not parts[-1].lstrip("-").isdigit()):
            continue  # a heading, as BEIR has it
        if len(parts) not in (3, 4) or not parts[-1].lstrip("-").isdigit():
            raise UsageError(
                f"{path}:{number}: is not a judgement", hint="expected: query 0 document grade, or query document grade"
            )
        judgements.setdefault(parts[0], {})[(parts[-2],)] = max(0, int(parts[-1]))
    texts = dict(_texts(path))
    missing = [name for name in judgements if name not in texts]
    if missing:
        raise UsageError(f"{path}: {len(missing)} judged queries have no text, such as {missing[0]}")
    yield from (Question(texts[name], relevant) for name, relevant in judgements.items() if any(relevant.values()))


def _texts(path: Path) -> Iterable[tuple[str, str]]:
    """``queries.jsonl`` with ``id`` (or ``_id``) and ``text``, or ``queries.tsv``."""
    lines, table = path.with_name("queries.jsonl"), path.with_name("queries.tsv")
    if lines.exists():
        rows = [_json(lines, number, line) for number, line in enumerate(lines.read_text("utf-8").splitlines(), 1)]
        return [(str(row.get("id", row.get("_id"))), str(row.get("text", row.get("query", "")))) for row in rows]
    if not table.exists():
        raise UsageError(
            f"{path}: the file with its queries is missing",
            hint="put queries.jsonl or queries.tsv into the same folder",
        )
    split = (line.partition("\t") for line in table.read_text("utf-8").splitlines())
    return [(name, text) for name, _, text in split]
