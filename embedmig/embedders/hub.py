"""Models of the Hugging Face hub, at a commit: downloaded once into its cache, found there from then on.

https://huggingface.co/docs/huggingface_hub/guides/download. The library's own settings hold: ``HF_HOME``, ``HF_HUB_CACHE``,
``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN``. With a commit a complete snapshot is used without a request.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.weights import NOT_WEIGHTS, locate
from embedmig.errors import EmbedderMisconfigured, EmbedderUnavailable
from embedmig.types import Space

COMMIT = re.compile("[0-9a-f]{40}")
"""What alone names files that do not change: branches move, and tags can be moved."""
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
OLD_WEIGHTS = "*.bin"
OTHER_BACKENDS = ("onnx/*", "openvino/*", "coreml/*", "tf/*", "flax/*", "gguf/*", "original/*")
"""The same weights for libraries that are not used here."""


def is_commit(revision: str) -> bool:
    """Whether a version names a commit in full."""
    return COMMIT.fullmatch(revision) is not None


class HubModel:
    """A local model of a folder, an installed package, or the hub at the commit that is its version; a short name is one of ``owner``
    on the hub. Raises :class:`EmbedderMisconfigured` where it is none of these.
    """

    owner: ClassVar[str]
    packaged: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, space: Space, settings: EmbedderSettings) -> None:
        self._space = space
        self._place = place_of(space, settings, self.owner, self.packaged)

    @property
    def pins_commit(self) -> bool:
        """Whether the version is the commit of the hub that the files are of."""
        return self._place is None

    @cached_property
    def _folder(self) -> Path:
        """The model's files; those of the hub are downloaded where they are not in its cache."""
        return self._place or snapshot(repository_of(self._space.name, self.owner), self._space.version)


def place_of(space: Space, settings: EmbedderSettings, owner: str, packaged: Mapping[str, str]) -> Path | None:
    """The folder of a local model, None where its version is a commit of the hub; raises :class:`EmbedderMisconfigured` with the
    ways to say so. A short name is one of ``owner`` on the hub.
    """
    name = space.name
    if given := settings.models.get(name):
        return locate(given)
    if is_commit(space.version):
        return None
    if place := packaged.get(name.removeprefix(owner)):
        return locate(place)
    raise EmbedderMisconfigured(
        f"{space.model}@{space.version}: where its files are is not known, and nothing is downloaded "
        "unless the version is a commit: branches and tags move",
        hint=f'version="…" with the 40 digits of https://huggingface.co/{repository_of(name, owner)}/commits/main; '
        f'or [embedders.{space.provider}.models] "{name}" = "/path/to/its/folder"',
    )


def repository_of(name: str, owner: str) -> str:
    """A model's name on the hub."""
    return name if "/" in name else owner + name


def snapshot(repository: str, commit: str) -> Path:
    """The folder in the hub's cache that has the model's files at that commit, downloaded where it is not there.

    Raises :class:`EmbedderMisconfigured` where there is no such model or commit, or where it may not be downloaded, and
    :class:`EmbedderUnavailable` where the hub can't be reached.
    """
    with _quiet_off_a_terminal():
        folder = _download(repository, commit, FILES)
        if any(folder.rglob("*.safetensors")):
            return folder
        return _download(repository, commit, (*FILES, OLD_WEIGHTS))  # an old model, without the safer format


def files_of(folder: Path) -> list[Path]:
    """The files of a snapshot that shape vectors, whatever else other programs had downloaded beside them."""
    names = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    kinds = FILES if any(name.endswith(".safetensors") for name in names) else (*FILES, OLD_WEIGHTS)
    return [
        file
        for name, file in names.items()
        if file.name not in NOT_WEIGHTS and matches(name, kinds) and not matches(name, OTHER_BACKENDS)
    ]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """As the hub's library compares a path with patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def _download(repository: str, commit: str, files: tuple[str, ...]) -> Path:
    hub, errors, constants = map(
        import_module, ("huggingface_hub", "huggingface_hub.errors", "huggingface_hub.constants")
    )
    where = f"{repository}@{commit[:12]}…"
    wanted: dict[str, Any] = {"allow_patterns": list(files), "ignore_patterns": list(OTHER_BACKENDS)}
    if listing := getattr(hub, "get_cached_repo_tree", None):  # without it, a cached snapshot may lack files
        with suppress(errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
            listing(repository, revision=commit)
            return Path(hub.snapshot_download(repository, revision=commit, local_files_only=True, **wanted))
    try:
        return Path(hub.snapshot_download(repository, revision=commit, **wanted))
    except errors.HFValidationError as error:
        raise EmbedderMisconfigured(f"{repository} is no name of the hub", hint="OWNER/NAME") from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise EmbedderMisconfigured(
            f"{where}: the hub has no such model or commit, or not for you ({type(error).__name__})",
            hint=f"look at {constants.ENDPOINT}/{repository}/commits/main; HF_TOKEN is sent where it is set",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise EmbedderMisconfigured(
                f"{where} is not, or not whole, in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids a download",
                hint=f"HF_HUB_OFFLINE=0 hf download {repository} --revision {commit}",
            ) from error
        raise _unreachable(where, constants.ENDPOINT, error) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise _unreachable(where, constants.ENDPOINT, error) from error


def _unreachable(where: str, endpoint: str, error: Exception) -> EmbedderUnavailable:
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    return EmbedderUnavailable(
        f"{where} can't be downloaded from {endpoint}: {reason}",
        hint="what was downloaded stays: run the same command again; or name the model's folder under [embedders.NAME.models]",
    )


@contextmanager
def _quiet_off_a_terminal() -> Iterator[None]:
    """Bars of a download are for people: in logs they are not drawn. The application's own choice is put back."""
    utils: Any = import_module("huggingface_hub.utils")
    hide = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            utils.enable_progress_bars()
