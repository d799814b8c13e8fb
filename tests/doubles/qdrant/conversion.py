"""From the client's models, which validate, to the engine's."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client.http import models as m

from tests.doubles.qdrant.faults import NotInTheDouble

DISTANCES = {
    m.Distance.COSINE: edge.Distance.Cosine, m.Distance.DOT: edge.Distance.Dot, m.Distance.EUCLID: edge.Distance.Euclid,
    m.Distance.MANHATTAN: edge.Distance.Manhattan,
}  # fmt: skip
DATATYPES = {
    m.Datatype.FLOAT16: edge.VectorStorageDatatype.Float16,
    m.Datatype.FLOAT32: edge.VectorStorageDatatype.Float32,
}
SCHEMAS = {
    m.PayloadSchemaType.KEYWORD: edge.PayloadSchemaType.Keyword, m.PayloadSchemaType.INTEGER: edge.PayloadSchemaType.Integer,
    m.PayloadSchemaType.FLOAT: edge.PayloadSchemaType.Float, m.PayloadSchemaType.BOOL: edge.PayloadSchemaType.Bool,
    m.PayloadSchemaType.DATETIME: edge.PayloadSchemaType.Datetime, m.PayloadSchemaType.UUID: edge.PayloadSchemaType.Uuid,
}  # fmt: skip

Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model], body: Any, *known: str) -> Model:
    """A request; with a field set that is not ``known``: not in the double."""
    request = model.model_validate(body)
    if unknown := {name for name in request.model_fields_set if getattr(request, name) is not None} - set(known):
        raise NotInTheDouble(f"{model.__name__}.{min(unknown)}")
    return request


def engine_filter(given: m.Filter | None) -> edge.Filter | None:
    """Clause by clause."""
    if given is None:
        return None
    few = given.min_should
    return edge.Filter(
        must=conditions(given.must), should=conditions(given.should), must_not=conditions(given.must_not),
        min_should=edge.MinShould(conditions(few.conditions) or [], few.min_count) if few else None,
    )  # fmt: skip


def conditions(given: Any) -> list[Any] | None:
    """One or a list of them; None where there is none."""
    if given is None:
        return None
    return [condition(one) for one in (given if isinstance(given, list) else [given])]


def condition(given: Any) -> Any:
    """A single one."""
    match given:
        case m.Filter():
            return engine_filter(given)
        case m.HasIdCondition():
            return edge.HasIdCondition(set(given.has_id))
        case m.IsEmptyCondition():
            return edge.IsEmptyCondition(given.is_empty.key)
        case m.FieldCondition(match=m.MatchValue() as found):
            # the engine's binding takes True for 1, but not NumPy's
            value: Any = np.bool_(found.value) if isinstance(found.value, bool) else found.value
            return edge.FieldCondition(given.key, match=edge.MatchValue(value))
        case m.FieldCondition(match=m.MatchAny() as found):
            return edge.FieldCondition(given.key, match=edge.MatchAny(found.any))
        case m.FieldCondition(range=m.Range() as span):
            return edge.FieldCondition(given.key, range=edge.RangeFloat(span.gte, span.gt, span.lte, span.lt))
        case m.FieldCondition(range=m.DatetimeRange() as span):
            texts = [None if one is None else one.isoformat() for one in (span.gte, span.gt, span.lte, span.lt)]
            return edge.FieldCondition(given.key, range=edge.RangeDateTime(*texts))
    raise NotInTheDouble(f"condition {given!r}")


def vector_params(given: m.VectorParams) -> edge.EdgeVectorParams:
    """Size, distance and width of the numbers."""
    for name in given.model_fields_set - {"size", "distance", "datatype", "on_disk"}:
        if getattr(given, name) is not None:
            raise NotInTheDouble(f"VectorParams.{name}")
    datatype = None if given.datatype is None else DATATYPES[given.datatype]
    return edge.EdgeVectorParams(given.size, DISTANCES[given.distance], given.on_disk, datatype=datatype)


def as_json(point: Any, *, scored: bool = False) -> dict[str, Any]:
    """A record or a hit of the engine's."""
    said = {
        "id": point.id if isinstance(point.id, int) else str(point.id),
        "payload": point.payload,
        "vector": point.vector,
    }
    return said | ({"score": point.score, "version": point.version} if scored else {})  # fmt: skip


def chosen(given: Any, default: bool) -> Any:
    """Which fields, or vectors: all, none, or by name."""
    if given is None:
        return default
    if isinstance(given, bool | list):
        return given
    raise NotInTheDouble(f"selector {given!r}")
