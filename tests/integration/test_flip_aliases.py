"""Several aliases in one transaction: all of them move, or none, in PostgreSQL and in the stores beside it."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

import embedmig
from embedmig.errors import AliasMoved, PlanError, StoreError
from embedmig.stores.external import ExternalStore
from embedmig.testing import MemoryStore
from tests.fault_injection import Dead, Moments, disturbed
from tests.in_process import Fake, downgrade, tag, upgrade
from tests.project import CONFIG, Project

TITLES = """
[collections.titles]
table = "documents"
key = "id"
text = "title"
alias = "titles_embeddings"

[stores.near]
kind = "memory"
url = "{file}"
give_up_after = "1s"
"""
SCRIPT = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = {{name: Space(collection=name, model="fake/hash", version="1", dimensions={dimensions}{more}) for name in ("docs", "titles")}}
OLD = {old!r}


def upgrade() -> None:
    for space in NEW.values():
        op.create_space(space)
        op.backfill(space)
        op.gate(space, completeness=1.0)
    op.flip_aliases(NEW)


def downgrade() -> None:
    for name in NEW if OLD else ():
        op.gate(OLD, collection=name, completeness=1.0)
    op.flip_aliases({{name: OLD for name in NEW}})
"""
BOTH = "select (select min(version) from docs_embeddings), (select min(version) from titles_embeddings)"


@pytest.fixture
def two(project: Project) -> Project:
    """Two collections of one table."""
    Fake().register()
    project.documents(20)
    project.configure(CONFIG, TITLES.format(file=project.folder / "near.db"))
    return project


def scripts(project: Project, more: str = "", where: str = "") -> tuple[str, str]:
    """Two revisions, each with a version of both collections; returns the two tags."""
    old, new = tag(8) + where, tag(16) + where
    for revision, down, dimensions, before in (("0001", None, 8, None), ("0002", "0001", 16, old)):
        text = SCRIPT.format(revision=revision, down=down, dimensions=dimensions, more=more, old=before)
        project.script(f"{revision}_both.py", text)
    return old, new


def shown(project: Project) -> set[str | None]:
    """What the views and the registry say: one version where all agree."""
    registered = [row[0] for row in project.rows("select version from embedmig.aliases")]
    return {*project.rows(BOTH)[0], *registered}


def stores_show(project: Project) -> list[str | None]:
    """The collections that the stores' own aliases name, as versions."""
    found: list[str | None] = []
    with project.opened().looking() as (context, conn):
        for name in ("docs", "titles"):
            by_collection = {one.place[3]: one for one in context.registry.spaces(conn, name)}
            store = context.store(conn, next(iter(by_collection.values())))
            assert isinstance(store, ExternalStore)
            target = by_collection.get(store.alias(conn) or "")
            found.append(target and target.version)
    return found


def test_all_aliases_move_together_and_go_back_together(two: Project) -> None:
    old, new = scripts(two)
    upgrade(two, "0001")
    (revision,) = embedmig.dry_run(two.opened())
    assert revision.operations[-1].kind == "flip_aliases"
    assert revision.operations[-1].description == (
        f"flip the aliases of docs to {new}, titles to {new}, in one transaction"
    )
    assert len(revision.operations[-1].sql) == 2
    upgrade(two)
    assert shown(two) == {new}
    assert two.one("select count(flip_ms) from embedmig.aliases") == 2
    downgrade(two)
    assert shown(two) == {old}
    downgrade(two)
    assert two.one("select count(version) from embedmig.aliases") == 0
    assert two.rows("select to_regclass('docs_embeddings'), to_regclass('titles_embeddings')") == [(None, None)]


def in_one_statement(conn: psycopg.Connection) -> tuple[str, ...]:
    return conn.execute(BOTH).fetchone() or ()


def in_one_transaction(conn: psycopg.Connection, order: tuple[str, ...]) -> tuple[str, ...]:
    """The lock on the view that is read first is held until its end."""
    with conn.transaction():
        return tuple(
            conn.execute(
                sql.SQL("select min(version) from {}").format(sql.Identifier(f"{name}_embeddings"))
            ).fetchone()[0]  # type: ignore[index]
            for name in order
        )


def test_a_reader_of_both_never_sees_one_flipped_and_the_other_not(two: Project) -> None:
    old, new = scripts(two)
    upgrade(two)
    ended, seen, failed = threading.Event(), set[tuple[str, ...]](), list[str]()

    def read(*, at_once: bool) -> None:
        with psycopg.connect(two.url, autocommit=True) as conn:
            for order in itertools.cycle((("docs", "titles"), ("titles", "docs"))):
                if ended.is_set():
                    return
                try:
                    row = in_one_statement(conn) if at_once else in_one_transaction(conn, order)
                except psycopg.Error as error:
                    failed.append(str(error))
                else:
                    seen.add(row)

    readers = [threading.Thread(target=read, kwargs={"at_once": one}) for one in (True, False)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(2):
            downgrade(two)
            upgrade(two)
    finally:
        ended.set()
        for reader in readers:
            reader.join(30)
    assert not failed
    assert seen == {(old, old), (new, new)}


def test_one_that_may_not_be_moved_holds_all_back(two: Project) -> None:
    old, new = scripts(two)
    upgrade(two)
    with two.connect() as conn:
        conn.execute("update embedmig.aliases set version = 'by hand' where collection = 'titles'")
    with pytest.raises(AliasMoved, match="titles shows by hand"):
        downgrade(two)
    assert two.rows(BOTH) == [(new, new)]
    with two.connect() as conn:
        conn.execute("update embedmig.aliases set version = %s where collection = 'titles'", (new,))
    downgrade(two)
    assert shown(two) == {old}


def test_an_empty_or_mistaken_flip_is_refused_before_anything_is_touched(two: Project) -> None:
    scripts(two)
    path = two.migrations / "0001_both.py"
    text = path.read_text()
    path.write_text(text.replace("op.flip_aliases(NEW)", "op.flip_aliases({})"))
    with pytest.raises(PlanError, match="names no collection"):
        upgrade(two, "0001")
    path.write_text(text.replace("op.flip_aliases(NEW)", "op.flip_aliases({'docs': NEW['titles']})"))
    with pytest.raises(embedmig.EmbedmigError, match="'docs' is to show a space of collection 'titles'"):
        upgrade(two, "0001")


# --- with stores beside PostgreSQL --------------------------------------------------------------------------------


def test_a_store_that_fails_at_the_second_alias_takes_the_first_back(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = scripts(two, ', store="near"', "/on-near")
    upgrade(two, "0001")
    whole = MemoryStore.point_alias

    def fails_once(store: MemoryStore, name: str) -> None:
        if name == "titles_embeddings":
            raise StoreError("the disk is full")
        whole(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "point_alias", fails_once)
        with pytest.raises(StoreError, match="the disk is full"):
            upgrade(two)
        assert shown(two) == {old}
        assert stores_show(two) == [old, old]
    upgrade(two)
    assert shown(two) == {new}
    assert stores_show(two) == [new, new]


FLIP = """
from embedmig import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.flip_aliases({{name: {new!r} for name in ("docs", "titles")}})


def downgrade() -> None:
    op.flip_aliases({{name: {old!r} for name in ("docs", "titles")}})
"""


def test_killed_between_any_two_steps_all_have_moved_or_none_and_the_same_command_finishes(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = scripts(two, ', store="near"', "/on-near")
    path = two.migrations / "0002_both.py"
    path.write_text(path.read_text().replace("    op.flip_aliases", "    pass  #"))
    two.script("0003_flip.py", FLIP.format(old=old, new=new))
    upgrade(two, "0002")
    whole, dying = MemoryStore.point_alias, Moments({})

    def dies_after_it(store: MemoryStore, name: str) -> None:
        whole(store, name)
        dying.dead = True
        raise Dead("killed")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "point_alias", dies_after_it)
        with pytest.raises((Dead, embedmig.EmbedmigError)), disturbed(dying):
            upgrade(two)
    assert shown(two) == {old}
    assert stores_show(two) == [new, old]
    assert two.one("select count(wanted) from embedmig.aliases") == 2

    for place in itertools.count(dying.count - 5):
        later = Moments({}, dies_at=place)
        with suppress(Dead, embedmig.EmbedmigError), disturbed(later):
            upgrade(two)
        assert shown(two) in ({old}, {new})
        if shown(two) == {new}:
            break
        assert stores_show(two) in ([new, old], [new, new])
    upgrade(two)
    assert shown(two) == {new}
    assert stores_show(two) == [new, new]
    assert two.one("select count(wanted) from embedmig.aliases") == 0
