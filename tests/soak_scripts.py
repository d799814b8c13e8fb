"""What the soak's project is made of: two models, a revision for each, and their versions."""

from __future__ import annotations

from embedmig.types import Space

MODEL = '''
import hashlib
import numpy as np

listen = None  # hears of every text of a document that this process has embedded


def vectors(texts, sign):
    """Unit vectors by the hash of the text; the sign of the first component says which model made them."""
    rows = [hashlib.shake_128(text.encode()).digest(16) for text in texts]
    found = np.frombuffer(b"".join(rows), "<i2").reshape(len(texts), 8) / np.float32(32768)
    found[:, 0] = 4 * sign
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def told(name, texts, role):
    if listen and role == "document":
        listen([f"{name}: {text}" for text in texts])
    return texts


def one(texts, role):
    return vectors(told("one", texts, role), 1)


def two(texts, role):
    return vectors(told("two", texts, role), -1)
'''
SCRIPT = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
NEW = Space(collection="docs", model={model!r}, version="1", dimensions=8{more})


def upgrade() -> None:
    op.create_space(NEW)
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=0.05)  # the writers change the whole table every few seconds
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    {downgrade}
"""
SPACES = [
    Space(collection="docs", model=f"python/soak_model:{name}", version="1", dimensions=8) for name in ("one", "two")
]
