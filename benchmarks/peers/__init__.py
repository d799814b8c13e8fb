"""``make bench-peers``: embedmig beside what else fills pgvector, each in a virtual environment of its own."""
