"""When an index grows with the backfill: where the model is slower than the index, and there is something to save."""

from dataclasses import replace

from embedmig.operations.create_index import CreateIndex
from embedmig.operations.taking_back import journaled
from embedmig.planning.index_growth import advise_index
from embedmig.testing import fake_space

MILLION, GB = 1_000_000, 1 << 30


def test_an_index_grows_beside_a_paid_api_and_is_built_after_what_is_quicker_than_inserts() -> None:
    paid = advise_index(MILLION, MILLION / 300, 1536, GB, 2 * GB)
    assert paid.during
    assert "300 rows/s come in" in paid.reason
    quick = advise_index(MILLION, MILLION / 8000, 1536, GB, 2 * GB)
    assert not quick.during
    assert "8,000 rows/s come in" in quick.reason


def test_a_build_of_seconds_is_left_where_it_is() -> None:
    assert not advise_index(10_000, 10_000 / 300, 1536, GB, GB).during
    assert not advise_index(MILLION, MILLION / 10, 1536, GB, GB).during, "a day of waiting, and minutes to save"


def test_an_index_that_outgrows_the_servers_cache_is_said_to() -> None:
    assert "outgrows shared_buffers (8" in advise_index(MILLION, MILLION / 300, 1536, 8 * GB, GB // 8).reason


def test_a_script_that_was_run_before_during_was_known_is_not_taken_for_edited() -> None:
    now = journaled(CreateIndex(fake_space()))
    assert now.fields is not None
    was = replace(now, fields={name: value for name, value in now.fields.items() if name != "during"})
    assert was.is_same(now)
    assert not was.is_same(journaled(CreateIndex(fake_space(), during="backfill")))
    assert not was.is_same(journaled(CreateIndex(fake_space(), memory="2GB")))
