"""All collections and aliases of a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from pydantic import TypeAdapter
from qdrant_client.http import models as m

from tests.doubles.qdrant.collection import Collection, write
from tests.doubles.qdrant.conversion import SCHEMAS, Model, as_json, chosen, engine_filter, parsed
from tests.doubles.qdrant.faults import Faults, NotInTheDouble, Refused, Severed

UPSERT: TypeAdapter[m.PointInsertOperations] = TypeAdapter(m.PointInsertOperations)
SELECTOR: TypeAdapter[m.PointsSelector] = TypeAdapter(m.PointsSelector)


class Server:
    """All of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lock, self.faults = folder, threading.RLock(), Faults()
        self.requests: Counter[str] = Counter()
        self.collections = {
            path.parent.name: Collection(path.parent, m.CreateCollection.model_validate_json(path.read_text()))
            for path in folder.glob("*/collection.json")
        }
        saved = folder / "aliases.json"
        self.aliases: dict[str, str] = json.loads(saved.read_text()) if saved.exists() else {}

    # faults

    def set_faults(self, given: dict[str, Any]) -> None:
        with self.lock:
            self.faults = replace(self.faults, **given)
            for collection in self.collections.values():
                collection.awake = not self.faults.grey

    def happens(self, name: str) -> bool:
        """Whether a counted fault is due; it is then one fewer."""
        with self.lock:
            left = getattr(self.faults, name)
            if left:
                self.faults = replace(self.faults, **{name: left - 1})
            return bool(left)

    # collections

    def find(self, name: str) -> Collection:
        """By its name or an alias; never in the middle of a change of aliases."""
        with self.lock:
            found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def create(self, name: str, body: Any) -> bool:
        known = (
            "vectors",
            "shard_number",
            "replication_factor",
            "write_consistency_factor",
            "optimizers_config",
            "hnsw_config",
        )
        definition = parsed(m.CreateCollection, body, *known)  # fmt: skip
        if len(name) > 255 or set(name) & set('<>:"/\\|?*\0\x1f'):
            raise Refused(400, f"Wrong input: collection name `{name}`")
        with self.lock:
            if name in self.collections:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self.aliases:
                raise Refused(
                    400,
                    f"Wrong input: Can't create collection with name {name}. Alias with the same name already exists",
                )
            folder = self.folder / name
            shutil.rmtree(folder, ignore_errors=True)  # of one that was killed before it was defined
            folder.mkdir()
            made = Collection(folder, definition)
            made.save()
            self.collections[name] = made
        return True

    def redefine(self, name: str, body: Any) -> bool:
        """The graph's parameters and the threshold."""
        wanted = parsed(m.UpdateCollection, body, "hnsw_config", "optimizers_config")
        found = self.find(name)
        changed = {
            field: merged(getattr(found.definition, field), getattr(wanted, field))
            for field in ("hnsw_config", "optimizers_config")
        }
        found.redefine(found.definition.model_copy(update=changed))
        return True

    def drop(self, name: str) -> bool:
        """With its aliases, without a word; not by an alias."""
        with self.lock:
            gone = self.collections.pop(name, None)
            if gone is None:
                return False
            self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}
            self.save_aliases()
        gone.drop()
        return True

    # aliases

    def change_aliases(self, body: Any) -> bool:
        """As until #10425: readers never see the middle, but each action is saved by itself, and an error leaves those before it done."""
        actions = m.ChangeAliasesOperation.model_validate(body).actions
        with self.lock:
            for done, action in enumerate(actions):
                if done == self.faults.dies_after_actions:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.change_alias(action)
                self.save_aliases()
            if len(actions) == self.faults.dies_after_actions:
                os.kill(os.getpid(), signal.SIGKILL)
        return True

    def change_alias(self, action: Any) -> None:
        match action:
            case m.CreateAliasOperation(create_alias=wanted):
                if wanted.collection_name not in self.collections:
                    raise Refused(404, f"Not found: Collection `{wanted.collection_name}` doesn't exist!")
                if wanted.alias_name in self.collections:
                    raise Refused(409, f"Wrong input: Collection `{wanted.alias_name}` already exists!")
                self.aliases[wanted.alias_name] = wanted.collection_name
            case m.DeleteAliasOperation(delete_alias=gone):
                self.aliases.pop(gone.alias_name, None)
            case _:
                raise NotInTheDouble("rename_alias")

    def save_aliases(self) -> None:
        write(self.folder / "aliases.json", json.dumps(self.aliases))

    # points

    def change(self, name: str, *operations: edge.UpdateOperation) -> list[dict[str, Any]]:
        found = self.find(name)
        results = [
            {"status": found.change(one, late=self.happens("wait_timeout")), "operation_id": found.changes}
            for one in operations
        ]
        if self.happens("severed"):
            raise Severed
        return results

    def upsert(self, name: str, body: Any) -> dict[str, Any]:
        request = UPSERT.validate_python(body)
        if isinstance(request, m.PointsList):
            given: list[Any] = request.points
            points = [edge.Point(one.id, one.vector, one.payload or {}) for one in given]
        else:
            batch = request.batch
            vectors: Any = batch.vectors
            if isinstance(vectors, dict):
                vectors = [dict(zip(vectors, one, strict=True)) for one in zip(*vectors.values(), strict=True)]
            payloads = batch.payloads or [{}] * len(batch.ids)
            points = [edge.Point(one, v, p or {}) for one, v, p in zip(batch.ids, vectors, payloads, strict=True)]
        return self.change(name, edge.UpdateOperation.upsert_points(points))[0]

    def delete(self, name: str, body: Any) -> dict[str, Any]:
        request = SELECTOR.validate_python(body)
        if not isinstance(request, m.PointIdsList):
            raise NotInTheDouble("delete by filter")
        return self.change(name, edge.UpdateOperation.delete_points(request.points))[0]

    def batch(self, name: str, body: Any) -> list[dict[str, Any]]:
        """Of changes of payloads, each by a filter."""
        operations = []
        for one in m.UpdateOperations.model_validate(body).operations:
            match one:
                case m.SetPayloadOperation(set_payload=m.SetPayload(filter=m.Filter() as chosen, key=None) as wanted):
                    chosen_there = engine_filter(chosen)
                    assert chosen_there is not None
                    operations.append(edge.UpdateOperation.set_payload_by_filter(chosen_there, wanted.payload))
                case _:
                    raise NotInTheDouble(f"batch of {type(one).__name__}")
        return self.change(name, *operations)

    def index_payload(self, name: str, body: Any) -> dict[str, Any]:
        wanted = m.CreateFieldIndex.model_validate(body)
        if wanted.field_schema not in SCHEMAS:
            raise NotInTheDouble(f"payload index {wanted.field_schema}")
        schema = SCHEMAS[wanted.field_schema]
        return self.change(name, edge.UpdateOperation.create_field_index(wanted.field_name, schema))[0]

    def scroll(self, name: str, body: Any) -> dict[str, Any]:
        asked = parsed(m.ScrollRequest, body, "offset", "limit", "filter", "with_payload", "with_vector")
        wanted = edge.ScrollRequest(
            offset=asked.offset, limit=asked.limit or 10, filter=engine_filter(asked.filter),
            with_payload=chosen(asked.with_payload, True), with_vector=chosen(asked.with_vector, False),
        )  # fmt: skip
        page, following = self.read(name, lambda shard: shard.scroll(wanted))
        offset = following if following is None or isinstance(following, int) else str(following)
        return {"points": [as_json(one) for one in page], "next_page_offset": offset}

    def count(self, name: str, body: Any) -> dict[str, Any]:
        asked = parsed(m.CountRequest, body, "filter", "exact")
        exact = asked.exact is not False
        wanted = edge.CountRequest(exact, engine_filter(asked.filter))
        counted = self.read(name, lambda shard: shard.count(wanted))
        return {"count": counted if exact else int(counted * self.faults.counts)}

    def retrieve(self, name: str, body: Any) -> list[dict[str, Any]]:
        asked = parsed(m.PointRequest, body, "ids", "with_payload", "with_vector")
        payload, vector = chosen(asked.with_payload, True), chosen(asked.with_vector, False)
        found = self.read(name, lambda shard: shard.retrieve(asked.ids, with_payload=payload, with_vector=vector))
        return [as_json(one) for one in found]

    def query(self, name: str, body: Any) -> dict[str, Any]:
        asked = parsed(
            m.QueryRequest, body, "query", "using", "filter", "params", "limit", "with_payload", "with_vector"
        )
        nearest: Any = asked.query.nearest if isinstance(asked.query, m.NearestQuery) else asked.query
        if not isinstance(nearest, list):
            raise NotInTheDouble(f"query {nearest!r}")
        params = asked.params or m.SearchParams()
        wanted = edge.QueryRequest(
            limit=asked.limit or 10, query=edge.Query.Nearest(nearest, using=asked.using), filter=engine_filter(asked.filter),
            params=edge.SearchParams(params.hnsw_ef, params.exact or False),
            with_payload=chosen(asked.with_payload, False), with_vector=chosen(asked.with_vector, False),
        )  # fmt: skip
        found = self.read(name, lambda shard: shard.query(wanted))
        return {"points": [as_json(one, scored=True) for one in found]}

    def read(self, name: str, ask: Callable[[edge.EdgeShard], Any]) -> Any:
        found = self.find(name)
        with found.lock:
            return ask(found.shard)


def merged(old: Model | None, new: Model | None) -> Model | None:
    """What is not said stays."""
    if old is None or new is None:
        return old or new
    return old.model_copy(update=new.model_dump(exclude_none=True))
