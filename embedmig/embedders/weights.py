"""Model files on disk: where they are and what they hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from embedmig.errors import EmbedderMisconfigured

NOT_WEIGHTS = frozenset({"data_config.json"})
"""A list of the training data, in many model folders: it shapes nothing."""

_digests: dict[tuple[str, int, int], str] = {}


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """``sha256:<hex>`` over the files' names below ``root`` and their contents, in the order of their names.

    It does not depend on where ``root`` is. A file is read again only when its size or its time has changed.
    """
    total = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        total.update(f"{name}\0{_digest(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _digest(file: Path) -> str:
    stat = file.stat()
    seen = (str(file), stat.st_size, stat.st_mtime_ns)
    if seen not in _digests:
        with file.open("rb") as stream:
            _digests[seen] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[seen]


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it; None where it is not installed."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def locate(where: str) -> Path:
    """The folder that ``where`` names: a path, or ``package:NAME/sub/dir``; raises ``EmbedderMisconfigured``."""
    if not where.startswith("package:"):
        folder = Path(where).expanduser()
    else:
        name, _, inside = where.removeprefix("package:").partition("/")
        package = package_folder(name.replace("-", "_"))
        if package is None:
            raise EmbedderMisconfigured(f"{where}: the package {name} is not installed", hint=f"pip install {name}")
        folder = package / inside
    if not folder.is_dir():
        raise EmbedderMisconfigured(f"{where}: there is no such folder", hint="embedmig never downloads a model")
    return folder


def is_prefix(version: str, of: str) -> bool:
    """Whether ``version`` is ``of`` or its beginning up to a dot: 0.4 is a prefix of 0.4.1, not of 0.40."""
    wanted, found = version.split("."), of.split(".")
    return found[: len(wanted)] == wanted
