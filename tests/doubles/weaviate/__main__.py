"""The process."""

from __future__ import annotations

import sys
from concurrent import futures
from http.server import ThreadingHTTPServer
from pathlib import Path

import grpc
from weaviate.proto.v1.v6300.v1 import weaviate_pb2_grpc

from tests.doubles.weaviate.rest import Handler, Rest
from tests.doubles.weaviate.rpc import Rpc
from tests.doubles.weaviate.state import State


def serve(folder: Path, http_port: int, grpc_port: int) -> None:
    state = State(folder / "weaviate.db")
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 104_858_000), ("grpc.max_send_message_length", 104_858_000)])  # fmt: skip
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(Rpc(state), server)  # type: ignore[no-untyped-call]
    grpc_port = server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    handler = type("Bound", (Handler,), {"rest": Rest(state)})
    http = ThreadingHTTPServer(("127.0.0.1", http_port), handler)
    print(http.server_address[1], grpc_port, flush=True)
    http.serve_forever()


serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
