"""Weaviate, spoken to by its official client: a collection per space, a point is an object with one vector.

``client``      one connection a process and server; its errors as ours
``properties``  columns as Weaviate's properties: names, types, values
``shape``       what a collection is made of
``conditions``  what a search's ``where`` says of points
``index``       how far an index is
``store``       :class:`WeaviateStore`
"""

from __future__ import annotations

from embedmig.stores.weaviate.store import WeaviateStore

__all__ = ["WeaviateStore"]
