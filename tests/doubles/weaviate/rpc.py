"""gRPC: batches, searches, deletes and counts."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from weaviate.proto.v1.v6300.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from tests.doubles.weaviate.state import (
    RESULTS_MOST,
    UNNAMED,
    Collection,
    RefusedError,
    State,
    Stored,
    capitalized,
    check_properties,
    guessed,
    property_with_defaults,
    with_defaults,
)


class Rpc(weaviate_pb2_grpc.WeaviateServicer):
    """Methods that are not here are UNIMPLEMENTED: the generated servicer says so."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _answer(self, context: Any, name: str, request: Any, work: Callable[[], Any]) -> Any:
        state = self.state
        with state.lock:
            state.asked[name] += 1
            state.asked["ALL"] += getattr(request, "consistency_level", None) == base_pb2.CONSISTENCY_LEVEL_ALL
            try:
                key = dict(context.invocation_metadata()).get("authorization", "")
                if state.faults.key and key != f"Bearer {state.faults.key}":
                    raise RefusedError(401, f"invalid api key: {key}", grpc.StatusCode.UNAUTHENTICATED)
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

        answer = self._answer(context, "BatchObjects", request, batch_objects)
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
        return self._answer(context, "Search", request, lambda: self._search(request))

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

        return self._answer(context, "BatchDelete", request, batch_delete)

    def Aggregate(self, request: Any, context: Any) -> Any:  # noqa: N802
        def aggregate() -> Any:
            if not request.objects_count or request.aggregations or request.HasField("filters"):
                raise RefusedError(501, "only all objects are counted by the double")
            single = aggregate_pb2.AggregateReply.Single(objects_count=len(self.state.find(request.collection).objects))
            return aggregate_pb2.AggregateReply(took=0.001, single_result=single)

        return self._answer(context, "Aggregate", request, aggregate)


def properties_of(sent: Any) -> dict[str, Any]:
    properties: dict[str, Any] = json_format.MessageToDict(sent.non_ref_properties)
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
        return bool(wanted[0]) == (value is None)
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
