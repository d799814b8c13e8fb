"""One space in Pinecone.

Reads see a write later than it is acknowledged, and each kind of read at another time. Searches say how far they are
(``x-pinecone-max-indexed-lsn``); fetches, listings and counts don't. So a write here returns when a search has reached its
number, and a fetch, a listing and a count by filter have shown that they see it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

from embedmig.errors import OutcomeUnknown, PlaceMissing, PlanError, StoreUnsuitable, VectorRefused
from embedmig.source import Source
from embedmig.stores.external import (
    CHUNK,
    HASH,
    KEY,
    VERSION,
    CollectionInfo,
    ExternalStore,
    Held,
    IndexStatus,
    Near,
    Point,
    pages,
)
from embedmig.stores.pinecone.client import Client, PointTooLarge, connect
from embedmig.stores.pinecone.points import (
    VECTOR,
    Document,
    condition,
    document,
    encoded,
    found_by,
    key_field,
    requests,
)
from embedmig.stores.pinecone.spaces import FETCH_IDS, METRICS, TOP_K, Documents, Namespace, open_namespace
from embedmig.stores.protocol import Capabilities, IndexOptions
from embedmig.types import Metric, Space

NAMESPACE = "embedmig"  # in an index of the space's own
DEFAULT = "__default__"  # where applications write that name none
NAME_LENGTH = 45
NAME_BYTES = 64  # of a field
ANSWER_BYTES = 2_000_000
LOOK_SECONDS = (0.02, 0.5)  # between two looks at whether a write is seen
PATCHES = 100  # updates a second that a namespace takes

T = TypeVar("T")
Trace = tuple[str, Mapping[str, Any]]
"""A point's id and what it says of itself, by which a filter finds it."""


class PineconeStore(ExternalStore):
    """A space in an index of its own; with the option ``index``, in a namespace of that index.

    An adopted collection is an index' name, or ``INDEX/NAMESPACE``.
    """

    kind: ClassVar[str] = "pinecone"
    extra: ClassVar[str] = "pinecone"
    options: ClassVar[frozenset[str]] = frozenset(("cloud", "region", "index"))
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=20_000,
        indexed_dimensions=20_000,
        metrics=frozenset(METRICS.values()),
        filters=True,
        alias=False,
        same_transaction=False,
    )

    # --- the server

    @property
    def _client(self) -> Client:
        return connect(self.settings)

    @property
    def _place(self) -> tuple[str, str]:
        """Index and namespace."""
        if self.record.adopted:
            index, _, namespace = self.collection.partition("/")
            return index, namespace or DEFAULT
        shared = self.settings.options.get("index")
        return (str(shared), self.collection) if shared else (self.collection, NAMESPACE)

    def server_version(self) -> str:
        """There is one service; the client says which version of its API it speaks."""
        client = self._client
        import pinecone

        with client.translated():
            client.control.indexes.list().to_list()
        return f"client {pinecone.__version__}"

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """At most 45 of ``a-z0-9-``, with no hyphen at either end; the same for a namespace."""
        name = unique.replace("_", "-").strip("-")
        if name == unique.replace("_", "-") and len(name) <= NAME_LENGTH:
            return name
        mark = hashlib.sha256(unique.encode()).hexdigest()[:8]
        return f"{name[: NAME_LENGTH - 9].strip('-')}-{mark}"

    @classmethod
    def check_source(cls, source: Source) -> None:
        """Names that Pinecone keeps for itself are refused too."""
        super().check_source(source)
        taken = {VECTOR, *(key_field(place) for place in range(len(source.key)))}
        for column in (*source.key, *source.columns):
            if column.name in taken or re.match(r"[_$]", column.name) or len(column.name.encode()) > NAME_BYTES:
                raise PlanError(
                    f"column {column.name!r} can't be the name of a field in Pinecone",
                    hint=f"names there have at most {NAME_BYTES} bytes and begin with neither '_' nor '$': rename it, or leave it "
                    "out of columns",
                )

    @classmethod
    def describe_index(cls, space: Space, options: IndexOptions) -> str:  # noqa: ARG003
        """Nobody chooses its parameters."""
        return f"index of {space.tag} in Pinecone, which builds it by itself"

    def index_sql(self, options: IndexOptions) -> str:
        """There is no SQL."""
        return "not SQL: Pinecone builds its index by itself"

    # --- the collection

    def describe(self) -> CollectionInfo | None:
        """The index, and whether the namespace is in it."""
        try:
            opened = self._open(again=True)
        except PlaceMissing:
            return None
        return CollectionInfo(opened.dimensions, opened.metric)

    def _open(self, *, again: bool = False) -> Namespace:
        """How it is read and written; looked up once a process. Raises :class:`PlaceMissing`."""
        client, place = self._client, self._place
        found = None if again else client.opened.get(place)
        if found is None:
            client.opened.pop(place, None)
            found = client.opened[place] = self._look(client)
        return found

    def _look(self, client: Client) -> Namespace:
        index, namespace = self._place
        model = client.describe(index)
        if model is None or model.host is None or model.status.state == "Terminating":
            raise PlaceMissing(f"index {index!r} is not in {self.settings.name}")
        found = open_namespace(client.index(model.host), model, namespace)
        with client.translated():
            there = found.size() is not None
        if not there:
            raise PlaceMissing(f"namespace {namespace!r} is not in index {index!r} of {self.settings.name}")
        return found

    def create_collection(self) -> None:
        """The index, once one of the name that is being removed is gone; and the namespace."""
        index, namespace = self._place
        self._client.forget(index)
        from pinecone import ConflictError

        self._until(partial(self._index_is_ready, index), f"index {index!r} is still being made")
        model = self._client.describe(index)
        if model is None or model.host is None:
            raise OutcomeUnknown(f"index {index!r} was there and is gone")
        opened = open_namespace(self._client.index(model.host), model, namespace)
        if (opened.dimensions, opened.metric) != (self.space.dimensions, self.space.metric):
            raise VectorRefused(
                f"index {index!r} of {self.settings.name} holds {opened.dimensions} dimensions by {opened.metric}, "
                f"not {self.space.dimensions} by {self.space.metric}",
                hint="spaces of other dimensions or another metric need another index",
            )
        with self._client.reading(index), suppress(ConflictError):  # a conflict: it is there, or somebody else makes it
            opened.index.create_namespace(name=namespace)
        self._until(lambda: self.describe() is not None, f"namespace {namespace!r} is still being made")

    def _index_is_ready(self, index: str) -> bool:
        from pinecone import ConflictError

        model = self._client.describe(index)
        if model is None:
            # A conflict: somebody else is making it, or one of that name is not gone yet.
            with self._client.translated(), suppress(ConflictError):
                self._client.control.indexes.create(
                    name=index, timeout=-1, schema={"fields": {VECTOR: self._field()}}, deployment=self._deployment()
                )
            return False
        if model.status.state in ("InitializationFailed", "Disabled"):
            raise StoreUnsuitable(f"index {index!r} of {self.settings.name} is in the state {model.status.state!r}")
        return model.status.ready and model.status.state != "Terminating"

    def _deployment(self) -> dict[str, Any]:
        options = self.settings.options
        return {
            "deployment_type": "managed",
            "cloud": options.get("cloud", "aws"),
            "region": options.get("region", "us-east-1"),
        }

    def _field(self) -> dict[str, Any]:
        metric = next(theirs for theirs, ours in METRICS.items() if ours == self.space.metric)
        return {"type": "dense_vector", "dimension": self.space.dimensions, "metric": metric}

    def drop_collection(self) -> None:
        """The index; of a shared one the namespace. Returns when it is gone."""
        index, namespace = self._place
        if index == self.collection:
            self._delete_index(index)
            self._until(lambda: self._client.describe(index) is None, f"index {index!r} is still being removed")
            return
        self._client.forget(index)
        from pinecone import NotFoundError

        with suppress(PlaceMissing), self._client.reading(index), suppress(NotFoundError):
            self._open(again=True).index.delete_namespace(name=namespace)
        self._until(lambda: self.describe() is None, f"namespace {namespace!r} is still being removed")

    def _delete_index(self, index: str) -> None:
        self._client.forget(index)
        from pinecone import NotFoundError

        model = self._client.describe(index)
        if model is not None and model.status.state != "Terminating":
            with self._client.translated(), suppress(NotFoundError):
                self._client.control.indexes.delete(index, timeout=-1)

    # --- requests, and waiting until what was written is seen

    def _ask(self, call: Callable[[Namespace], T]) -> T:
        """To the index' own host; repeated while it may be."""

        def once() -> T:
            with self._client.reading(self._place[0]):
                return call(self._open())

        return self.attempt(once)

    def _tell(self, call: Callable[[Documents], T]) -> T:
        """The same, of an index that embedmig writes into."""

        def documents(opened: Namespace) -> T:
            if isinstance(opened, Documents):
                return call(opened)
            raise StoreUnsuitable(
                f"index {self._place[0]!r} of {self.settings.name} is one of Pinecone's vectors API: embedmig reads it and "
                "marks its points, and writes and removes none"
            )

        return self._ask(documents)

    def _until(self, seen: Callable[[], bool], doing: str) -> None:
        """Looks until it is so. Raises :class:`OutcomeUnknown` after ``timeout`` seconds of the configuration."""
        until, pause = self.patience.clock() + self.settings.timeout, LOOK_SECONDS[0]
        while not seen():
            if self.patience.clock() + pause > until:
                raise OutcomeUnknown(f"{self.settings.name}: {doing} after {self.settings.timeout:g} s")
            self.patience.sleep(pause)
            pause = min(pause * 2, LOOK_SECONDS[1])

    def _until_searched(self, written: int | None) -> None:
        """A write without a number can't be waited for, and so is no promise."""
        if written is None:
            raise StoreUnsuitable(
                f"{self.settings.name} does not say which number a write has (x-pinecone-request-lsn)",
                hint='pip install "embedmig[pinecone]" brings a client that reads it; a proxy has to let the header pass',
            )
        self._until(
            lambda: (self._ask(lambda opened: opened.reached()) or 0) >= written, f"write {written} is not searched"
        )

    def _until_seen(self, written: int | None, ids: Sequence[str], last: Trace | None, *, there: bool) -> None:
        """By searches; by fetches of all; by listings and counts as of the last one, since they see writes in their order."""
        self._until_searched(written)
        waiting = set(ids)

        def fetched() -> bool:
            for some in pages(sorted(waiting), FETCH_IDS):
                found = self._ask(lambda opened: opened.fields(some, [CHUNK])).keys()  # noqa: B023  called at once
                waiting.difference_update(found if there else set(some) - found)
            return not waiting

        def listed() -> bool:
            return (ids[-1] in self._ask(lambda opened: opened.ids(None, prefix=ids[-1]))[0]) is there

        def counted() -> bool:
            return last is None or (last[0] in self._tell(lambda own: own.matching(found_by(last[1])))[0]) is there

        state = "written is not" if there else "removed is still"
        self._until(fetched, f"what was {state} fetched")
        self._until(listed, f"what was {state} listed")
        self._until(counted, f"what was {state} counted")

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """Sent in as many requests as the limits make necessary, each repeated alone; then waited for."""
        self.attempt(self._open)
        documents = [document(point, self.space.tag) for point in points]
        written = [self._send(some) for some in requests(documents)]
        last = documents[-1]
        self._until_seen(written[-1], [one.id for one in documents], (last.id, last.body), there=True)

    def _send(self, documents: Sequence[Document]) -> int | None:
        """One request; in halves where the server finds it too large, whatever its limit is today."""
        bodies = [one.body for one in documents]
        try:
            return self._tell(lambda own: own.upsert(bodies))
        except PointTooLarge:
            if len(documents) == 1:
                raise
            half = len(documents) // 2
            self._send(documents[:half])
            return self._send(documents[half:])

    def remove(self, ids: Sequence[str]) -> None:
        """Waited for as writes are. What no fetch knows is removed too: it may be on its way."""
        written: int | None = None
        gone: Trace | None = None
        for some in pages(ids, FETCH_IDS):
            known = self._tell(lambda own: own.fields(some, [KEY, CHUNK, HASH]))  # noqa: B023  called at once
            written = self._tell(lambda own: own.delete(some))  # noqa: B023
            gone = next(iter(known.items()), gone)
        if ids:
            self._until_seen(written, ids, gone, there=False)

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """Ids by 100; where fields are asked for, each page of ids is fetched."""
        token: str | None = None
        found = 0
        while True:
            ids, token = self._ask(lambda opened: opened.ids(token))  # noqa: B023  called at once
            found += len(ids)
            if fields is None or fields:
                known = self._ask(lambda opened: opened.fields(ids, fields)) if ids else {}  # noqa: B023
                yield [Held(one, known[one]) for one in ids if one in known]
            else:
                yield [Held(one, {}) for one in ids]
            if token is None:
                break
        self._look_again_if_empty(found)

    def _look_again_if_empty(self, found: int) -> None:
        """A namespace that is not there is read as if it had no points. Raises :class:`PlaceMissing`."""
        if not found:
            self.attempt(lambda: self._open(again=True))

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """As many at once as an answer of about 2 MB holds."""
        size = max(1, min(FETCH_IDS, ANSWER_BYTES // (self.space.dimensions * 12)))
        found: dict[str, Sequence[float]] = {}
        for some in pages(ids, size):
            found |= self._ask(lambda opened: opened.vectors(some))  # noqa: B023  called at once
        self._look_again_if_empty(len(found))
        return found

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """At most 10,000, and approximate whatever is asked for: Pinecone has no exact search."""
        if any(isinstance(value, list | tuple | set) and not value for value in where.values()):
            return []
        wanted, most = condition(self.source, where), min(limit, TOP_K)
        found = self._ask(lambda opened: opened.search(vector, most, (KEY, CHUNK, HASH), wanted))
        self._look_again_if_empty(len(found) or len(where))  # a filter may well find none
        return [
            Near(
                one.id,
                tuple(one.fields.get(KEY, ())),
                int(one.fields.get(CHUNK, 0)),
                bytes.fromhex(one.fields.get(HASH, "")),
                distance(self.space.metric, one.score),
            )
            for one in found
        ]

    def total(self) -> int:
        """Of embedmig's own by a filter that all points match; of an adopted one by the index' statistics, which lag."""
        if self.record.adopted:
            return self._ask(lambda opened: opened.count())
        ours, token, total = {VERSION: {"$eq": self.space.tag}}, None, 0
        while True:
            ids, token = self._tell(lambda own: own.matching(ours, token))  # noqa: B023  called at once
            total += len(ids)
            if token is None:
                break
        self._look_again_if_empty(total)
        return total

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """Seen by every later search; a listing with fields may show the old ones for a moment."""
        self._patch({one: {name: encoded(value) for name, value in some.items()} for one, some in columns.items()})

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """100 points a request; by the vectors API one, of which it takes 100 a second."""
        self._patch({one: {VERSION: version} for one in ids})

    def _patch(self, patches: Mapping[str, Mapping[str, Any]]) -> None:
        """A request that is refused for the time being is repeated alone: what came before it is not sent again."""
        written: int | None = None
        for some in pages([(one, fields) for one, fields in patches.items() if fields], PATCHES):
            written = self._ask(lambda opened: opened.update(dict(some)))  # noqa: B023  called at once
        if written is not None:
            self._until_searched(written)

    def size_bytes(self) -> int | None:
        """About, as Pinecone counts; None before it has."""
        return self._ask(lambda opened: opened.size()) or None

    # --- index and alias

    def start_index(self, options: IndexOptions) -> None:
        """Pinecone has begun already."""
        self._open(again=True)

    def index_status(self) -> IndexStatus:
        """Every point that was acknowledged is in it: :meth:`put` has waited for that."""
        index, _ = self._place
        model = self._client.describe(index)
        if model is None:
            raise PlaceMissing(f"index {index!r} is not in {self.settings.name}")
        return IndexStatus("valid" if model.status.ready else "building", why=model.status.state)

    def alias_target(self, name: str) -> str | None:
        """Pinecone has no aliases."""
        return None

    def point_alias(self, name: str) -> None:
        """Nothing but a look whether the place is there: PostgreSQL alone says which space is shown."""
        self._open(again=True)

    def remove_alias(self, name: str) -> None:
        """There is none."""


def distance(metric: Metric, score: float) -> float:
    """As pgvector has it, of Pinecone's score: the cosine, the inner product, or the square of the distance."""
    if metric == "l2":
        return math.sqrt(max(score, 0.0))
    return -score if metric == "ip" else 1 - score
