"""``embedmig status`` at ten thousand rows and at a million: processes in turn, two projects in one database.

The vectors are drawn by the server and not made by a model: what is measured is looking at them.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

import embedmig
from benchmarks.place import CONFIG, Place
from benchmarks.startup import once
from embedmig import open_project

EMBEDMIG = str(Path(sysconfig.get_path("scripts")) / "embedmig")
SPACE = """
from embedmig import Space, op

revision = "0001"
down_revision = None
NEW = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64)


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.flip_alias("docs", to=NEW)
"""
TEXT = "'title ' || n, repeat(md5(n::text), 6)"


@dataclass(frozen=True)
class Looks:
    """Seconds and CPU seconds of one ``status`` at each size, and of the client's server process, one after the other."""

    small: tuple[float, float]
    large: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Of the time from start to end."""
        return self.large[0] / self.small[0]


def measure(place: Place, sizes: tuple[int, int], repeats: int) -> list[Looks]:
    """``repeats`` pairs, after one that fills caches; all but a few rows are embedded."""
    folders = [project(place, rows) for rows in sizes]
    pairs = [Looks(*(once([EMBEDMIG, "status"], folder) for folder in folders)) for _ in range(repeats + 1)]
    return pairs[1:]


def project(place: Place, rows: int) -> Path:
    """A project with so many rows, and vectors for all but the last hundredth of them."""
    table, folder = f"rows_{rows}", place.folder / f"rows_{rows}"
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "0001.py").write_text(SPACE)
    config = CONFIG.format(url=place.url, table=table).replace("[embedmig]", f'[embedmig]\nschema = "embedmig_{rows}"')
    (folder / "embedmig.toml").write_text(config)
    with place.connect() as conn:
        conn.execute("create extension if not exists vector")
        conn.execute(f"create table {table} (id bigint primary key, title text, body text)")
        embedmig.upgrade(open_project(folder / "embedmig.toml"))  # of nothing: no model has to work
        space = conn.execute(f"select table_name from embedmig_{rows}.spaces").fetchone()
        assert space is not None
        conn.execute(f"alter table {table} disable trigger user")
        conn.execute(f"insert into {table} select n, {TEXT} from generate_series(1, {rows}) n")
        conn.execute(f"alter table {table} enable trigger user")
        conn.execute(
            sql.SQL(
                """insert into {} (id, content_hash, embedding)
                   select id, sha256(convert_to(concat_ws(E'\\n\\n', title, body), 'UTF8')),
                          array(select random() from generate_series(1, 64 + (id - id)))::vector
                   from {} where id <= {}"""
            ).format(sql.Identifier(f"embedmig_{rows}", space[0]), sql.Identifier(table), sql.Literal(rows * 99 // 100))
        )
        conn.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(table)))
        conn.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(f"embedmig_{rows}", space[0])))
        conn.execute("checkpoint")
    return folder


def main() -> None:
    """By hand: sizes and repeats."""
    from statistics import median

    from benchmarks.place import opened

    small, large, repeats = (int(value) for value in sys.argv[1:4])
    with opened() as place:
        looks = measure(place, (small, large), repeats)
        figures = [look.ratio for look in looks]
        print(f"status at {large:,} rows / at {small:,}: {min(figures):.2f} {median(figures):.2f} {max(figures):.2f}")
        print(f"seconds: {median(one.small[0] for one in looks):.2f} and {median(one.large[0] for one in looks):.2f}")


if __name__ == "__main__":
    main()
