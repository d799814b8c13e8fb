"""Qdrant's REST interface over Qdrant's own engine (``qdrant-edge-py``). For tests; loopback only.

``python -m tests.doubles.qdrant FOLDER --port 0 --key KEY`` prints its URL on stdout. Points, filters, distances, graphs and the log
of writes are the engine's; here are names, aliases, JSON and statuses. Requests are validated by the official client's own
models, which are made of Qdrant's OpenAPI; what is outside of them, or of what embedmig needs, answers 501. All state is in
FOLDER: killed and started again, it has what it acknowledged.

``POST /__faults`` sets some of :class:`faults.Faults`, ``DELETE /__faults`` ends them all, ``GET /__requests`` counts requests by
method and last word of the path.

``faults``      what can be made to go wrong, each with the thread that it comes from
``conversion``  from the client's models to the engine's
``collection``  one shard of the engine, and its definition
``server``      all collections and aliases of a folder
``http``        requests and answers
``process``     starts, kills and asks one; what tests import
"""
