"""Vectors in Milvus, by its official client. Tried with the standalone 2.3.5 and with milvus-lite 3.2.

``client``  one client a process, and its errors in embedmig's own
``fields``  how a point stands in a collection
``store``   :class:`MilvusStore`

Ids are the primary key, so an upsert of a point replaces it. Listings and counts are read with strong consistency: they wait for
the server's next time tick, and see every write that was acknowledged. The server gives the code 65535 for nearly everything, so
what is asked about a failure is asked of the server itself.
"""

from embedmig.stores.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
