"""A double of Pinecone's service, API 2026-07: control plane, documents API, and the vectors API as far as adoption reads it.

    python -m tests.doubles.pinecone FOLDER [PORT]

It proves what a client of the service does, not what the service does. Requests are validated by the client's own request
models, answers by its strict decoders when it reads them; what is outside of the surface is answered 501. It keeps a log of
all writes in FOLDER, which outlives it. What it has of the original:

- eventual consistency: a write has a number (LSN) and is seen later, by each kind of read at another time; searches alone say
  how far they are, fetches, listings and statistics don't (python-sdk #470, #539); deletes are asynchronous too (#199)
- limits, docs.pinecone.io/reference/api/database-limits: 2 MB and 1,000 documents a request, 40 KB of metadata, no null, no
  zero vector, ids of 512 ASCII characters, 100 ids a page, 10,000 matches, 100 requests a second and namespace, a number of indexes
- an index is being made, and being removed, for a while; its name is taken until it is gone
- the documents API refuses an index of the vectors API, and the other way round (docs.pinecone.io, "Adopt the Documents API")

``POST /__faults`` changes :class:`Faults`, ``DELETE /__faults`` takes that back, ``GET /__requests`` says what was asked.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import numpy as np
from pinecone import PineconeError
from pinecone._internal.adapters.indexes_adapter import IndexesAdapter
from pinecone._internal.validation import require_creatable_namespace_name, require_valid_resource_name
from pinecone.models.documents.requests import (
    DeleteDocumentsRequest,
    FetchDocumentsRequest,
    ListDocumentsRequest,
    SearchDocumentsRequest,
    UpdateDocumentsRequest,
    UpsertDocumentsRequest,
)
from pinecone.models.indexes.requests import CreateIndexRequest
from pinecone.models.indexes.schema import IndexSchema

KEY = "right-key"
LEGACY = "_values"
CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "QUOTA_EXCEEDED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    413: "PAYLOAD_TOO_LARGE", 429: "TOO_MANY_REQUESTS", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
}  # fmt: skip


@dataclass
class Faults:
    """Switches. Each says where the behaviour is from."""

    lag: dict[str, float] = field(
        default_factory=lambda: {"search": 0.05, "fetch": 0.03, "list": 0.04, "filter": 0.06, "stats": 0.1}
    )
    """Seconds until a kind of read sees a write: "fetch and search see a new write at different times" (client 10.2, ResponseInfo)."""
    making: float = 0.05
    removing: float = 0.05
    """Seconds in ``Initializing`` and ``Terminating``."""
    indexes: int = 20
    """A project's, by plan; one more is answered 403 QUOTA_EXCEEDED (database-limits/object-limits)."""
    request_bytes: int = 2 * 1024 * 1024
    """More is answered 413 (client 10.2, PayloadTooLargeError)."""
    rate: int = 100
    """Requests of one kind a second and namespace; more are answered 429 (database-limits)."""
    numbers: bool = True
    """Whether answers have LSN headers: client 10.0 and indexes on pods have none (client 10.2, ResponseInfo)."""
    failing: list[dict[str, Any]] = field(default_factory=list)
    """``path``: a pattern; ``times``; ``status``: what is answered, None cuts the connection; ``headers``; ``applied``: after the
    work was done.

    An unknown outcome is a cut connection, or a 5xx, with the work done or not.
    """


class Refused(Exception):
    """Answered with this status."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@dataclass
class View:
    """What one kind of read has taken in of a namespace's log."""

    at: int = 0
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)


class Namespace:
    """A log of writes, and what each kind of read has seen of it."""

    def __init__(self) -> None:
        self.log: list[tuple[float, dict[str, Any]]] = []
        self.views: dict[str, View] = defaultdict(View)

    def see(self, kind: str, lag: float) -> View:
        """As it looks to this kind of read now."""
        view = self.views[kind]
        while view.at < len(self.log) and self.log[view.at][0] + lag <= time.time():
            apply(self.log[view.at][1], view.documents)
            view.at += 1
        return view


def apply(change: Mapping[str, Any], documents: dict[str, dict[str, Any]]) -> None:
    """One write of the log."""
    for document in change.get("put", ()):
        documents[document["_id"]] = document
    for one in change.get("delete", ()):
        documents.pop(one, None)
    for patch in change.get("update", ()):
        if patch["_id"] in documents:
            kept = documents[patch["_id"]] | {name: value for name, value in patch.items() if name != "_remove_fields"}
            gone = patch.get("_remove_fields", ())
            documents[patch["_id"]] = {name: value for name, value in kept.items() if name not in gone}


@dataclass
class Index:
    """Its schema as it was asked for, and its namespaces. ``gone_at``: it is being removed."""

    name: str
    request: dict[str, Any]
    born: float
    gone_at: float | None = None
    namespaces: dict[str, Namespace] = field(default_factory=dict)

    @property
    def vector(self) -> tuple[str, dict[str, Any]]:
        return next(
            (name, one) for name, one in self.request["schema"]["fields"].items() if one["type"] == "dense_vector"
        )


class Service:
    """All of a project. Every method holds ``lock``."""

    def __init__(self, folder: Path) -> None:
        self.lock, self.faults, self.url = threading.RLock(), Faults(), ""
        self.indexes: dict[str, Index] = {}
        self.asked: list[dict[str, Any]] = []
        self.recent: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self.path = folder / "log.jsonl"
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                self.replay(json.loads(line))
        self.file = self.path.open("a")

    # --- the log

    def keep(self, entry: dict[str, Any]) -> None:
        """In the file, then in memory."""
        entry = {"at": time.time(), **entry}
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        self.replay(entry)

    def replay(self, entry: Mapping[str, Any]) -> None:
        """The state after an entry is the same when the log is read again."""
        name, at = entry["index"], entry["at"]
        match entry["what"]:
            case "create":
                self.indexes[name] = Index(name, entry["request"], at)
                if (
                    self.indexes[name].vector[0] == LEGACY
                ):  # there, unlike that of a document index (client 10.2, describe_namespace)
                    self.indexes[name].namespaces["__default__"] = Namespace()
            case "remove":
                self.indexes[name].gone_at = at
            case "gone":
                del self.indexes[name]
            case "namespace":
                self.indexes[name].namespaces.setdefault(entry["namespace"], Namespace())
            case "drop":
                self.indexes[name].namespaces.pop(entry["namespace"], None)
            case "write":
                self.indexes[name].namespaces.setdefault(entry["namespace"], Namespace()).log.append(
                    (at, entry["change"])
                )

    def write(self, index: Index, namespace: str, **change: Any) -> dict[str, str]:
        """Returns the header with the write's number."""
        self.keep({"what": "write", "index": index.name, "namespace": namespace, "change": change})
        return self.number("x-pinecone-request-lsn", len(index.namespaces[namespace].log))

    def number(self, header: str, lsn: int) -> dict[str, str]:
        return {header: str(lsn)} if self.faults.numbers else {}

    def see(self, index: Index, namespace: str, kind: str) -> View:
        """Empty where there is no such namespace."""
        found = index.namespaces.get(namespace)
        return found.see(kind, self.faults.lag[kind]) if found else View()

    # --- the control plane

    def alive(self) -> dict[str, Index]:
        """Without those that have gone meanwhile."""
        for one in list(self.indexes.values()):
            if one.gone_at and one.gone_at + self.faults.removing <= time.time():
                self.keep({"what": "gone", "index": one.name})
        return self.indexes

    def index(self, name: str) -> Index:
        found = self.alive().get(name)
        if found is None:
            raise Refused(404, f"Resource {name} not found")
        return found

    def model(self, one: Index) -> dict[str, Any]:
        """As the client's IndexModel."""
        state = (
            "Terminating"
            if one.gone_at
            else "Ready"
            if one.born + self.faults.making <= time.time()
            else "Initializing"
        )
        said = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1", "environment": "aped-0000"}
        return {
            "name": one.name, "schema": one.request["schema"], "deployment": said | one.request.get("deployment", {}),
            "host": f"{self.url}/i/{one.name}", "status": {"ready": state == "Ready", "state": state}, "deletion_protection": "disabled",
            "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}}, "tags": None,
        }  # fmt: skip

    def control(self, method: str, parts: Sequence[str], body: Any) -> tuple[int, Any]:
        match (method, parts):
            case ("GET", ["indexes"]):
                return 200, {"indexes": [self.model(one) for one in self.alive().values()]}
            case ("POST", ["indexes"]):
                return 201, self.create(body)
            case ("GET", ["indexes", name]):
                return 200, self.model(self.index(name))
            case ("DELETE", ["indexes", name]):
                if not self.index(name).gone_at:
                    self.keep({"what": "remove", "index": name})
                return 202, None
        raise Refused(501, f"{method} /{'/'.join(parts)} is not part of the double")

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        request = checked(body, CreateIndexRequest)
        require_valid_resource_name("name", request.name)
        if request.name in self.alive():
            raise Refused(409, f"Resource already exists: {request.name}")
        if len(self.indexes) >= self.faults.indexes:
            raise Refused(
                403, f"This project already contains {len(self.indexes)} serverless indexes, the maximum per project."
            )
        msgspec.convert(body["schema"], IndexSchema)
        for name, one in body["schema"]["fields"].items():
            if one["type"] != "dense_vector":
                raise Refused(501, f"fields of type {one['type']!r} are not part of the double")
            if not 1 <= one["dimension"] <= 20_000 or one["metric"] not in ("cosine", "euclidean", "dotproduct"):
                raise Refused(400, f"field {name!r}: dimension or metric is not valid")
        self.keep({"what": "create", "index": request.name, "request": body})
        answer = self.model(self.indexes[request.name])
        IndexesAdapter().to_index_model(msgspec.json.encode(answer))
        return answer

    # --- an index' own host

    def data(self, name: str, method: str, parts: Sequence[str], body: Any, size: int) -> tuple[Any, dict[str, str]]:
        index = self.alive().get(name)
        if index is None or index.gone_at:
            raise Refused(404, "")
        if self.model(index)["status"]["state"] != "Ready":
            raise Refused(503, "the index is not ready")
        legacy = index.vector[0] == LEGACY
        match (method, parts):
            case ("POST", ["namespaces", namespace, "documents", what]) if what in DOCUMENTS:
                if legacy:
                    raise Refused(400, "the documents API does not serve this index")
                self.throttle(index, namespace, what)
                if size > self.faults.request_bytes:
                    raise Refused(413, f"Request size {size} exceeds the maximum supported size")
                return DOCUMENTS[what](self, index, namespace, body)
            case (("POST" | "GET"), ["query"] | ["vectors", _]) if (method, parts[-1]) in VECTORS:
                if not legacy:
                    raise Refused(400, "the vectors API does not serve this index")
                namespace = body.get("namespace") or "__default__"
                self.throttle(index, namespace, parts[-1])
                return VECTORS[(method, parts[-1])](self, index, namespace, body)
            case ("POST", ["namespaces"]):
                require_creatable_namespace_name("name", body["name"])
                if body["name"] in index.namespaces:
                    raise Refused(409, f"Namespace {body['name']} already exists")
                self.keep({"what": "namespace", "index": name, "namespace": body["name"]})
                return {"name": body["name"], "record_count": 0}, {}
            case (("GET" | "DELETE"), ["namespaces", namespace]):
                if namespace not in index.namespaces:
                    raise Refused(404, f"Namespace {namespace} not found")
                if method == "DELETE":
                    self.keep({"what": "drop", "index": name, "namespace": namespace})
                    return {}, {}
                count = len(self.see(index, namespace, "stats").documents)
                return {"name": namespace, "record_count": count, "size_bytes": count * 1024}, {}
            case ("POST", ["describe_index_stats"]):
                counts = {
                    one: {"vectorCount": len(self.see(index, one, "stats").documents)} for one in index.namespaces
                }
                total = sum(one["vectorCount"] for one in counts.values())
                return {"namespaces": counts, "indexFullness": 0.0, "totalVectorCount": total}, {}
        raise Refused(501, f"{method} /{'/'.join(parts)} is not part of the double")

    def throttle(self, index: Index, namespace: str, what: str) -> None:
        recent = self.recent[index.name, namespace, what]
        recent[:] = [at for at in recent if at > time.monotonic() - 1]
        if len(recent) >= self.faults.rate:
            raise Refused(429, f"You've reached the max {what} requests per second for namespace {namespace}")
        recent.append(time.monotonic())

    # --- the documents API

    def upsert(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        documents: list[dict[str, Any]] = checked(body, UpsertDocumentsRequest).documents
        if len({one["_id"] for one in documents}) < len(documents):
            raise Refused(400, "document ids must be unique within a request")
        for one in documents:
            check_document(index, one)
        return {"upserted_count": len(documents)}, self.write(index, namespace, put=documents)

    def delete(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        request = checked(body, DeleteDocumentsRequest)
        if not request.ids:
            raise Refused(501, "deleting by filter is not part of the double")
        return {}, self.write(index, namespace, delete=request.ids)

    def update(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        request = checked(body, UpdateDocumentsRequest)
        if not request.documents:
            raise Refused(501, "updating by filter is not part of the double")
        for one in request.documents:
            check_fields(one, index.vector[0])
        return {}, self.write(index, namespace, update=request.documents)

    def fetch(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        request = checked(body, FetchDocumentsRequest)
        if request.ids:
            documents = self.see(index, namespace, "fetch").documents
            page, following = [one for one in request.ids if one in documents], None
        else:
            documents = self.see(index, namespace, "filter").documents
            found = sorted(one for one, document in documents.items() if matches(request.filter, document))
            page, following = cut(found, request.pagination_token, request.limit or 100)
        answer = {one: shown(documents[one], request.include_fields or ["*"]) for one in page}
        return {
            "documents": answer,
            "namespace": namespace,
            "usage": {"read_units": 1},
            **following_page(following),
        }, {}

    def list(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        request = checked(body, ListDocumentsRequest)
        ids = sorted(
            one for one in self.see(index, namespace, "list").documents if one.startswith(request.prefix or "")
        )
        page, following = cut(ids, request.pagination_token, request.limit or 100)
        documents = [{"_id": one} for one in page]
        return {
            "documents": documents,
            "namespace": namespace,
            "usage": {"read_units": 1},
            **following_page(following),
        }, {}

    def search(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        request = checked(body, SearchDocumentsRequest)
        clause = request.score_by[0]
        if getattr(clause, "field", None) != index.vector[0]:
            raise Refused(400, f"there is no dense vector field {getattr(clause, 'field', None)!r}")
        view = self.see(index, namespace, "search")
        found = [
            shown(document, request.include_fields or []) | {"_score": score}
            for score, document in nearest(index, view, clause.values, request.top_k, request.filter)
        ]
        headers = self.number("x-pinecone-max-indexed-lsn", view.at)
        return {"matches": found, "namespace": namespace, "usage": {"read_units": 1}}, headers

    # --- the vectors API

    def legacy_upsert(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        documents = [{"_id": one["id"], LEGACY: one["values"], **one.get("metadata", {})} for one in body["vectors"]]
        for one in documents:
            check_document(index, one)
        return {"upsertedCount": len(documents)}, self.write(index, namespace, put=documents)

    def legacy_update(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        if set(body) - {"id", "setMetadata", "namespace"}:
            raise Refused(501, "of updates, setMetadata by id is part of the double")
        patch = {"_id": body["id"], **body["setMetadata"]}
        check_fields(patch, LEGACY)
        return {}, self.write(index, namespace, update=[patch])

    def legacy_fetch(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        documents = self.see(index, namespace, "fetch").documents
        ids = [body["ids"]] if isinstance(body["ids"], str) else body["ids"]
        return {
            "vectors": {one: as_vector(documents[one]) for one in ids if one in documents},
            "namespace": namespace,
        }, {}

    def legacy_list(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        ids = sorted(
            one for one in self.see(index, namespace, "list").documents if one.startswith(body.get("prefix", ""))
        )
        page, following = cut(ids, body.get("paginationToken"), int(body.get("limit", 100)))
        return {"vectors": [{"id": one} for one in page], "namespace": namespace, **following_page(following)}, {}

    def legacy_query(self, index: Index, namespace: str, body: Any) -> tuple[Any, dict[str, str]]:
        view = self.see(index, namespace, "search")
        found = [
            {"score": score, **as_vector(document, metadata=body["includeMetadata"], values=body["includeValues"])}
            for score, document in nearest(index, view, body["vector"], body["topK"], body.get("filter"))
        ]
        return {"matches": found, "namespace": namespace}, self.number("x-pinecone-max-indexed-lsn", view.at)


Route = Callable[[Service, Index, str, Any], tuple[Any, dict[str, str]]]
DOCUMENTS: dict[str, Route] = {
    "upsert": Service.upsert, "delete": Service.delete, "update": Service.update, "fetch": Service.fetch, "list": Service.list,
    "search": Service.search,
}  # fmt: skip
VECTORS: dict[tuple[str, str], Route] = {
    ("POST", "upsert"): Service.legacy_upsert, ("POST", "update"): Service.legacy_update, ("GET", "fetch"): Service.legacy_fetch,
    ("GET", "list"): Service.legacy_list, ("POST", "query"): Service.legacy_query,
}  # fmt: skip


def checked(body: Mapping[str, Any], kind: type[Any]) -> Any:
    """By the client's own model of the request, which refuses what it does not know."""
    if unknown := set(body) - set(kind.__struct_fields__):
        raise Refused(400, f"unknown field {min(unknown)!r}")
    return kind(**body)


def check_document(index: Index, document: Mapping[str, Any]) -> None:
    """What is refused of a whole document."""
    name, wanted = index.vector
    vector = document.get(name)
    if vector is None or len(vector) != wanted["dimension"]:
        raise Refused(
            400, f"Vector dimension {len(vector or ())} does not match the dimension of the index {wanted['dimension']}"
        )
    if not all(isinstance(one, int | float) for one in vector) or not any(vector):
        raise Refused(400, "Dense vectors must contain numbers, and at least one non-zero value.")
    check_fields(document, name)


def check_fields(document: Mapping[str, Any], vector: str) -> None:
    """Metadata: its types, names and size."""
    fields = {name: value for name, value in document.items() if name not in ("_id", "_remove_fields", vector)}
    for name, value in fields.items():
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not texts and not isinstance(value, str | bool | int | float):
            raise Refused(
                400,
                f"Metadata value must be a string, number, boolean or list of strings, got {value!r} for field {name!r}",
            )
        if name.startswith(("_", "$")) or len(name.encode()) > 64:
            raise Refused(400, f"{name!r} is no name for a field")
    if len(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()) > 40_960:
        raise Refused(400, "Metadata size exceeds the limit of 40960 bytes per vector")


def matches(wanted: Mapping[str, Any] | None, document: Mapping[str, Any]) -> bool:
    """Equality, sets, presence, and, or; a list has what one of its texts has."""
    return all(one_matches(name, value, document) for name, value in (wanted or {}).items())


def one_matches(name: str, value: Any, document: Mapping[str, Any]) -> bool:
    if name == "$and":
        return all(matches(one, document) for one in value)
    if name == "$or":
        return any(matches(one, document) for one in value)
    have = document.get(name)
    values = have if isinstance(have, list) else [] if have is None else [have]
    match value:
        case {"$eq": wanted}:
            return any(same(one, wanted) for one in values)
        case {"$in": wanted}:
            return any(same(one, other) for one in values for other in wanted)
        case {"$exists": bool(wanted)}:
            return (name in document) is wanted
    raise Refused(501, f"the filter {value!r} is not part of the double")


def same(one: Any, other: Any) -> bool:
    """A truth value is no number."""
    return bool(one == other and isinstance(one, bool) is isinstance(other, bool))


def nearest(
    index: Index, view: View, asked: Sequence[float], limit: int, wanted: Any
) -> Iterator[tuple[float, dict[str, Any]]]:
    """By comparing each: score and document."""
    name, kind = index.vector
    if len(asked) != kind["dimension"]:
        raise Refused(
            400, f"Vector dimension {len(asked)} does not match the dimension of the index {kind['dimension']}"
        )
    if not any(asked):
        raise Refused(400, "Dense vectors must contain at least one non-zero value.")
    documents = [one for one in view.documents.values() if matches(wanted, one)]
    if not documents:
        return
    vectors, vector = np.array([one[name] for one in documents], np.float32), np.array(asked, np.float32)
    if kind["metric"] == "euclidean":
        scores = ((vectors - vector) ** 2).sum(1)
    else:
        scores = vectors @ vector
        if kind["metric"] == "cosine":
            scores = scores / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    order = np.argsort(scores if kind["metric"] == "euclidean" else -scores, kind="stable")
    for place in order[:limit]:
        yield float(scores[place]), documents[place]


def shown(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name == "_id" or "*" in fields or name in fields}


def as_vector(document: Mapping[str, Any], *, metadata: bool = True, values: bool = True) -> dict[str, Any]:
    """As the vectors API has a point."""
    fields = {name: value for name, value in document.items() if name not in ("_id", LEGACY)}
    answer: dict[str, Any] = {"id": document["_id"], "values": document[LEGACY] if values else []}
    return answer | ({"metadata": fields} if metadata else {})


def cut(ids: list[str], token: str | None, limit: int) -> tuple[list[str], str | None]:
    """A page, and the token of the next."""
    rest = [one for one in ids if token is None or one > token]
    return rest[:limit], rest[limit - 1] if len(rest) > limit else None


def following_page(token: str | None) -> dict[str, Any]:
    return {} if token is None else {"pagination": {"next": token}}


class Handler(BaseHTTPRequestHandler):
    """JSON in and out; a connection is kept."""

    protocol_version = "HTTP/1.1"
    service: Service

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is printed."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.service.lock:
            try:
                status, said, headers = self.route(raw)
            except Refused as error:
                status, headers = error.status, {}
                said = {"error": {"code": CODES[status], "message": str(error)}, "status": status}
            except (ValueError, TypeError, msgspec.MsgspecError, PineconeError) as error:  # by a model of the client
                status, said, headers = 400, {"error": {"code": CODES[400], "message": str(error)}, "status": 400}, {}
        if status:
            self.send(status, said, headers)
        else:
            self.close_connection = True

    def route(self, raw: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(self.path)
        parts = [unquote(one) for one in url.path.strip("/").split("/")]
        query = {name: found[0] if len(found) == 1 else found for name, found in parse_qs(url.query).items()}
        body = json.loads(raw) if raw else query
        if parts[0].startswith("__"):
            return self.administer(parts[0], body)
        self.service.asked.append({"method": self.command, "path": url.path, "bytes": len(raw)})
        if self.headers.get("Api-Key") != KEY:
            raise Refused(
                401, f"Invalid API Key {self.headers.get('Api-Key')}"
            )  # as a proxy might: it must not be printed
        failing = self.failing(url.path)
        if failing and not failing.get("applied"):
            return failed(failing)
        if parts[0] == "i":
            said, headers = self.service.data(parts[1], self.command, parts[2:], body, len(raw))
            status = 200
        else:
            (status, said), headers = self.service.control(self.command, parts, body), {}
        return failed(failing) if failing else (status, said, headers)

    def failing(self, path: str) -> dict[str, Any] | None:
        """The fault that this request meets; it is one less of its kind."""
        for one in self.service.faults.failing:
            if one["times"] > 0 and re.search(one["path"], path):
                one["times"] -= 1
                return one
        return None

    def administer(self, what: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        service = self.service
        if what == "__requests":
            asked, service.asked = service.asked, []
            return 200, asked, {}
        if self.command == "DELETE":
            service.faults = Faults()
            service.recent.clear()
        else:
            body["lag"] = service.faults.lag | body.get("lag", {})
            for name, value in body.items():
                setattr(service.faults, name, value)
        return 200, {}, {}

    def send(self, status: int, said: Any, headers: Mapping[str, str]) -> None:
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815


def failed(fault: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
    status = fault.get("status") or 0
    said = {"error": {"code": CODES.get(status, "INTERNAL"), "message": "a fault of the double's"}}
    return status, said, dict(fault.get("headers", {}))


def main(folder: str, port: str = "0") -> None:
    """Says its port when it is there."""
    Handler.service = Service(Path(folder))
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    Handler.service.url = f"http://127.0.0.1:{server.server_port}"
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
