"""One namespace of an index: by the documents API, or by the vectors API, which indexes made before it answer to.

What raises here are the client's own errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from embedmig.errors import StoreUnsuitable
from embedmig.stores.external import CHUNK
from embedmig.types import Metric

if TYPE_CHECKING:
    from pinecone import Index
    from pinecone.models.indexes.index import IndexModel

LEGACY_FIELD = "_values"  # how the control plane shows the one vector of an index of the vectors API
METRICS: dict[str, Metric] = {"cosine": "cosine", "euclidean": "l2", "dotproduct": "ip"}
LIST_PAGE = 100
FETCH_IDS = 1_000
FETCH_PAGE = 10_000
TOP_K = 10_000
URL_IDS = 100  # the vectors API has the ids in the URL

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Match:
    """A point that a search found; ``score`` is Pinecone's own."""

    id: str
    score: float
    fields: Fields


class Namespace(Protocol):
    """What both APIs can do. Fields are what a point says beside its vector; ``None`` asks for all of them."""

    index: Index
    dimensions: int
    metric: Metric

    def size(self) -> int | None:
        """Its bytes, about, 0 before they are counted; None where there is no such namespace."""

    def ids(self, token: str | None, prefix: str | None = None) -> tuple[list[str], str | None]:
        """A page of ids in their order, and what the next one is asked with; None: that was the last."""

    def fields(self, ids: Sequence[str], names: Sequence[str] | None) -> dict[str, Fields]:
        """By id; those that are not there are left out."""

    def vectors(self, ids: Sequence[str]) -> dict[str, list[float]]:
        """By id; those that are not there are left out."""

    def search(self, vector: Sequence[float], limit: int, names: Sequence[str], where: Fields | None) -> list[Match]:
        """The nearest first."""

    def reached(self) -> int | None:
        """How far searches are: the number of the last write that they see."""

    def update(self, patches: Mapping[str, Fields]) -> int | None:
        """Sets fields of points that are there, by id; None removes one. Returns the write's number."""

    def count(self) -> int:
        """As the index' statistics have it, which lag behind writes."""


def dense_field(model: IndexModel) -> str:
    """The field that holds the vectors. Raises :class:`StoreUnsuitable` where there is not exactly one."""
    from pinecone.models.indexes.schema import DenseVectorField

    names = [name for name, field in model.schema.fields.items() if isinstance(field, DenseVectorField)]
    if len(names) != 1:
        raise StoreUnsuitable(
            f"index {model.name!r} has {len(names)} fields of dense vectors, not one",
            hint="embedmig works with indexes that have one dense_vector field, whose vectors the application makes",
        )
    return names[0]


def open_namespace(index: Index, model: IndexModel, namespace: str) -> Namespace:
    """By the API that the index answers to."""
    name = dense_field(model)
    field: Any = model.schema.fields[name]
    kind = Vectors if name == LEGACY_FIELD else Documents
    return kind(index, namespace, name, field.dimension, METRICS[field.metric])


def nothing_but_one(dimensions: int) -> list[float]:
    """Something to search with: a zero vector is refused."""
    return [1.0, *[0.0] * (dimensions - 1)]


class Documents:
    """A namespace of a document index."""

    def __init__(self, index: Index, namespace: str, field: str, dimensions: int, metric: Metric) -> None:
        self.index, self.namespace, self.field, self.dimensions, self.metric = (
            index,
            namespace,
            field,
            dimensions,
            metric,
        )
        self.documents = index.documents

    def ids(self, token: str | None, prefix: str | None = None) -> tuple[list[str], str | None]:
        paginator = self.documents.list(
            namespace=self.namespace, limit=LIST_PAGE, pagination_token=token, prefix=prefix
        )
        for page in paginator.pages():
            return [one.id for one in page.items], page.pagination_token
        return [], None

    def fields(self, ids: Sequence[str], names: Sequence[str] | None) -> dict[str, Fields]:
        found = self.documents.fetch(namespace=self.namespace, ids=ids, include_fields=names or None).documents
        return {one: self._payload(document.to_dict()) for one, document in found.items()}

    def _payload(self, document: dict[str, Any]) -> Fields:
        return {name: value for name, value in document.items() if name not in ("_id", "_score", self.field)}

    def vectors(self, ids: Sequence[str]) -> dict[str, list[float]]:
        found = self.documents.fetch(namespace=self.namespace, ids=ids, include_fields=[self.field]).documents
        return {one: document.get(self.field) for one, document in found.items()}

    def search(self, vector: Sequence[float], limit: int, names: Sequence[str], where: Fields | None) -> list[Match]:
        found = self._search(vector, limit, names, where).matches
        return [Match(one.id, one.score or 0.0, self._payload(one.to_dict())) for one in found]

    def reached(self) -> int | None:
        said = self._search(nothing_but_one(self.dimensions), 1, (), None).response_info
        return said.lsn_reconciled if said else None

    def _search(self, vector: Sequence[float], limit: int, names: Sequence[str], where: Fields | None) -> Any:
        from pinecone import DenseVectorQuery

        return self.documents.search(
            namespace=self.namespace, top_k=limit, include_fields=list(names), filter=where,
            score_by=[DenseVectorQuery(field=self.field, values=list(vector))],
        )  # fmt: skip

    def update(self, patches: Mapping[str, Fields]) -> int | None:
        said = self.documents.update(namespace=self.namespace, documents=[_patch(*one) for one in patches.items()])
        return said.response_info.lsn_committed if said.response_info else None

    def count(self) -> int:
        return counted(self.index, self.namespace)

    def size(self) -> int | None:
        return size_of(self.index, self.namespace)

    # --- what embedmig's own indexes need

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> int | None:
        """Returns the write's number."""
        said = self.documents.upsert(namespace=self.namespace, documents=documents).response_info
        return said.lsn_committed if said else None

    def delete(self, ids: Sequence[str]) -> int | None:
        """Returns the write's number."""
        said = self.documents.delete(namespace=self.namespace, ids=ids).response_info
        return said.lsn_committed if said else None

    def matching(self, where: Fields, token: str | None = None) -> tuple[list[str], str | None]:
        """A page of the ids of all points that a filter matches, and what the next is asked with."""
        found = self.documents.fetch(
            namespace=self.namespace, filter=where, include_fields=[CHUNK], limit=FETCH_PAGE, pagination_token=token
        )
        return list(found.documents), found.pagination.next if found.pagination else None


def _patch(one: str, fields: Fields) -> dict[str, Any]:
    gone = [name for name, value in fields.items() if value is None]
    patch = {"_id": one, **{name: value for name, value in fields.items() if value is not None}}
    return patch | {"_remove_fields": gone} if gone else patch


class Vectors:
    """A namespace of an index of the vectors API; adopted, never made."""

    def __init__(self, index: Index, namespace: str, field: str, dimensions: int, metric: Metric) -> None:
        self.index, self.namespace, self.dimensions, self.metric = index, namespace, dimensions, metric

    def ids(self, token: str | None, prefix: str | None = None) -> tuple[list[str], str | None]:
        page = self.index.list_paginated(
            namespace=self.namespace, limit=LIST_PAGE, pagination_token=token, prefix=prefix
        )
        return [one.id for one in page.vectors if one.id], page.pagination.next if page.pagination else None

    def fields(self, ids: Sequence[str], names: Sequence[str] | None) -> dict[str, Fields]:
        return {one: _some(vector.metadata or {}, names) for one, vector in self._fetch(ids).items()}

    def vectors(self, ids: Sequence[str]) -> dict[str, list[float]]:
        return {one: list(vector.values) for one, vector in self._fetch(ids).items()}

    def _fetch(self, ids: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in range(0, len(ids), URL_IDS):
            found |= self.index.fetch(namespace=self.namespace, ids=ids[start : start + URL_IDS]).vectors
        return found

    def search(self, vector: Sequence[float], limit: int, names: Sequence[str], where: Fields | None) -> list[Match]:
        found = self.index.query(
            namespace=self.namespace, vector=list(vector), top_k=limit, filter=where, include_metadata=bool(names)
        )
        return [Match(one.id, one.score, _some(one.metadata or {}, names)) for one in found.matches]

    def reached(self) -> int | None:
        said = self.index.query(
            namespace=self.namespace, vector=nothing_but_one(self.dimensions), top_k=1
        ).response_info
        return said.lsn_reconciled if said else None

    def update(self, patches: Mapping[str, Fields]) -> int | None:
        """One request a point: this API has no other way by id."""
        last: int | None = None
        for one, fields in patches.items():
            if None in fields.values():
                raise StoreUnsuitable("an index of Pinecone's vectors API can't remove a field from a point")
            said = self.index.update(namespace=self.namespace, id=one, set_metadata=fields).response_info
            last = said.lsn_committed if said else None
        return last

    def count(self) -> int:
        return counted(self.index, self.namespace)

    def size(self) -> int | None:
        return size_of(self.index, self.namespace)


def size_of(index: Index, namespace: str) -> int | None:
    """Of a namespace that is there."""
    from pinecone import NotFoundError

    try:
        return index.describe_namespace(name=namespace).size_bytes
    except NotFoundError:
        return None


def _some(fields: Fields, names: Sequence[str] | None) -> Fields:
    return fields if names is None else {name: fields[name] for name in names if name in fields}


def counted(index: Index, namespace: str) -> int:
    """By the index' statistics."""
    found = index.describe_index_stats().namespaces
    known = found.get(namespace) or (found.get("") if namespace == "__default__" else None)
    return known.vector_count if known else 0
