"""The data types that all packages share: frozen dataclasses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from embedmig.errors import PlanError, UnpinnedModel

if TYPE_CHECKING:  # the command line imports this module, and must not wait for NumPy
    import numpy as np
    import numpy.typing as npt

Vectors: TypeAlias = "npt.NDArray[np.float32]"
"""A batch of embeddings: ``(n, dimensions)`` float32, C-contiguous."""

Metric = Literal["cosine", "l2", "ip"]
Storage = Literal["vector", "halfvec"]
Normalization = Literal["l2", "none"]
Dtype = Literal["float32", "float16", "bfloat16"]
Role = Literal["document", "query"]
SpaceState = Literal["building", "ready", "active", "retained", "retired", "released"]
GONE: tuple[SpaceState, ...] = ("retired", "released")  # nothing reads or writes it; the tag is remembered

QUERY_MODEL = re.compile(r"([A-Za-z0-9_-]+/\S+?)(?:@([A-Za-z0-9._+-]+))?")
ROLES_HINT = 'for example roles={"document": {"input_type": "document"}, "query": {"input_type": "query"}}'
UNPINNED = frozenset({"", "latest", "newest", "current", "main", "master", "default", "none"})
MAX_DIMENSIONS: dict[Storage, int] = {"vector": 16_000, "halfvec": 16_000}  # pgvector: a column's limit
MAX_STORE_DIMENSIONS = 65_535  # of a store beside PostgreSQL, which has its own limit
IN_POSTGRESQL = "pgvector"
RERANK_DEPTH = 50  # rows that are found for a re-ranking read, unless it says otherwise
MAX_RERANK_DEPTH = 1000
MAX_INDEX_DIMENSIONS: dict[Storage, int] = {"vector": 2_000, "halfvec": 4_000}  # pgvector: an HNSW index's limit


@dataclass(frozen=True, slots=True)
class Chunk:
    """How a text is cut before it is embedded: at most ``size`` units a piece, ``overlap`` of them shared."""

    size: int
    overlap: int = 0
    unit: Literal["characters", "tokens"] = "characters"

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.overlap < self.size or self.unit not in ("characters", "tokens"):
            raise PlanError(
                f"chunk: size {self.size}, overlap {self.overlap}, unit {self.unit!r} is not possible",
                hint='size is at least 1, overlap smaller than size, unit "characters" or "tokens"',
            )


@dataclass(frozen=True, slots=True)
class Space:
    """All vectors of one collection made by one embedding configuration.

    ``model`` is ``provider/name``. ``version`` pins what the name stands for today. ``weights`` pins model files on
    disk (``sha256:…``). ``dtype`` is what a model that runs here computes in. ``variant`` is appended to the tag, for configurations that differ in nothing the tag shows
    (a prefix, say). ``store`` is where the vectors are: pgvector, or the NAME of a ``[stores.NAME]``. ``cut``: the model
    gives more numbers, of which the first ``dimensions`` are kept and normalized here. ``query_model`` is another model of
    the same vector space that encodes queries: ``provider/name``, or ``provider/name@version`` where its version is not
    this one. ``roles`` are options that the model is given by role, as in ``{"query": {"input_type": "query"}}``. Raises
    :class:`PlanError` for values that can't be.
    """

    collection: str
    model: str
    version: str
    dimensions: int
    normalize: Normalization = "l2"
    metric: Metric = "cosine"
    storage: Storage = "vector"
    document_prefix: str = ""
    query_prefix: str = ""
    chunk: Chunk | None = None
    weights: str = ""
    variant: str = ""
    dtype: Dtype = "float32"
    store: str = IN_POSTGRESQL
    cut: bool = False
    query_model: str = ""
    roles: Mapping[Role, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.chunk, dict):
            object.__setattr__(self, "chunk", Chunk(**self.chunk))  # type: ignore[unreachable]  # from JSON
        check_space(self)
        given = {role: options for role, options in self.roles.items() if options}
        object.__setattr__(self, "roles", json.loads(json.dumps(given)))  # as it is read from JSON, and nobody else's

    @property
    def provider(self) -> str:
        """The part of ``model`` before the slash: which embedder makes the vectors."""
        return self.model.partition("/")[0]

    @property
    def name(self) -> str:
        """The part of ``model`` after the slash: what the provider calls the model."""
        return self.model.partition("/")[2]

    @property
    def query_side(self) -> Space:
        """The space as it is for queries: itself, or with the model that encodes them, whose files it does not pin."""
        if not self.query_model:
            return self
        found = QUERY_MODEL.fullmatch(self.query_model)
        assert found is not None
        return replace(self, model=found[1], version=found[2] or self.version, query_model="", weights="")

    @property
    def external(self) -> bool:
        """Whether the vectors are in a store beside PostgreSQL."""
        return self.store != IN_POSTGRESQL

    @property
    def half_precision(self) -> bool:
        """Whether vectors are stored in 16 bits a number: up to 65,504, and zero below 3e-8."""
        return self.storage == "halfvec"

    @property
    def tag(self) -> str:
        """The version string that stands on every vector row: ``model@version/dim-256/chunk-512/norm-l2``."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model).strip("-").lower()
        parts = [f"{slug}@{self.version}", f"dim-{self.dimensions}"]
        if self.chunk:
            overlap = f"+{self.chunk.overlap}" if self.chunk.overlap else ""
            unit = "t" if self.chunk.unit == "tokens" else ""
            parts.append(f"chunk-{self.chunk.size}{unit}{overlap}")
        parts.append(f"norm-{self.normalize}")
        if self.storage != "vector":
            parts.append(self.storage)
        if self.dtype != "float32":
            parts.append(self.dtype)
        if self.cut:
            parts.append("cut")
        if self.variant:
            parts.append(self.variant)
        if self.external:
            parts.append(f"on-{self.store}")
        return "/".join(parts)


def check_space(space: Space) -> None:
    """Refuses a space whose own fields contradict each other; raises :class:`PlanError`."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+/\S+", space.model):
        raise PlanError(
            f"model {space.model!r} is not provider/name", hint='for example "openai/text-embedding-3-small"'
        )
    if space.version.strip().lower() in UNPINNED:
        raise UnpinnedModel(
            f"{space.model}: version {space.version!r} is not pinned",
            hint="give the version that the vectors are made with; a name that moves would mix geometries unseen",
        )
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", space.version) or not re.fullmatch(r"[A-Za-z0-9._+-]*", space.variant):
        raise PlanError(
            f"version {space.version!r} or variant {space.variant!r} has characters that a tag can't hold",
            hint="letters, digits, '.', '_', '+' and '-'",
        )
    for name, allowed in (
        ("normalize", ("l2", "none")),
        ("metric", ("cosine", "l2", "ip")),
        ("storage", ("vector", "halfvec")),
        ("dtype", ("float32", "float16", "bfloat16")),
    ):
        if getattr(space, name) not in allowed:
            raise PlanError(f"{name} {getattr(space, name)!r} is not known", hint=f"one of {', '.join(allowed)}")
    check_query_side(space)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", space.store):
        raise PlanError(f"store {space.store!r} can't be the name of a store", hint="letters, digits, '_' and '-'")
    most = MAX_STORE_DIMENSIONS if space.external else MAX_DIMENSIONS[space.storage]
    if not 1 <= space.dimensions <= most:
        raise PlanError(f"dimensions {space.dimensions} is out of range", hint=f"1 to {most}")


def check_query_side(space: Space) -> None:
    """Refuses what can't be of ``cut``, ``query_model`` and ``roles``; raises :class:`PlanError`."""
    if space.cut and space.normalize != "l2":
        raise PlanError("cut vectors are normalized: cut=True and normalize='none' exclude each other")
    if space.query_model:
        found = QUERY_MODEL.fullmatch(space.query_model)
        if found is None:
            raise PlanError(
                f"query_model {space.query_model!r} is not provider/name or provider/name@version",
                hint='for example "voyage/voyage-4-lite"',
            )
        if (found[2] or "pinned").lower() in UNPINNED:
            raise UnpinnedModel(f"query_model {space.query_model!r} is not pinned", hint="give its version after the @")
    roles: Any = space.roles  # as a script or a file gives it
    if not isinstance(roles, Mapping) or not all(isinstance(options, Mapping) for options in roles.values()):
        raise PlanError("roles is not a table of tables", hint=ROLES_HINT)
    for role in roles.keys() - set(get_args(Role)):
        raise PlanError(f"role {role!r} is not known: document or query", hint=ROLES_HINT)
    try:
        json.dumps(roles, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PlanError(f"roles can't be written as JSON: {error}", hint=ROLES_HINT) from error


def fingerprint(space: Space, text: Sequence[str]) -> str:
    """SHA-256 of everything that shapes the geometry: the space and the text columns with their joining (DESIGN 1)."""
    shape = asdict(space) | {
        "text": list(text),
        "joiner": "\n\n",
        "chunker": "semantic-text-splitter" if space.chunk else None,
    }
    del shape["collection"], shape["metric"]  # the metric is how vectors are compared, not what they are
    del shape["store"]  # where they are
    # As it was before there was a choice: fingerprints that are stored stay what they are.
    for name, absent in (("dtype", "float32"), ("cut", False), ("query_model", ""), ("roles", {})):
        if shape[name] == absent:
            del shape[name]
    return hashlib.sha256(json.dumps(shape, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an embedder gives back for ``n`` texts: raw vectors ``(n, d)`` in the order asked, and what they cost.

    ``tokens`` is None where the provider doesn't say. ``truncated`` counts texts cut at the model's token limit.
    """

    vectors: Vectors
    tokens: int | None = None
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition of a gate: what was measured, what is required, and what would open it."""

    name: str
    value: float | int | str | None
    threshold: float | int | str | None
    passed: bool
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill or an index build is. ``total`` is counted once, as of the start, and then fixed; it is None
    until that count is known. Active seconds are those in which it was not paused; of them, the model or the database was at work
    in ``working_seconds``, and ``throttled_seconds`` were waited out at the speed that an operator allows. ``held_by`` says what
    slows it down, such as the API's limit.
    """

    what: str
    done: int
    total: int | None
    unit: str = "rows"
    tokens: int = 0
    cost: float | None = None
    active_seconds: float = 0.0
    failed: int = 0
    held_by: str = ""
    working_seconds: float = 0.0
    throttled_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Units a second of active time."""
        return self.done / self.active_seconds if self.active_seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the rate so far; None before anything is known."""
        if self.total is None or self.rate == 0:
            return None
        return max(0, self.total - self.done) / self.rate


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an operation would take: rows, tokens, dollars (None: unknown, never 0), bytes on disk.

    ``tokens_error`` is half of the 95 % interval, 0 where every text was counted; ``tokens_basis`` says how they are
    known (``tokenizer``, ``sample``, ``probe``, ``characters``). ``price`` is USD per million tokens, ``price_from``
    where that figure comes from, with its date. ``vectors`` are as many as ``rows``, or more where texts are cut.
    """

    rows: int | None = None
    tokens: int | None = None
    cost: float | None = None
    bytes: int | None = None
    note: str = ""
    vectors: int | None = None
    tokens_error: int | None = None
    tokens_basis: str = ""
    price: float | None = None
    price_from: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an embedder takes at once: texts a request, requests in flight, tokens a request and a text."""

    batch_size: int = 256
    concurrency: int = 1
    tokens_per_request: int | None = None
    tokens_per_text: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found through the alias. ``distance`` is in the space's metric: smaller is nearer.

    ``key`` has the key's own types; ``key_text`` is it as PostgreSQL prints it, as golden sets and the ledger have it.
    Where texts are cut, this is the row's nearest chunk: characters ``start`` to ``end`` of the row's text.
    """

    key: tuple[Any, ...]
    chunk: int
    version: str
    distance: float
    columns: dict[str, Any] = field(default_factory=dict)
    start: int | None = None
    end: int | None = None
    key_text: tuple[str, ...] = ()


class Hits(list[Hit]):
    """What a search found, nearest first, and how. All hits are of the version ``served_by``, which ranked them.

    Of a read that another version was to re-rank: ``recalled_by`` found the ``candidates``; ``missing`` of them had no vector of
    the other version when the answer was given, ``embedded`` were embedded for this read; ``budget_ended`` says that the time
    was over first, and ``why`` in words why the answer is not the other version's. ``bridged_from`` is the version whose model
    encoded the query where that was mapped by a bridge, and ``loss`` what that was measured to cost.
    """

    def __init__(
        self, hits: Iterable[Hit] = (), *, served_by: str = "", recalled_by: str = "", candidates: int = 0, missing: int = 0,
        embedded: int = 0, budget_ended: bool = False, why: str = "", bridged_from: str | None = None, loss: str = "",
    ) -> None:  # fmt: skip
        super().__init__(hits)
        self.served_by, self.recalled_by = served_by, recalled_by or served_by
        self.candidates, self.missing, self.embedded = candidates, missing, embedded
        self.budget_ended, self.why = budget_ended, why
        self.bridged_from, self.loss = bridged_from, loss


@dataclass(frozen=True, slots=True)
class Tally:
    """What a pipeline did. ``changed`` rows were edited or deleted between reading and writing, and were not taken.
    ``carried`` rows got the vector that another row or version had of their text.
    """

    rows: int = 0
    tokens: int = 0
    cost: float | None = None
    failed: int = 0
    truncated: int = 0
    changed: int = 0
    carried: int = 0

    def plus(self, other: Tally, sign: int = 1) -> Tally:
        """Both together; with ``sign`` -1, what is left without the other."""
        costs = self.cost is None and other.cost is None
        return Tally(
            self.rows + sign * other.rows,
            self.tokens + sign * other.tokens,
            None if costs else (self.cost or 0.0) + sign * (other.cost or 0.0),
            self.failed + sign * other.failed,
            self.truncated + sign * other.truncated,
            self.changed + sign * other.changed,
            self.carried + sign * other.carried,
        )
