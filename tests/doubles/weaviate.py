"""A double of a Weaviate server: REST and gRPC on loopback, as much as embedmig's store asks of one. No other claim is made.

gRPC's messages and the servicer are the official client's own generated ones, and a collection's definition must be one that
the client reads. Whatever is outside of the surface answers 501 (UNIMPLEMENTED in gRPC). State is in one SQLite file, so that
the process can be killed and started again. Searches compare every vector. Not imitated: replicas, tenants, modules, the
HNSW graph, tokenization other than ``field``.

As the server: names are capitalised; writing to a collection that is not there makes one (#5973, AUTOSCHEMA_ENABLED is on by
default); a delete through an alias answers 200 and does nothing; a delete stops at ``delete_cap`` (#1915, #13104); a cursor and
a filter exclude each other (#5070); most errors of gRPC are UNKNOWN.

    python -m tests.doubles.weaviate FOLDER HTTP-PORT GRPC-PORT      # prints both ports when it listens

``POST /__faults`` sets :class:`Faults` (all others go back to none) and forgets what was counted; ``GET /__asked`` counts requests.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
from google.protobuf import json_format
from weaviate.collections.classes.config_methods import _collection_config_from_json
from weaviate.proto.v1.v6300.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

VERSION = "1.39.0"
RESULTS_MOST = 10_000  # QUERY_MAXIMUM_RESULTS
CLASS_NAME, PROPERTY_NAME = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}"), re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,230}")
RESERVED = ("id", "_id", "_additional")
UNNAMED = ""  # the vector of a collection that has no named ones
TABLES = """
    create table if not exists classes (name text primary key, config text not null);
    create table if not exists aliases (name text primary key, class text not null);
    create table if not exists objects (class text, id text, properties text, vectors text, primary key (class, id));
"""


@dataclass
class Faults:
    """Numbers are how often, unless it says otherwise.

    ``unavailable``   gRPC says UNAVAILABLE, as in maintenance mode, or as a proxy does (client #1030)
    ``exhausted_over``  more objects than this in one batch: RESOURCE_EXHAUSTED, as the server does when its memory is short
    ``read_only``     of a batch, this many objects are not taken, and only the answer's ``errors`` say so (#1932); ``read_only_times`` batches
    ``unanswered``    a batch is written, and its answer never comes (client #1030)
    ``delete_cap``    objects that one delete removes (#1915, #13104)
    ``early_ready``   the next look at a collection's nodes says READY with an empty queue, and then so many looks say INDEXING (client #1412)
    ``uncounted``     objects that the nodes have not counted yet, at so many looks: ``uncounted_times`` (client PR 2086)
    ``full``          nodes say READONLY (#1932)
    ``rest_status``   the next request by REST whose path has ``rest_path`` in it gets this status; ``rest_times`` of them
    ``key``           the API key that is asked for
    """

    unavailable: int = 0
    exhausted_over: int = 0
    read_only: int = 0
    read_only_times: int = 0
    unanswered: int = 0
    delete_cap: int = RESULTS_MOST
    early_ready: int = 0
    uncounted: int = 0
    uncounted_times: int = 0
    full: bool = False
    rest_status: int = 0
    rest_path: str = ""
    rest_times: int = 1
    key: str = ""


class RefusedError(Exception):
    """With REST's status; gRPC knows no better than UNKNOWN."""

    def __init__(self, status: int, words: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(words)
        self.status, self.code = status, code


def capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]


# --- state --------------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    properties: dict[str, Any]
    vectors: dict[str, Any]


@dataclass
class Collection:
    config: dict[str, Any]
    objects: dict[str, Stored] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        return {one["name"]: one["dataType"][0] for one in self.config.get("properties") or []}

    @property
    def vectors(self) -> dict[str, dict[str, Any]]:
        return {name: one["vectorIndexConfig"] for name, one in (self.config.get("vectorConfig") or {}).items()} or {
            UNNAMED: self.config.get("vectorIndexConfig") or {"distance": "cosine"}
        }

    def dimensions(self, vector: str) -> int | None:
        return next((len(one.vectors[vector]) for one in self.objects.values() if vector in one.vectors), None)


class State:
    """In memory, and in a file before an answer is given. One lock for all."""

    def __init__(self, path: Path) -> None:
        self.lock, self.faults, self.asked = threading.RLock(), Faults(), Counter[str]()
        self.looks: Counter[str] = Counter()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.executescript("pragma journal_mode = wal; pragma synchronous = off;" + TABLES)
        self.collections = {name: Collection(json.loads(config)) for name, config in self.db.execute("select * from classes")}  # fmt: skip
        self.aliases: dict[str, str] = dict(self.db.execute("select * from aliases"))
        for name, one, properties, vectors in self.db.execute("select * from objects"):
            held = {vector: np.array(values, np.float32) for vector, values in json.loads(vectors).items()}
            self.collections[name].objects[one] = Stored(json.loads(properties), held)

    def find(self, name: str, *, alias: bool = True) -> Collection:
        name = capitalized(name)
        found = self.collections.get(self.aliases.get(name, name) if alias else name)
        if found is None:
            raise RefusedError(404, f"could not find class {name} in schema")
        return found

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            self.db.execute("begin")
            try:
                yield self.db
                self.db.execute("commit")
            except BaseException:
                self.db.execute("rollback")
                raise

    def put(self, name: str, objects: Mapping[str, Stored]) -> None:
        rows = [
            (name, one, json.dumps(held.properties), json.dumps({key: value.tolist() for key, value in held.vectors.items()}))
            for one, held in objects.items()
        ]  # fmt: skip
        with self.write() as db:
            db.executemany("insert or replace into objects values (?, ?, ?, ?)", rows)
            self.collections[name].objects.update(objects)

    def remove(self, name: str, ids: Iterable[str]) -> None:
        with self.write() as db:
            db.executemany("delete from objects where class = ? and id = ?", [(name, one) for one in ids])
            for one in ids:
                self.collections[name].objects.pop(one, None)

    def define(self, name: str, config: dict[str, Any]) -> None:
        try:
            _collection_config_from_json(json.loads(json.dumps(config)))
        except (KeyError, ValueError, TypeError, AssertionError) as error:
            raise RefusedError(501, f"a definition that the client itself can't read: {error!r}") from error
        with self.write() as db:
            db.execute("insert or replace into classes values (?, ?)", (name, json.dumps(config)))
            self.collections.setdefault(name, Collection(config)).config = config


# --- definitions --------------------------------------------------------------------------------------------------

GRAPH = {
    "skip": False, "cleanupIntervalSeconds": 300, "maxConnections": 32, "efConstruction": 128, "ef": -1, "dynamicEfMin": 100,
    "dynamicEfMax": 500, "dynamicEfFactor": 8, "vectorCacheMaxObjects": 10**12, "flatSearchCutoff": 40_000, "distance": "cosine",
    "filterStrategy": "acorn",
}  # fmt: skip
NAMED = {"vectorizer": {"none": {}}, "vectorIndexType": "hnsw", "vectorIndexConfig": GRAPH}
INVERTED = {
    "bm25": {"b": 0.75, "k1": 1.2},
    "cleanupIntervalSeconds": 60,
    "stopwords": {"preset": "en", "additions": None, "removals": None},
}
REPLICATION = {"factor": 1, "asyncEnabled": False, "deletionStrategy": "TimeBasedResolution"}
SHARDING = {
    "virtualPerPhysical": 128, "desiredCount": 1, "actualCount": 1, "desiredVirtualCount": 128, "actualVirtualCount": 128, "key": "_id",
    "strategy": "hash", "function": "murmur3",
}  # fmt: skip


def filled(defaults: Mapping[str, Any], asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was asked for, over the defaults, at every depth."""
    said = {name: value for name, value in (asked or {}).items() if value is not None}
    deeper = {
        name: filled(defaults[name], value) for name, value in said.items() if isinstance(defaults.get(name), dict)
    }
    return {**defaults, **said, **deeper}


def with_defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A server answers with everything filled in, and the client reads it."""
    config = dict(asked) | {"class": capitalized(asked["class"]), "shardingConfig": SHARDING}
    config["invertedIndexConfig"] = filled(INVERTED, asked.get("invertedIndexConfig"))
    config["replicationConfig"] = filled(REPLICATION, asked.get("replicationConfig"))
    config["properties"] = [property_with_defaults(one) for one in asked.get("properties") or []]
    if asked.get("vectorConfig"):
        config["vectorConfig"] = {name: filled(NAMED, one) for name, one in asked["vectorConfig"].items()}
        return config
    return filled({"vectorizer": "none", "vectorIndexType": "hnsw", "vectorIndexConfig": GRAPH}, config)


def property_with_defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    text = asked["dataType"][0].startswith("text")
    full = filled(
        {"indexFilterable": True, "indexSearchable": text, "indexRangeFilters": False, "description": ""}, asked
    )
    return full | ({"tokenization": full.get("tokenization", "word")} if text else {})


def check_properties(properties: Iterable[Mapping[str, Any]]) -> None:
    """Names that differ in case alone are one, and their first letter becomes small."""
    seen: set[str] = set()
    for one in properties:
        name = one["name"]
        if not PROPERTY_NAME.fullmatch(name) or name in RESERVED:
            raise RefusedError(422, f"{name!r} is not a valid property name")
        if name[0].isupper():
            raise RefusedError(
                501, f"{name!r}: the server would make its first letter small, which no store should count on"
            )
        if name.lower() in seen:
            raise RefusedError(422, f"conflict for property {name!r}: already in use or provided multiple times")
        seen.add(name.lower())


def guessed(value: Any) -> str:
    if isinstance(value, list):
        return (guessed(value[0]) if value else "text") + "[]"
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"


# --- REST ---------------------------------------------------------------------------------------------------------


class Rest:
    """Answers by method and path: a status and a body."""

    def __init__(self, state: State) -> None:
        self.state = state

    def answer(self, method: str, path: str, body: Any, key: str) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        state = self.state
        with state.lock:
            if parts[0] == "__faults":
                state.faults, state.asked, state.looks = Faults(**body), Counter(), Counter()
                return 200, asdict(state.faults)
            if parts[0] == "__asked":
                return 200, state.asked
            state.asked[f"{method} /{'/'.join(parts[1:2])}"] += 1
            self._fail(path, key)
            return self._route(method, parts[1:], body) if parts[0] == "v1" else self._outside(method, path)

    def _fail(self, path: str, key: str) -> None:
        faults = self.state.faults
        if faults.key and key != f"Bearer {faults.key}" and "well-known" not in path:
            raise RefusedError(401, "anonymous access not enabled, or invalid api key")
        if faults.rest_status and faults.rest_times and faults.rest_path in path:
            faults.rest_times -= 1
            raise RefusedError(faults.rest_status, "as the test asked for")

    @staticmethod
    def _outside(method: str, path: str) -> tuple[int, Any]:
        raise RefusedError(501, f"{method} {path} is not part of the double")

    def _route(self, method: str, parts: list[str], body: Any) -> tuple[int, Any]:
        match method, parts:
            case "GET", ["meta"]:
                return 200, {"hostname": "http://[::]:8080", "modules": {}, "version": VERSION, "grpcMaxMessageSize": 104_858_000}  # fmt: skip
            case "GET", [".well-known", "openid-configuration"]:
                raise RefusedError(404, "")
            case "POST", ["schema"]:
                return 200, self._create(body)
            case "GET", ["schema", name]:
                return 200, self.state.find(name).config
            case "DELETE", ["schema", name]:
                return self._drop(name)
            case "POST", ["schema", name, "properties"]:
                return 200, self._add_property(name, body)
            case "GET", ["nodes", name]:
                return 200, self._nodes(self.state.find(name))
            case "PATCH", ["objects", name, one]:
                return self._merge(name, one, body)
            case _, ["aliases", *_]:
                return self._alias(method, parts[1:], body)
        return self._outside(method, "/".join(parts))

    def _create(self, body: Any) -> dict[str, Any]:
        config, state = with_defaults(body), self.state
        name = config["class"]
        if not CLASS_NAME.fullmatch(name):
            raise RefusedError(422, f"{name!r} is not a valid class name")
        if name.lower() in (taken.lower() for taken in (*state.collections, *state.aliases)):
            raise RefusedError(422, f"class name {name} already exists")
        check_properties(config["properties"])
        state.define(name, config)
        return config

    def _drop(self, name: str) -> tuple[int, Any]:
        name, state = capitalized(name), self.state
        if name in state.collections:  # not through an alias, and 200 all the same
            with state.write() as db:
                db.execute("delete from classes where name = ?", (name,))
                db.execute("delete from objects where class = ?", (name,))
                db.execute("delete from aliases where class = ?", (name,))
                del state.collections[name]
                state.aliases = {alias: target for alias, target in state.aliases.items() if target != name}
        return 200, None

    def _add_property(self, name: str, body: Any) -> dict[str, Any]:
        found, added = self.state.find(name), property_with_defaults(body)
        properties = [*found.config["properties"], added]
        check_properties(properties)
        self.state.define(found.config["class"], found.config | {"properties": properties})
        return added

    def _nodes(self, found: Collection) -> dict[str, Any]:
        name, count, faults = found.config["class"], len(found.objects), self.state.faults
        self.state.looks[name] += 1
        look = self.state.looks[name]
        indexing = 1 < look <= 1 + faults.early_ready
        seen = max(0, count - (faults.uncounted if look <= faults.uncounted_times else 0))
        shard = {
            "name": "shard1", "class": name, "objectCount": seen, "compressed": False, "loaded": True,
            "vectorIndexingStatus": "READONLY" if faults.full else "INDEXING" if indexing else "READY",
            "vectorQueueLength": count if indexing else 0,
        }  # fmt: skip
        stats = {"objectCount": seen, "shardCount": 1}
        node = {
            "name": "node1",
            "status": "HEALTHY",
            "version": VERSION,
            "gitHash": "",
            "stats": stats,
            "shards": [shard],
        }
        return {"nodes": [node]}

    def _merge(self, name: str, one: str, body: Any) -> tuple[int, Any]:
        found = self.state.find(name)
        if one not in found.objects:
            raise RefusedError(404, "")
        unknown = set(body["properties"]) - set(found.types)
        if unknown or set(body) - {"class", "properties"}:
            raise RefusedError(501, f"PATCH of {unknown or set(body)} is not part of the double")
        held = found.objects[one]
        merged = {key: value for key, value in (held.properties | body["properties"]).items() if value is not None}
        self.state.put(found.config["class"], {one: Stored(merged, held.vectors)})
        return 204, None

    def _alias(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        aliases = self.state.aliases
        if method == "POST" and not rest:
            alias, target = capitalized(body["alias"]), self._target(body)
            if alias in aliases or alias in self.state.collections or not CLASS_NAME.fullmatch(alias):
                raise RefusedError(422, f"create alias: {alias} is taken, or not a valid name")
        elif len(rest) != 1 or method not in ("GET", "PUT", "DELETE"):
            return self._outside(method, "aliases")
        else:
            alias = capitalized(rest[0])
            if alias not in aliases:
                raise RefusedError(404, f"alias {alias} not found")
            if method == "GET":
                return 200, {"alias": alias, "class": aliases[alias]}
            target = self._target(body) if method == "PUT" else ""
        with self.state.write() as db:
            db.execute("delete from aliases where name = ?", (alias,))
            if method == "DELETE":
                del aliases[alias]
                return 204, None
            db.execute("insert into aliases values (?, ?)", (alias, target))
            aliases[alias] = target
        return 200, {"alias": alias, "class": target}

    def _target(self, body: Any) -> str:
        target = capitalized(body["class"])
        if target not in self.state.collections:
            raise RefusedError(422, f"class {target} does not exist")
        return target


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rest: Rest

    def log_message(self, *_: Any) -> None:
        pass

    def _do(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            path = urlsplit(self.path).path
            status, answer = self.rest.answer(self.command, path, json.loads(raw) if raw else None, self.headers.get("authorization", ""))  # fmt: skip
        except RefusedError as error:
            status, answer = error.status, {"error": [{"message": str(error)}]}
        data = b"" if status == 204 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815  http.server looks for these


# --- gRPC ---------------------------------------------------------------------------------------------------------


class Rpc(weaviate_pb2_grpc.WeaviateServicer):
    """Methods that are not here are UNIMPLEMENTED: the generated servicer says so."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _answer(self, context: Any, name: str, work: Callable[[], Any]) -> Any:
        state = self.state
        with state.lock:
            state.asked[name] += 1
            try:
                if (
                    state.faults.key
                    and ("authorization", f"Bearer {state.faults.key}") not in context.invocation_metadata()
                ):
                    raise RefusedError(401, "invalid api key", grpc.StatusCode.UNAUTHENTICATED)
                if state.faults.unavailable:
                    state.faults.unavailable -= 1
                    raise RefusedError(503, "server is in maintenance mode", grpc.StatusCode.UNAVAILABLE)
                return work()
            except RefusedError as error:
                code = grpc.StatusCode.UNIMPLEMENTED if error.status == 501 else error.code
                context.abort(code, str(error))

    def BatchObjects(self, request: Any, context: Any) -> Any:  # noqa: N802
        faults = self.state.faults

        def batch_objects() -> Any:
            if faults.exhausted_over and len(request.objects) > faults.exhausted_over:
                raise RefusedError(507, "not enough memory", grpc.StatusCode.RESOURCE_EXHAUSTED)
            return self._put(request)

        answer = self._answer(context, "BatchObjects", batch_objects)
        if faults.unanswered:
            faults.unanswered -= 1
            gone = threading.Event()
            context.add_callback(gone.set)  # when the client has given up
            gone.wait(60)
        return answer

    def _put(self, request: Any) -> Any:
        faults, reply = self.state.faults, batch_pb2.BatchObjectsReply(took=0.001)
        refused = faults.read_only if faults.read_only_times else 0
        faults.read_only_times -= bool(refused)
        taken: dict[str, dict[str, Stored]] = {}
        for place, one in enumerate(request.objects):
            try:
                if place < refused:
                    raise RefusedError(422, "store is read-only")
                name, stored = self._object(one)
                taken.setdefault(name, {})[str(uuid.UUID(one.uuid))] = stored
            except RefusedError as error:
                reply.errors.append(batch_pb2.BatchObjectsReply.BatchError(index=place, error=str(error)))
        for name, objects in taken.items():
            self.state.put(name, objects)
        return reply

    def _object(self, one: Any) -> tuple[str, Stored]:
        found, properties = self._made(one.collection), properties_of(one.properties)
        vectors = {vector.name: np.frombuffer(vector.vector_bytes, "<f4") for vector in one.vectors}
        if one.vector_bytes:
            vectors[UNNAMED] = np.frombuffer(one.vector_bytes, "<f4")
        for vector, values in vectors.items():
            if vector not in found.vectors:
                raise RefusedError(422, f"collection has no vector {vector!r}")
            if (known := found.dimensions(vector)) not in (None, len(values)):
                raise RefusedError(422, f"new node has a vector with length {len(values)}. Existing nodes have vectors with length {known}")  # fmt: skip
        self._check(found, properties)
        return found.config["class"], Stored(properties, vectors)

    def _made(self, name: str) -> Collection:
        """The collection; one that is not there is made (#5973)."""
        try:
            return self.state.find(name)
        except RefusedError:
            self.state.define(capitalized(name), with_defaults({"class": name}))
            return self.state.find(name)

    def _check(self, found: Collection, properties: Mapping[str, Any]) -> None:
        """By the declared types; a property that is not declared is (auto schema)."""
        new = [
            {"name": name, "dataType": [guessed(value)]}
            for name, value in properties.items()
            if name not in found.types
        ]
        if new:
            declared = [*found.config["properties"], *map(property_with_defaults, new)]
            check_properties(declared)
            self.state.define(found.config["class"], found.config | {"properties": declared})
        for name, value in properties.items():
            kind = found.types[name]
            if guessed(value) != kind.replace("int", "number") and value != []:
                raise RefusedError(422, f"invalid {kind} property {name!r}: {value!r}")

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, "Search", lambda: self._search(request))

    def _search(self, request: Any) -> Any:
        found = self.state.find(request.collection)
        for message in ("hybrid_search", "bm25_search", "near_text", "near_object", "group_by", "generative", "rerank"):
            if request.HasField(message):
                raise RefusedError(501, f"{message} is not part of the double")
        limit, filters = request.limit or 10, request.filters if request.HasField("filters") else None
        if request.offset + limit > RESULTS_MOST:
            raise RefusedError(422, "query maximum results exceeded")
        if request.after and filters is not None:
            raise RefusedError(422, "where filter cannot be set with after and limit parameters")
        names = list(request.properties.non_ref_properties)
        if unknown := [name for name in names if name not in found.types]:
            raise RefusedError(422, f"no such prop with name {unknown[0]!r} found in class")
        near = request.near_vector if request.HasField("near_vector") else None
        hits = nearest(found, near, filters, limit) if near else listed(found, request.after, filters, limit)
        reply = search_get_pb2.SearchReply(took=0.001)
        wanted = found.types if request.properties.return_all_nonref_properties or not request.HasField("properties") else names  # fmt: skip
        for one, distance in hits:
            reply.results.append(result(found, one, distance, wanted, request.metadata))
        return reply

    def BatchDelete(self, request: Any, context: Any) -> Any:  # noqa: N802
        def batch_delete() -> Any:
            found = self.state.find(request.collection)
            matching = [one for one, held in found.objects.items() if matches(request.filters, one, held)]
            gone = matching[: self.state.faults.delete_cap]
            if request.dry_run or request.verbose:
                raise RefusedError(501, "dry_run and verbose are not part of the double")
            self.state.remove(found.config["class"], gone)
            return batch_delete_pb2.BatchDeleteReply(took=0.001, matches=len(matching), successful=len(gone))

        return self._answer(context, "BatchDelete", batch_delete)

    def Aggregate(self, request: Any, context: Any) -> Any:  # noqa: N802
        def aggregate() -> Any:
            if not request.objects_count or request.aggregations or request.HasField("filters"):
                raise RefusedError(501, "only all objects are counted by the double")
            single = aggregate_pb2.AggregateReply.Single(objects_count=len(self.state.find(request.collection).objects))
            return aggregate_pb2.AggregateReply(took=0.001, single_result=single)

        return self._answer(context, "Aggregate", aggregate)


def properties_of(sent: Any) -> dict[str, Any]:
    properties = json_format.MessageToDict(sent.non_ref_properties)
    for arrays in ("text", "int", "boolean", "number"):
        for one in getattr(sent, f"{arrays}_array_properties"):
            packed = np.frombuffer(getattr(one, "values_bytes", b""), "<f8").tolist()
            properties[one.prop_name] = packed or list(one.values)
    return properties | {name: [] for name in sent.empty_list_props}


def listed(found: Collection, after: str, filters: Any, limit: int) -> list[tuple[str, None]]:
    """In the order of ids."""
    ids = sorted(one for one in found.objects if one > after)
    if filters is not None:
        ids = [one for one in ids if matches(filters, one, found.objects[one])]
    return [(one, None) for one in ids[:limit]]


def nearest(found: Collection, near: Any, filters: Any, limit: int) -> list[tuple[str, float]]:
    """Every vector is compared."""
    name, asked = target(found, near)
    held = [(one, stored) for one, stored in found.objects.items() if name in stored.vectors]
    if filters is not None:
        held = [(one, stored) for one, stored in held if matches(filters, one, stored)]
    if not held:
        return []
    vectors = np.array([stored.vectors[name] for _, stored in held])
    if vectors.shape[1] != len(asked):
        raise RefusedError(422, f"vector lengths don't match: {vectors.shape[1]} vs {len(asked)}")
    distances = distance(found.vectors[name]["distance"], vectors, asked)
    return [(held[place][0], float(distances[place])) for place in np.argsort(distances, kind="stable")[:limit]]


def target(found: Collection, near: Any) -> tuple[str, Any]:
    """The vector that is meant, and what it is compared with."""
    if near.vector_for_targets:
        raise RefusedError(501, "several target vectors are not part of the double")
    names = list(near.targets.target_vectors) or list(found.vectors)
    if len(names) != 1 or names[0] not in found.vectors:
        raise RefusedError(422, f"class has the vectors {list(found.vectors)}, not {names}")
    return names[0], np.frombuffer(near.vectors[0].vector_bytes if near.vectors else near.vector_bytes, "<f4")


def distance(metric: str, vectors: Any, asked: Any) -> Any:
    if metric == "l2-squared":
        return ((vectors - asked) ** 2).sum(axis=1)
    inner = vectors @ asked
    if metric == "dot":
        return -inner
    return 1 - inner / np.maximum(np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked), 1e-30)


def matches(one: Any, uid: str, held: Stored) -> bool:
    """A filter's condition, whole values alone."""
    operator = base_pb2.Filters.Operator.Name(one.operator)
    if operator in ("OPERATOR_AND", "OPERATOR_OR"):
        return (all if operator == "OPERATOR_AND" else any)(matches(each, uid, held) for each in one.filters)
    name = one.target.property
    value = uid if name == "_id" else held.properties.get(name)
    have = value if isinstance(value, list) else [] if value is None else [value]
    kind = one.WhichOneof("test_value")
    wanted = list(getattr(one, kind).values) if kind.endswith("_array") else [getattr(one, kind)]
    if operator == "OPERATOR_IS_NULL":
        return (value is None) == wanted[0]
    if operator in ("OPERATOR_EQUAL", "OPERATOR_CONTAINS_ANY"):
        return any(each in wanted for each in have)
    raise RefusedError(501, f"{operator} is not part of the double")


def result(found: Collection, one: str, distance: float | None, names: Iterable[str], asked: Any) -> Any:
    held, meta = found.objects[one], search_get_pb2.MetadataResult(id=one, id_as_bytes=uuid.UUID(one).bytes)
    if distance is not None and asked.distance:
        meta.distance, meta.distance_present = distance, True
    for vector in held.vectors if asked.vector else asked.vectors:
        packed = held.vectors[vector].astype("<f4").tobytes()
        if vector == UNNAMED:
            meta.vector_bytes = packed
        else:
            meta.vectors.append(base_pb2.Vectors(name=vector, vector_bytes=packed, type=base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32))  # fmt: skip
    fields = {name: wire(held.properties.get(name), found.types[name]) for name in names}
    properties = search_get_pb2.PropertiesResult(non_ref_props=properties_pb2.Properties(fields=fields), target_collection=found.config["class"])  # fmt: skip
    return search_get_pb2.SearchResult(metadata=meta, properties=properties)


def wire(value: Any, kind: str) -> Any:
    """A property's value by its declared type."""
    made = properties_pb2
    if value is None:
        return made.Value(null_value=0)
    if kind.endswith("[]"):
        lists = {
            "text[]": lambda: made.ListValue(text_values=made.TextValues(values=value)),
            "int[]": lambda: made.ListValue(int_values=made.IntValues(values=np.array(value, "<i8").tobytes())),
            "number[]": lambda: made.ListValue(
                number_values=made.NumberValues(values=np.array(value, "<f8").tobytes())
            ),
            "boolean[]": lambda: made.ListValue(bool_values=made.BoolValues(values=value)),
        }
        return made.Value(list_value=lists[kind]())
    return {
        "text": lambda: made.Value(text_value=value),
        "int": lambda: made.Value(int_value=int(value)),
        "number": lambda: made.Value(number_value=float(value)),
        "boolean": lambda: made.Value(bool_value=value),
    }[kind]()


# --- the process --------------------------------------------------------------------------------------------------


def serve(folder: Path, http_port: int, grpc_port: int) -> None:
    state = State(folder / "weaviate.db")
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 104_858_000), ("grpc.max_send_message_length", 104_858_000)])  # fmt: skip
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(Rpc(state), server)  # type: ignore[no-untyped-call]
    grpc_port = server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    handler = type("Bound", (Handler,), {"rest": Rest(state)})
    http = ThreadingHTTPServer(("127.0.0.1", http_port), handler)
    print(http.server_address[1], grpc_port, flush=True)
    http.serve_forever()


@dataclass
class WeaviateDouble:
    """The double in a process of its own. Started again, it has the same ports and what was acknowledged."""

    folder: Path
    http_port: int = 0
    grpc_port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> WeaviateDouble:
        command = [sys.executable, "-m", "tests.doubles.weaviate", str(self.folder), str(self.http_port), str(self.grpc_port)]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert self.process.stdout is not None
        ports = self.process.stdout.readline().split()
        assert len(ports) == 2, "the double did not start"
        self.http_port, self.grpc_port = map(int, ports)
        return self

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def set(self, **faults: Any) -> None:
        """These faults, and none else."""
        self._ask("POST", "__faults", faults)

    def asked(self) -> dict[str, int]:
        """Requests since the last :meth:`set`, by name."""
        return dict(self._ask("GET", "__asked", None))

    def _ask(self, method: str, path: str, body: Any) -> Any:
        return httpx.request(method, f"{self.url}/{path}", json=body, timeout=30).raise_for_status().json()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
