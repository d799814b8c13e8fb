"""What the server holds, how it misbehaves, and what it makes of a definition."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from weaviate.collections.classes.config_methods import _collection_config_from_json

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
    ``second``        a second node: ``UNAVAILABLE``, or ``empty``: it has counted no object of its replica yet (client PR 2086, 2127)
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
    second: str = ""
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
            held = {
                vector: np.frombuffer(bytes.fromhex(packed), "<f4") for vector, packed in json.loads(vectors).items()
            }
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
            (name, one, json.dumps(held.properties), json.dumps({key: value.astype("<f4").tobytes().hex() for key, value in held.vectors.items()}))
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


# --- definitions ---

GRAPH = {
    "skip": False, "cleanupIntervalSeconds": 300, "maxConnections": 32, "efConstruction": 128, "ef": -1, "dynamicEfMin": 100,
    "dynamicEfMax": 500, "dynamicEfFactor": 8, "vectorCacheMaxObjects": 10**12, "flatSearchCutoff": 40_000, "distance": "cosine",
    "filterStrategy": "acorn",
}  # fmt: skip
NAMED = {"vectorIndexType": "hnsw", "vectorIndexConfig": GRAPH}
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
        config["vectorConfig"] = {
            name: filled(NAMED, {"vectorizer": {"none": {}}, **one}) for name, one in asked["vectorConfig"].items()
        }
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
