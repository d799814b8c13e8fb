"""The revision graph: which script builds on which, and what lies between here and a target.

Alembic's ``RevisionMap`` does the walking. It is fed from :mod:`embedmig.revisions.scripts`, so that reading the graph
runs no script, and what it raises is translated here and nowhere else. With it comes the whole of SQLAlchemy, half of
what a short command takes; so it is loaded when there is a way to walk, or something that it might refuse.
"""

from __future__ import annotations

import difflib
import heapq
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embedmig.errors import EmbedmigError, GraphError, UnknownTarget
from embedmig.revisions.scripts import RESERVED, Script, number, read_scripts, read_tolerantly, sort_key

if TYPE_CHECKING:
    from alembic.script.revision import Revision, RevisionMap

_PLAIN = re.compile(r"\w+")  # an id that Alembic has nothing against
_TARGET = re.compile(r"(?:(?P<label>[^@]+)@)?(?P<symbol>[^@+-]*)(?P<steps>[+-]\d+)?")


class Graph:
    """The scripts of one directory and how they build on each other.

    Raises :class:`GraphError` or :class:`ScriptError`, with the files' names, when they don't fit together.
    """

    def __init__(self, directory: Path) -> None:
        self._fill(directory, read_scripts(directory))

    @classmethod
    def of(cls, directory: Path, scripts: Iterable[Script]) -> Graph:
        """The graph of some scripts of ``directory``, read before."""
        graph = cls.__new__(cls)
        graph._fill(directory, scripts)
        return graph

    @classmethod
    def tolerant(cls, directory: Path) -> Graph:
        """The graph for whoever only looks: scripts that can't be read, or build on one that is not there, are in it
        with their error (``unreadable``), and cut off from what they can't be built on.
        """
        scripts, lost = read_tolerantly(directory)
        names = {script.revision for script in scripts} | {label for script in scripts for label in script.labels}
        graph = cls.of(directory, [_cut_off(script, names) for script in scripts])
        graph.unreadable = [(one.path, one.error) for one in graph.scripts.values() if one.error] + lost
        return graph

    def _fill(self, directory: Path, scripts: Iterable[Script]) -> None:
        self.directory = directory
        self.unreadable: list[tuple[Path, EmbedmigError]] = []
        self.scripts = _by_revision(scripts)
        self.stand_ins = {name: script for script in self.scripts.values() for name in script.replaces}
        self._labels = {label: s.revision for s in self.scripts.values() for label in s.labels}
        _refuse_dangling(self.scripts, self._labels)
        built_on = {down for script in self.scripts.values() for down in script.down_revisions}
        self._heads = tuple(sorted(self.scripts.keys() - built_on, key=sort_key))
        self._bases = tuple(sorted((s.revision for s in self.scripts.values() if not s.down_revisions), key=sort_key))
        self._order = {revision: place for place, revision in enumerate(_oldest_first(self))}
        plain = all(_PLAIN.fullmatch(script.revision) and not script.labels for script in self.scripts.values())
        if not plain or len(self._order) < len(self.scripts):
            assert self._map.heads  # labels, ids, a circle: what is wrong with them it says

    @cached_property
    def _map(self) -> RevisionMap:
        """Raises :class:`GraphError` for what Alembic refuses."""
        with self._translated():
            from alembic.script.revision import RevisionMap

            made = RevisionMap(self._nodes)
            made._revision_map  # noqa: B018  made when it is first asked for, and with it its errors
            return made

    def heads(self) -> tuple[str, ...]:
        """The revisions that nothing builds on yet."""
        return self._heads

    def bases(self) -> tuple[str, ...]:
        """The revisions that build on nothing."""
        return self._bases

    def get(self, revision: str) -> Script:
        """The script with exactly this revision id; raises :class:`UnknownTarget`."""
        if revision not in self.scripts:
            raise self._unknown(revision)
        return self.scripts[revision]

    def resolve(self, target: str) -> Script:
        """The one script that ``target`` names: an id, a number (``2`` is ``0002``), a unique prefix,
        ``head``, ``label@head``.

        Raises :class:`UnknownTarget`, or :class:`GraphError` for ``head`` where there are several.
        """
        spelt = self._spell(target)
        if spelt == "base" or _parts(spelt)["steps"]:
            raise UnknownTarget(f"{target!r} is not one revision", hint="name it: embedmig history   lists them")
        if spelt in self.scripts:
            return self.scripts[spelt]
        if spelt == "head" and len(self._heads) == 1:
            return self.scripts[self._heads[0]]
        with self._translated(target):
            found = self._map.get_revision(spelt)
        if found is None:
            raise self._unknown(target)
        return self.scripts[found.revision]

    def parents(self, revision: str) -> tuple[str, ...]:
        """What ``revision`` is built right upon: its down revisions and dependencies, labels resolved."""
        return tuple(self._labels.get(parent, parent) for parent in self.get(revision).parents)

    def ancestors(self, revision: str) -> list[Script]:
        """Everything that ``revision`` builds on or depends on, oldest first, without itself."""
        return self._sorted(self._closure([revision]) - {revision})

    def is_ancestor(self, earlier: str, later: str) -> bool:
        """Whether ``later`` builds on ``earlier``. No revision is its own ancestor."""
        return earlier != later and earlier in self._closure([later])

    def applied_heads(self, applied: Collection[str]) -> tuple[str, ...]:
        """Those of ``applied`` that none of the others builds on. Ids without a script are among them."""
        known = [self.scripts[revision] for revision in applied if revision in self.scripts]
        built_on = {down for script in known for down in script.down_revisions}
        return tuple(sorted(set(applied) - built_on, key=sort_key))

    def walk(self) -> list[Script]:
        """Every script, newest first: none comes after one that it builds on."""
        return self._sorted(self.scripts)[::-1]

    def upgrade_plan(self, current: Sequence[str], target: str) -> list[Script]:
        """The scripts to run, in order, from the applied heads ``current`` to ``target``; maybe none.

        Raises :class:`UnknownTarget`, or :class:`GraphError` for an ambiguous ``head`` and for applied ids
        that have no script.
        """
        self.refuse_missing(current)
        spelt = self._spell(target)
        if not self.scripts and spelt in ("head", "heads"):
            return []
        if spelt in ("head", "heads") and self._heads == tuple(current) and (spelt == "heads" or len(current) == 1):
            return []
        if spelt == "base":
            raise UnknownTarget("upgrade can't go to base: nothing is applied there", hint="embedmig downgrade base")
        with self._translated(target):
            steps = list(self._map.iterate_revisions(spelt, tuple(current), implicit_base=True))
        return self._sorted(step.revision for step in steps)

    def downgrade_plan(self, current: Sequence[str], target: str) -> list[Script]:
        """The scripts to undo, in order, to come from the applied heads ``current`` back to ``target``.

        Raises :class:`UnknownTarget` for what is not applied or is ambiguous, :class:`GraphError` as above.
        """
        self.refuse_missing(current)
        parts = _parts(spelt := self._spell(target))
        if parts["steps"] and not parts["symbol"] and not parts["label"] and len(current) > 1:
            raise UnknownTarget(
                f"{target} is ambiguous: {_and(current)} are applied", hint="name the revision to go back to"
            )
        if parts["symbol"] in self.scripts and not parts["steps"]:
            self._refuse_unapplied(parts["symbol"], current)
        with self._translated(target):
            steps = list(self._map.iterate_revisions(tuple(current), spelt, select_for_downgrade=True))
        return self._sorted(step.revision for step in steps)[::-1]

    # --- names ----------------------------------------------------------------------------------------------

    def _spell(self, target: str) -> str:
        """``target`` with the full id in place of a number or a prefix, as Alembic understands it."""
        parts = _parts(target.strip())
        label = f"{self._label(parts['label'])}@" if parts["label"] else ""
        symbol = self._id(parts["symbol"], target) if parts["symbol"] else ""
        if not symbol and not parts["steps"]:
            raise self._unknown(target)
        return f"{label}{symbol}{parts['steps']}"

    def _label(self, name: str) -> str:
        if name in self._labels:
            return name
        try:
            return self._id(name, name)
        except UnknownTarget:
            known = ", ".join(sorted(self._labels)) or "none"
            raise UnknownTarget(f"no branch is labelled {name!r}", hint=f"the labels are: {known}") from None

    def _id(self, name: str, target: str) -> str:
        if name in RESERVED or name in self.scripts or name in self._labels:
            return name
        same_number = [rev for rev in self.scripts if number(name) is not None and number(rev) == number(name)]
        found = same_number or sorted((rev for rev in self.scripts if rev.startswith(name)), key=sort_key)
        if len(found) > 1:
            raise UnknownTarget(f"{target!r} is ambiguous: {_and(found)} begin with it", hint="write more of the name")
        if not found:
            raise self._unknown(target)
        return found[0]

    def _unknown(self, target: str) -> UnknownTarget:
        names = [*self.scripts, *self._labels, *RESERVED]
        # Near numbers are not likely ones: 0004 is no better a guess for 0020 than any other.
        close = difflib.get_close_matches(target, names, n=1) if number(target) is None else None
        if found := self.stand_ins.get(target):
            return UnknownTarget(
                f"{target} is a part of {found.path.name} by now", hint=f"that one is revision {found.revision}"
            )
        hint = f"did you mean {close[0]}?" if close else "embedmig history   lists the revisions"
        if not self.scripts:
            hint = 'embedmig revision -m "…" --model PROVIDER/MODEL …   writes the first'
        return UnknownTarget(f"no revision is named {target!r} in {self.directory.name}/", hint=hint)

    # --- what can't be --------------------------------------------------------------------------------------

    def refuse_missing(self, applied: Collection[str]) -> None:
        """Raises :class:`GraphError` for what the database has had and there is no script of."""
        missing = [revision for revision in applied if revision not in self.scripts]
        for revision in missing:
            if found := self.stand_ins.get(revision):
                raise GraphError(
                    f"{revision} is applied, and {found.path.name} stands for {in_short(found.replaces)}: this database is in the middle of them",
                    hint=f"finish them first, with the scripts from before the squash (version control has them): embedmig upgrade {found.revision}",
                )
        if missing:
            there = next((revision for revision in applied if revision in self.scripts), "base")
            raise GraphError(
                f"{_and(missing)}: applied in the database, but {self.directory.name}/ has no such script",
                hint="restore the script (is it on another branch?), then run this again; if it is lost for good, "
                f"embedmig stamp --purge {there} records what there are scripts for",
            )

    def _refuse_unapplied(self, revision: str, current: Iterable[str]) -> None:
        if revision not in self._closure(current):
            applied = f"applied: {_and(list(current))}" if current else "nothing is applied"
            raise UnknownTarget(f"can't downgrade to {revision}: it is not applied", hint=applied)

    # --- order ----------------------------------------------------------------------------------------------

    def _closure(self, revisions: Iterable[str]) -> set[str]:
        """``revisions`` and everything they build or depend on."""
        seen: set[str] = set()
        left = list(revisions)
        while left:
            revision = left.pop()
            if revision not in seen:
                seen.add(revision)
                left.extend(self.parents(revision))
        return seen

    def _sorted(self, revisions: Iterable[str]) -> list[Script]:
        return [self.scripts[revision] for revision in sorted(revisions, key=self._order.__getitem__)]

    # --- Alembic --------------------------------------------------------------------------------------------

    def _nodes(self) -> Iterator[Revision]:
        from alembic.script.revision import Revision

        for s in self.scripts.values():
            yield Revision(s.revision, s.down_revisions or None, s.depends_on or None, s.labels or None)

    @contextmanager
    def _translated(self, target: str | None = None) -> Iterator[None]:
        """What Alembic raises, as errors that name files and say how to fix them."""
        from alembic.script.revision import CycleDetected, MultipleHeads, RangeNotAncestorError, RevisionError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Alembic warns where we refuse
                yield
        except CycleDetected as error:
            names = [rev for rev in self.scripts if re.search(rf"\b{re.escape(rev)}\b", str(error))]
            files = ", ".join(self.scripts[rev].path.name for rev in names)
            raise GraphError(
                f"{files}: down_revision forms a cycle", hint="fix down_revision in one of them"
            ) from error
        except MultipleHeads as error:
            raise GraphError(
                f"{target or 'head'} is ambiguous: the heads are {_and(sorted(error.heads, key=sort_key))}",
                hint='embedmig merge -m "…"   joins them; or name one; or heads for all',
            ) from error
        except RangeNotAncestorError as error:
            raise UnknownTarget(f"can't downgrade to {target!r}: it is not applied", hint="embedmig current") from error
        except (RevisionError, UserWarning, AssertionError) as error:
            reason = _in_our_words(error)
            if target is None:
                raise GraphError(f"{self.directory.name}/: {reason}", hint="fix the scripts") from error
            raise UnknownTarget(f"{target}: {reason}", hint="embedmig history   shows the graph") from error


def _in_our_words(error: BaseException) -> str:
    said = str(error)
    if said == "Ambiguous walk":
        return "ambiguous, because the graph branches here: name the revision"
    if not said or "didn't produce" in said or "too far" in said:
        return "there are not that many revisions in that direction"
    return said


def _parts(target: str) -> dict[str, str]:
    """``label@symbol+1`` taken apart; what is absent is empty."""
    match = _TARGET.fullmatch(target)
    return (
        {name: value or "" for name, value in match.groupdict().items()}
        if match
        else dict.fromkeys(("label", "steps"), "") | {"symbol": target}
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def in_short(names: Collection[str]) -> str:
    """``0001 … 0005``."""
    first, *rest = sorted(names, key=sort_key)
    return f"{first} … {rest[-1]}" if rest else first


def _oldest_first(graph: Graph) -> Iterator[str]:
    """Every revision after all that it builds on; among those that could come next, the lowest number."""
    waiting = {revision: set(graph.parents(revision)) for revision in graph.scripts}
    ready = [sort_key(revision) for revision, parents in waiting.items() if not parents]
    heapq.heapify(ready)
    while ready:
        revision = heapq.heappop(ready)[-1]
        yield revision
        del waiting[revision]
        for child, parents in waiting.items():
            if revision in parents:
                parents.discard(revision)
                if not parents:
                    heapq.heappush(ready, sort_key(child))


def _by_revision(scripts: Iterable[Script]) -> dict[str, Script]:
    """Scripts by id; :class:`GraphError` where two have one id, or one number (``2`` and ``0002``)."""
    found: dict[str | int, Script] = {}
    for script in scripts:
        value = number(script.revision)
        twin = found.setdefault(script.revision if value is None else value, script)
        if twin is not script:
            raise GraphError(
                f"{twin.path.name} and {script.path.name} are both revision {script.revision}",
                hint=f"embedmig rebase {script.path.stem}   renumbers that one, if it is not applied yet",
            )
    return {script.revision: script for script in found.values()}


def _cut_off(script: Script, names: Collection[str]) -> Script:
    """The script without what it says it builds on and is not there."""
    missing = [name for name in script.parents if name not in names]
    if not missing:
        return script
    down, depends = (tuple(one for one in kind if one in names) for kind in (script.down_revisions, script.depends_on))
    error = GraphError(f"{script.path.name}: there is no readable script of {_and(missing)}, which it builds on")
    return replace(script, down_revisions=down, depends_on=depends, error=script.error or error)


def _refuse_dangling(scripts: dict[str, Script], labels: Collection[str]) -> None:
    for script in scripts.values():
        for kind, names in (("down_revision", script.down_revisions), ("depends_on", script.depends_on)):
            for name in names:
                if name not in scripts and not (kind == "depends_on" and name in labels):
                    close = [rev for rev in scripts if number(rev) == number(name) is not None]
                    raise GraphError(
                        f"{script.path.name}: {kind} {name!r} does not exist",
                        hint=f"did you mean {close[0]!r}?" if close else f"restore the script of {name}",
                    )
