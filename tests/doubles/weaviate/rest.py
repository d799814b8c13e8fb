"""REST: definitions, aliases, nodes, and changes of single objects."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.doubles.weaviate.state import (
    CLASS_NAME,
    VERSION,
    Collection,
    Faults,
    RefusedError,
    State,
    Stored,
    capitalized,
    check_properties,
    property_with_defaults,
    with_defaults,
)


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
            raise RefusedError(401, f"invalid api key: {key}")  # as a proxy might, with the key
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
        indexing = 1 < self.state.looks[name] <= 1 + faults.early_ready
        shard = {
            "name": "shard1", "class": name, "objectCount": count, "compressed": False, "loaded": True,
            "vectorIndexingStatus": "READONLY" if faults.full else "INDEXING" if indexing else "READY",
            "vectorQueueLength": count if indexing else 0,
        }  # fmt: skip
        nodes: list[dict[str, Any]] = [{"name": "node1", "status": "HEALTHY", "shards": [shard]}]
        if faults.second == "empty":
            nodes.append({"name": "node2", "status": "HEALTHY", "shards": [shard | {"objectCount": 0}]})
        elif faults.second:
            nodes.append({"name": "node2", "status": faults.second})
        return {"nodes": nodes}

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
            path, query = urlsplit(self.path).path, urlsplit(self.path).query
            self.rest.state.asked["ALL"] += "consistency_level=ALL" in query
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
