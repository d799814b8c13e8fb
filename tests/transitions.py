"""Every move of a revision and of a space that a database sees, noted by triggers of the test's own, and not by embedmig."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import psycopg

from embedmig.revisions import states

NOTES = """
create table if not exists public.moves (id serial, kind text, name text, before text, after text);

create or replace function public.note_space() returns trigger language plpgsql as $$
begin
  insert into public.moves (kind, name, before, after)
  values (case when new.adopted then 'adopted' else 'space' end, new.collection || ' ' || new.version,
          case when tg_op = 'UPDATE' then old.state end, new.state);
  return null;
end $$;

create or replace function public.note_revision() returns trigger language plpgsql as $$
begin
  insert into public.moves (kind, name, after)
  values ('revision', new.revision, case when new.direction in ('stamp', 'unstamp') then new.direction else new.direction || '_end' end);
  return null;
end $$;

create or replace function public.note_operation() returns trigger language plpgsql as $$
begin
  insert into public.moves (kind, name, after)
  select 'revision', revision, direction || '_step' from embedmig.embedding_migrations where id = new.attempt;
  return null;
end $$;

create or replace trigger note after insert on embedmig.spaces for each row execute function public.note_space();
create or replace trigger note_change after update on embedmig.spaces for each row
  when (old.state <> new.state) execute function public.note_space();
create or replace trigger note after insert on embedmig.embedding_migrations for each row
  when (new.direction in ('stamp', 'unstamp')) execute function public.note_revision();
create or replace trigger note_end after update on embedmig.embedding_migrations for each row
  when (new.status = 'done' and old.status <> 'done') execute function public.note_revision();
create or replace trigger note_step after update on embedmig.embedding_operations for each row
  when (old.finished_at is null and new.finished_at is not null and new.kind <> 'gate')
  execute function public.note_operation();
"""

Move = tuple[str, str | None, str]
"""The table that it belongs to, and from where to where; of a revision, the event instead of where to."""


def watch(conn: psycopg.Connection[Any]) -> None:
    """Notes everything from now on; the ledger's tables must be there."""
    conn.execute(NOTES)


def forget(conn: psycopg.Connection[Any]) -> None:
    """The ledger is gone: what it said is over."""
    conn.execute("insert into public.moves (kind) values ('uninstall')")


def moves(conn: psycopg.Connection[Any]) -> tuple[Counter[Move], dict[str, str]]:
    """How often each move was seen, and the state in which each revision was left. A move that is not in the tables of
    states fails the test.
    """
    seen: Counter[Move] = Counter()
    left: dict[str, str] = defaultdict(lambda: "pending")
    held: dict[str, str] = {}
    for kind, name, before, after in conn.execute("select kind, name, before, after from public.moves order by id"):
        match kind:
            case "uninstall":
                left.clear()
                held.clear()
            case "revision":
                event = (left[name], after)
                assert event in states.REVISIONS, f"revision {name} was {left[name]}, and there was {after}"
                seen["revision", *event] += 1
                left[name] = states.REVISIONS[event]  # type: ignore[index]
            case _:
                table = states.ADOPTED if kind == "adopted" else states.SPACES
                assert (before, after) in table, f"{kind} {name} went from {before} to {after}"
                assert before == held.get(name), f"{name} was {held.get(name)}, and left {before}"
                seen[kind, before, after] += 1
                held[name] = after
    return seen, dict(left)


def unseen(seen: Counter[Move]) -> list[Move]:
    """The moves of the tables that did not happen."""
    possible: list[Move] = [("revision", *event) for event in states.REVISIONS]
    possible += [("space", *move) for move in states.SPACES]
    possible += [("adopted", *move) for move in states.ADOPTED]
    return [move for move in possible if move not in seen]
