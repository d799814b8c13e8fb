"""Pinecone: one index a space, or one namespace of an index that several share.

``client``  one connection a process and settings, and Pinecone's errors in embedmig's words
``points``  documents and filters as Pinecone takes them, cut to its limits
``spaces``  one namespace by the documents API, or by the vectors API of indexes made before it
``store``   :class:`PineconeStore`
"""

from embedmig.stores.pinecone.store import PineconeStore

__all__ = ["PineconeStore"]
