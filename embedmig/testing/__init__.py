"""For tests, ours and yours: a fake embedder, a store in a file, and the suites that every embedder and every store passes.

``fake_embedder``      :class:`FakeEmbedder` and the space of its vectors
``embedder_promises``  :data:`EMBEDDER_PROMISES`
``memory_store``       :class:`MemoryStore`
``store_promises``     :data:`STORE_PROMISES`, over a :class:`StoreUnderTest`

A third party runs a suite against its own provider or store::

    @pytest.mark.parametrize("promise", testing.EMBEDDER_PROMISES, ids=lambda promise: promise.__name__)
    def test_my_embedder(promise):
        asyncio.run(promise(Encoder(SPACE, MyEmbedder())))

    @pytest.mark.parametrize("promise", testing.STORE_PROMISES, ids=lambda promise: promise.__name__)
    def test_my_store(promise):
        promise(MyStoreUnderTest())
"""

from __future__ import annotations

from embedmig.testing.embedder_promises import EMBEDDER_PROMISES, TEXTS, Promise, assert_same
from embedmig.testing.fake_embedder import FakeEmbedder, ScriptedCall, fake_space, fake_vectors
from embedmig.testing.memory_store import MemoryStore
from embedmig.testing.store_promises import STORE_PROMISES, StorePromise, StoreUnderTest, fake_record

__all__ = [
    "EMBEDDER_PROMISES", "STORE_PROMISES", "TEXTS", "FakeEmbedder", "MemoryStore", "Promise", "ScriptedCall",
    "StorePromise", "StoreUnderTest", "assert_same", "fake_record", "fake_space", "fake_vectors",
]  # fmt: skip
