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
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

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
from embedmig.stores.pinecone.client import Client, connect
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
LOOK_SECONDS = (0.02, 0.5)  # between two looks at whether a write is seen
PATCHES = 100  # updates a second that a namespace takes
VECTOR_BYTES = 2_000_000  # of one answer with vectors, about


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
        import pinecone

        with self._client.translated():
            self._client.control.indexes.list().to_list()
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
        for column in source.columns:
            if column.name in taken or re.match(r"[_$]", column.name) or len(column.name.encode()) > 64:
                raise PlanError(
                    f"columns: {column.name!r} can't be the name of a field in Pinecone",
                    hint="names there have at most 64 bytes and begin with neither '_' nor '$'; leave it out of columns",
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
        if again:
            client.opened.pop(place, None)
        if place not in client.opened:
            client.opened[place] = self._look(client)
        return client.opened[place]

    def _look(self, client: Client) -> Namespace:
        index, namespace = self._place
        model = client.describe(index)
        if model is None or model.host is None or model.status.state == "Terminating":
            raise PlaceMissing(f"index {index!r} is not in {self.settings.name}")
        found = open_namespace(client.index(model.host), model, namespace)
        if isinstance(found, Documents) and not self._has_namespace(found):
            raise PlaceMissing(f"namespace {namespace!r} is not in index {index!r} of {self.settings.name}")
        return found

    def _has_namespace(self, found: Documents) -> bool:
        from pinecone import NotFoundError

        with self._client.translated():
            try:
                found.index.describe_namespace(name=found.namespace)
            except NotFoundError:
                return False
        return True

    def create_collection(self) -> None:
        """The index, once one of the name that is being removed is gone; and the namespace."""
        from pinecone import ConflictError

        index, namespace = self._place
        self._client.forget(index)
        self._until(partial(self._index_is_ready, index), f"index {index!r} is being made")
        model = self._client.describe(index)
        if model is None or model.host is None:
            raise OutcomeUnknown(f"index {index!r} was made and is gone")
        opened = open_namespace(self._client.index(model.host), model, namespace)
        if (opened.dimensions, opened.metric) != (self.space.dimensions, self.space.metric):
            raise VectorRefused(
                f"index {index!r} of {self.settings.name} holds {opened.dimensions} dimensions by {opened.metric}, "
                f"not {self.space.dimensions} by {self.space.metric}",
                hint="spaces of other dimensions or another metric need another index",
            )
        if isinstance(opened, Documents) and not self._has_namespace(opened):
            with self._client.reading(index):
                try:
                    opened.index.create_namespace(name=namespace)
                except ConflictError:  # somebody else has made it
                    return

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
        from pinecone import NotFoundError

        index, namespace = self._place
        try:
            opened = self._open(again=True)
        except PlaceMissing:
            opened = None
        whole = index == self.collection
        with self._client.translated():
            try:
                if whole and self._client.describe(index) is not None:
                    self._client.control.indexes.delete(index, timeout=-1)
                elif isinstance(opened, Documents):
                    opened.index.delete_namespace(name=namespace)
            except NotFoundError:
                pass
        self._client.forget(index)
        self._until(partial(self._is_gone, index, whole=whole), f"{self.collection!r} is being removed")

    def _is_gone(self, index: str, *, whole: bool) -> bool:
        return self._client.describe(index) is None if whole else self.describe() is None

    # --- waiting

    def _until(self, seen: Callable[[], bool], doing: str) -> None:
        """Looks until it is so. Raises :class:`OutcomeUnknown` after ``timeout`` seconds of the configuration."""
        until, pause = self.patience.clock() + self.settings.timeout, LOOK_SECONDS[0]
        while not seen():
            if self.patience.clock() + pause > until:
                raise OutcomeUnknown(f"{self.settings.name}: {doing}, still after {self.settings.timeout:g} s")
            self.patience.sleep(pause)
            pause = min(pause * 2, LOOK_SECONDS[1])

    @contextmanager
    def _reading(self) -> Iterator[Namespace]:
        """Requests in the block; their errors are translated."""
        with self._client.reading(self._place[0]):
            yield self._open()

    def _own(self) -> Documents:
        opened = self._open()
        if not isinstance(opened, Documents):
            raise StoreUnsuitable(
                f"index {self._place[0]!r} of {self.settings.name} is one of Pinecone's vectors API: embedmig reads it and marks "
                "its points, and writes none",
            )
        return opened

    def _wait_until_searched(self, written: int | None) -> None:
        """A write without a number can't be waited for, and so is no promise."""
        if written is None:
            raise StoreUnsuitable(
                f"{self.settings.name} does not say which number a write has (x-pinecone-request-lsn)",
                hint='pip install "embedmig[pinecone]" brings a client that reads it; a proxy must let the header pass',
            )

        def reached() -> bool:
            with self._reading() as opened:
                return (opened.reached() or 0) >= written

        self._until(reached, f"write {written} is not in the index yet")

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """Sent in as many requests as the limits make necessary, each repeated alone; then waited for."""
        own = self._own()
        documents = [document(point, self.space.tag) for point in points]
        written: int | None = None
        for some in requests(documents):
            written = self._send(own, some)
        self._wait_until_searched(written)
        lacking = {one.id for one in documents}

        def fetched() -> bool:
            with self._reading() as opened:
                for some in pages(sorted(lacking), FETCH_IDS):
                    lacking.difference_update(opened.fields(some, [CHUNK]))
            return not lacking

        self._until(fetched, "what was written is not fetched yet")
        self._until(partial(self._listed, documents[-1].id, there=True), "what was written is not listed yet")
        last = documents[-1]
        self._until(partial(self._counted, last.id, last.body, there=True), "what was written is not counted yet")

    def _send(self, own: Documents, documents: Sequence[Document]) -> int | None:
        """One request; halves of it where the server finds it too large, whatever the limit is today."""
        try:
            return self.attempt(partial(self._upsert, own, documents))
        except _TooLarge as error:
            if len(documents) == 1:
                raise VectorRefused(f"{self.space.tag}: one point is larger than a request may be") from error
            half = len(documents) // 2
            self._send(own, documents[:half])
            return self._send(own, documents[half:])

    def _upsert(self, own: Documents, documents: Sequence[Document]) -> int | None:
        from pinecone import PayloadTooLargeError

        with self._client.reading(self._place[0]):
            try:
                return own.upsert([one.body for one in documents])
            except PayloadTooLargeError as error:
                raise _TooLarge from error

    def _listed(self, one: str, *, there: bool) -> bool:
        with self._reading() as opened:
            return (one in opened.ids(None, prefix=one)[0]) is there

    def _counted(self, one: str, fields: Mapping[str, Any], *, there: bool) -> bool:
        own = self._own()
        with self._client.reading(self._place[0]):
            return (one in own.matching(found_by(fields))[0]) is there

    def remove(self, ids: Sequence[str]) -> None:
        """Waited for as writes are. What no fetch knew is removed too: it may be on its way."""
        own = self._own()
        written: int | None = None
        gone: tuple[str, Mapping[str, Any]] | None = None
        for some in pages(ids, FETCH_IDS):
            with self._reading():
                known = own.fields(some, [KEY, CHUNK, HASH])
                written = self.attempt(partial(self._delete, own, some))
            gone = max(known.items(), default=gone, key=lambda item: item[0])
        if written is None:
            return
        self._wait_until_searched(written)
        self._until(partial(self._unfetched, list(ids)), "what was removed is fetched still")
        self._until(partial(self._listed, ids[-1], there=False), "what was removed is listed still")
        if gone:
            self._until(partial(self._counted, *gone, there=False), "what was removed is counted still")

    def _delete(self, own: Documents, ids: Sequence[str]) -> int | None:
        with self._client.reading(self._place[0]):
            return own.delete(ids)

    def _unfetched(self, ids: Sequence[str]) -> bool:
        with self._reading() as opened:
            return not any(opened.fields(some, [CHUNK]) for some in pages(ids, FETCH_IDS))

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """Ids by 100; where fields are asked for, each page of ids is fetched."""
        token: str | None = None
        found = False
        while True:
            ids, token = self.attempt(partial(self._list, token))
            found = found or bool(ids)
            if ids:
                yield self._with_fields(ids, fields)
            if token is None:
                break
        if not found:
            self._open(again=True)  # none, or no such place?

    def _list(self, token: str | None) -> tuple[list[str], str | None]:
        with self._reading() as opened:
            return opened.ids(token)

    def _with_fields(self, ids: Sequence[str], fields: Sequence[str] | None) -> list[Held]:
        if fields is not None and not fields:
            return [Held(one, {}) for one in ids]
        known = self.attempt(partial(self._fields, ids, fields))
        return [Held(one, known[one]) for one in ids if one in known]

    def _fields(self, ids: Sequence[str], fields: Sequence[str] | None) -> Mapping[str, Mapping[str, Any]]:
        with self._reading() as opened:
            return opened.fields(ids, fields)

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """As many at once as an answer of about 2 MB holds."""
        size = max(1, min(FETCH_IDS, VECTOR_BYTES // (self.space.dimensions * 12)))
        found: dict[str, Sequence[float]] = {}
        for some in pages(ids, size):
            with self._reading() as opened:
                found |= opened.vectors(some)
        if not found:
            self._open(again=True)
        return found

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """Approximate, whatever is asked for: Pinecone has no exact search. At most 10,000."""
        del exact
        if any(isinstance(value, list | tuple | set) and not value for value in where.values()):
            return []
        with self._reading() as opened:
            matches = opened.search(vector, min(limit, TOP_K), (KEY, CHUNK, HASH), condition(self.source, where))
            metric = opened.metric
        if not matches:
            self._open(again=True)
        return [
            Near(
                one.id,
                tuple(one.fields.get(KEY, ())),
                int(one.fields.get(CHUNK, 0)),
                bytes.fromhex(one.fields.get(HASH, "")),
                distance(metric, one.score),
            )
            for one in matches
        ]

    def total(self) -> int:
        """Of embedmig's own by a filter that all points match, a page at a time; of an adopted one by the index' statistics."""
        if self.record.adopted:
            with self._reading() as opened:
                return opened.count()
        own, token, total = self._own(), None, 0
        while True:
            ids, token = self.attempt(partial(self._matching, own, token))
            total += len(ids)
            if token is None:
                break
        if not total:
            self._open(again=True)
        return total

    def _matching(self, own: Documents, token: str | None) -> tuple[list[str], str | None]:
        with self._client.reading(self._place[0]):
            return own.matching({VERSION: {"$eq": self.space.tag}}, token)

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """Seen by every later search; a listing with fields may show the old ones for a moment."""
        self._patch({one: {name: encoded(value) for name, value in some.items()} for one, some in columns.items()})

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """100 points a request; one a request by the vectors API, which takes 100 a second."""
        self._patch({one: {VERSION: version} for one in ids})

    def _patch(self, patches: Mapping[str, Mapping[str, Any]]) -> None:
        """A request that is refused for the time being is repeated alone: what came before it is not sent again."""
        written: int | None = None
        for some in pages([(one, fields) for one, fields in patches.items() if fields], PATCHES):
            written = self.attempt(partial(self._update, dict(some)))
        if written is not None:
            self._wait_until_searched(written)

    def _update(self, patches: Mapping[str, Mapping[str, Any]]) -> int | None:
        with self._reading() as opened:
            return opened.update(patches)

    def size_bytes(self) -> int | None:
        """About; None before Pinecone has counted."""
        from pinecone import NotFoundError

        with self._reading() as opened:
            index: Any = opened
            try:
                return index.index.describe_namespace(name=self._place[1]).size_bytes or None
            except NotFoundError:
                return None

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


class _TooLarge(Exception):
    """A request was over the server's limit."""


def distance(metric: Metric, score: float) -> float:
    """As pgvector has it, of Pinecone's score: the cosine, the inner product, or the square of the distance."""
    if metric == "l2":
        return math.sqrt(max(score, 0.0))
    return -score if metric == "ip" else 1 - score
