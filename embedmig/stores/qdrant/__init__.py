"""Vectors in Qdrant, by its REST interface and its own client.

``store``    :class:`QdrantStore`
``client``   one client a process, and its errors in embedmig's own
``payload``  ids, paths into payloads, values and conditions as Qdrant has them

Numbers after # are threads of ``qdrant/qdrant``.
"""

from __future__ import annotations

from embedmig.stores.qdrant.store import QdrantStore

__all__ = ["QdrantStore"]
