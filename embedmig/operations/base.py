"""What every operation is: validated against a plan, estimated, printed as SQL where it is SQL, and run.

There are two kinds. A *transactional* one is applied in one transaction, and its journal entry commits with it. An
*online* one takes its time in steps of its own; it may be started again at any point and finds by itself what is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from psycopg import sql

from embedmig.config import Config
from embedmig.database import Connection, Database
from embedmig.database.ledger import Ledger, ledger_exists
from embedmig.database.registry import AliasRecord, Registry, SpaceRecord
from embedmig.embedders import create, model_check
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.shared_limits import SharedRateBudget, Traffic
from embedmig.engine.backfill import NoWorkers, WorkerPool
from embedmig.engine.context import RunContext, Spending, SpendingLimit
from embedmig.engine.sync import Sync
from embedmig.errors import AliasMoved, EmbedderMisconfigured, PlanError, SourceError
from embedmig.events import Event
from embedmig.planning.prices import price
from embedmig.revisions.progress import FlipHistory, Way
from embedmig.source import Source
from embedmig.source import table as sources
from embedmig.stores import Manifest, VectorStore, open_manifest, open_store
from embedmig.stores.differences import Difference, live_differences, undeclared
from embedmig.types import Estimate, Space, Verdict, fingerprint


@dataclass
class Context:
    """Where a run takes place: configuration, database, ledger and registry, and the sources looked up so far."""

    config: Config
    database: Database
    ledger: Ledger
    registry: Registry
    _sources: dict[str, Source] = field(default_factory=dict)
    _spending: dict[str, Spending] = field(default_factory=dict)
    _listed: dict[int, float] = field(default_factory=dict)

    def source(self, conn: Connection, collection: str) -> Source:
        """The collection's table; looked up once a run. Raises :class:`SourceError`, :class:`ConfigError`."""
        if collection not in self._sources:
            self._sources[collection] = sources.resolve(conn, self.config.collection(collection))
        return self._sources[collection]

    def store(self, conn: Connection, record: SpaceRecord) -> VectorStore:
        return open_store(self.source(conn, record.collection), record)

    def remains(self, conn: Connection, record: SpaceRecord) -> VectorStore:
        """As :meth:`store`, whatever became of the source: for what asks nothing of it, such as dropping the vectors."""
        return open_store(self.source_as_it_is(conn, record.collection), record)

    def source_as_it_is(self, conn: Connection, collection: str) -> Source:
        """As :meth:`source`; one without columns where the table, or one of them, is not there any more."""
        try:
            with conn.transaction():  # a look-up that fails must not end the transaction that this stands in
                return self.source(conn, collection)
        except SourceError:
            return sources.unresolved(self.config.collection(collection))

    def manifest(self, conn: Connection, record: SpaceRecord) -> Manifest:
        """What PostgreSQL knows of a registered space."""
        return open_manifest(self.source(conn, record.collection), record)

    def spaces(self, conn: Connection, collection: str | None = None) -> list[SpaceRecord]:
        """The versions that the registry knows, of one collection or of all; none where embedmig never ran."""
        return self.registry.spaces(conn, collection) if ledger_exists(conn, self.database.schema) else []

    def differences(self, conn: Connection, collection: str) -> list[Difference]:
        """Where the configuration of a collection is not what is live; none where embedmig never ran."""
        if not ledger_exists(conn, self.database.schema):
            return []
        source = self.source(conn, collection)
        return live_differences(conn, self.registry, source.collection, source)

    def undeclared(self, conn: Connection) -> list[Difference]:
        """Collections of the database that the configuration does not name; none where embedmig never ran."""
        there = ledger_exists(conn, self.database.schema)
        return undeclared(conn, self.registry, self.config.collections) if there else []

    def encoder(
        self, space: Space, pinned: str = "", *, patience: float = float("inf"), traffic: Traffic = "live"
    ) -> Encoder:
        """The model of a space, within its configuration; ``pinned`` is the hash of the weights that made its vectors.

        ``patience`` is the most seconds that an API may go without one success, below what the configuration allows.
        It keeps to the limits of its API together with all others on this database, in the share of its ``traffic``.
        Raises :class:`EmbedderMisconfigured` where the model can't be had, or has other weights than it had.
        """
        settings = self.config.settings(space.provider)
        settings = replace(settings, give_up_after=min(settings.give_up_after, patience))
        embedder = create(space, settings)
        if hasattr(embedder, "share"):
            embedder.share(SharedRateBudget(self.database, settings, space.provider, traffic))
        found = embedder.weights()
        for expected in (pinned, space.weights):
            if expected:
                refuse_other_weights(space, expected, found, in_database=expected == pinned)
        return Encoder(space, embedder)

    def refuse_unknown_model(self, space: Space, pinned: str, *, created: bool) -> None:
        """What can be said against a model without calling it: provider, name, extra, dimensions, version, weights.

        Nobody needs its key for that. ``created`` is as for :meth:`probe`. Raises :class:`EmbedderMisconfigured`,
        :class:`MissingExtra`.
        """
        for side in dict.fromkeys((space.query_side, space)):
            settings = self.config.settings(side.provider)
            embedder = create(side, replace(settings, api_key=settings.api_key or "none"))
            if not created:
                embedder.check_version()
        if expected := pinned or space.weights:
            refuse_other_weights(space, expected, embedder.weights(), in_database=bool(pinned))

    def sync(
        self, conn: Connection, collection: str, stop: threading.Event, report: Callable[[Event], None] | None = None
    ) -> Sync:
        """What takes captured changes into the collection's spaces; its table is looked up anew, as it is now.

        ``report`` hears why it waits.
        """
        self._sources.pop(collection, None)
        return Sync(
            self.database,
            self.registry,
            self.source(conn, collection),
            encoder=lambda record: self.encoder(record.space, record.weights),
            limit=lambda record: self.limit(record.space),
            context=RunContext(report, stop) if report else RunContext(stop=stop),
            throttle=self.config.throttle,
            listed=self._listed,
        )

    def limit(self, space: Space, share: float = 1.0) -> SpendingLimit:
        """What the space's model may spend; ``share`` of the list price is what is paid. What is spent is counted for the
        life of this context: by provider, or in all where the limit is that of the command line.
        """
        settings = self.config.settings(space.provider)
        listed = price(space, settings)
        account = space.provider if self.config.max_cost is None else ""
        spending = self._spending.setdefault(account, Spending())
        return SpendingLimit(None if listed is None else listed * share, settings.max_cost, spending)

    def probe(self, space: Space, pinned: str = "", *, created: bool) -> str:
        """Embeds one harmless text, so that a wrong key, name or dimension is found before anything is changed.

        Returns the hash of the model's weights. ``created``: the space is there already, and its version was checked.
        """
        encoder = self.encoder(space, pinned)

        async def ask() -> None:
            try:
                await encoder.probe()
            finally:
                await encoder.embedder.aclose()

        if not created:
            encoder.embedder.check_version()
        wait_for(ask())
        if space.query_model:
            queries = self.encoder(space.query_side)
            queries.embedder.check_version()
            model_check.check_query_model(encoder, queries)
        return encoder.embedder.weights()


def refuse_other_weights(space: Space, expected: str, found: str, *, in_database: bool) -> None:
    """Raises :class:`EmbedderMisconfigured` where a model's files are not those that they must be."""
    if expected != found:
        origin = "the vectors in the database were made with" if in_database else "the script pins"
        raise EmbedderMisconfigured(
            f"{space.model}: {origin} weights {expected[:19]}…, but here are {found[:19] or 'none'}…",
            hint="install the same model files, or migrate to the new ones under a new version",
        )


@dataclass
class PlannedSpace:
    """A space as it will be at some point of the plan; ``record`` is None while only the plan knows it, and ``draft`` is what
    will be registered then. ``derived_from`` is the one that its vectors are computed from in this plan.
    """

    space: Space
    record: SpaceRecord | None = None
    has_vectors: bool = False
    revision: str = ""
    adopted: bool = False
    draft: SpaceRecord | None = None
    derived_from: PlannedSpace | None = None


@dataclass
class PlannedState:
    """The state that the plan will have reached; validation of each operation moves it on.

    ``offline`` leaves the models alone: a dry run calls none.
    """

    context: Context
    conn: Connection
    revision: str = ""
    direction: Way = "upgrade"
    offline: bool = False
    spaces: dict[tuple[str, str], PlannedSpace] = field(default_factory=dict)
    aliases: dict[str, str | None] = field(default_factory=dict)
    flips: dict[str, FlipHistory] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)  # collections whose changes are captured by then
    prepared: list[sql.SQL] = field(default_factory=list)  # what was printed already of what is done once a database

    def flip(self, collection: str, version: str | None) -> None:
        """Moves an alias on from what the revisions before left. Raises :class:`AliasMoved` where it shows something
        else, or where a downgrade would take away what another revision put there.
        """
        history = self.flips.setdefault(collection, FlipHistory())
        left, showing = history.shown, self.aliases.get(collection)
        if showing not in (left.version, version):
            raise AliasMoved(
                f"the alias of {collection} shows {showing or 'nothing'}, not {left.version or 'nothing'} "
                "as the applied revisions left it",
                hint=self._way_to(collection, showing),
            )
        if self.direction == "downgrade" and showing != version and left.revision not in ("", self.revision):
            raise AliasMoved(
                f"the alias of {collection} shows {showing}, which revision {left.revision} put there: "
                f"downgrade() of {self.revision} would take it away",
                hint=f"take {left.revision} back first",
            )
        history.flipped(self.revision, self.direction, version)
        self.aliases[collection] = version

    def _way_to(self, collection: str, version: str | None) -> str:
        """How the ledger comes to agree with an alias."""
        planned = self.spaces.get((collection, version or ""))
        if planned is None or not planned.revision:
            return "embedmig show REVISION lists what was done; embedmig stamp records what is applied"
        return f"revision {planned.revision} made that version: embedmig stamp {planned.revision} records it as applied"

    def source(self, collection: str) -> Source:
        return self.context.source(self.conn, collection)

    def alias(self, collection: str) -> AliasRecord | None:
        """What is live now; None where embedmig never ran."""
        there = ledger_exists(self.conn, self.context.database.schema)
        return self.context.registry.alias(self.conn, collection) if there else None

    def live_differences(self, collection: str) -> list[Difference]:
        """Where the configuration is not what is live now."""
        return self.context.differences(self.conn, collection)

    def expect(self, collection: str, version: str) -> PlannedSpace:
        """The space that an operation needs to be there by then. Raises :class:`PlanError`."""
        planned = self.spaces.get((collection, version))
        if planned is None:
            known = ", ".join(tag for name, tag in self.spaces if name == collection) or "none"
            raise PlanError(
                f"collection {collection!r} has no space {version} at this point",
                hint=f"known: {known}; op.create_space(…) makes one",
            )
        if planned.record and planned.record.state == "retired":
            raise PlanError(
                f"space {version} of {collection!r} is retired: its vectors are gone, and there is no way back to it",
                hint=f"a new revision with op.create_space makes it again; {self._price_of_return(planned.space)}",
            )
        if planned.record and planned.record.state == "released":
            raise PlanError(
                f"space {version} of {collection!r} is released: embedmig no longer watches its vectors",
                hint="a new revision with op.adopt_space adopts them again, if they are still there",
            )
        return planned

    def _price_of_return(self, space: Space) -> str:
        """What embedding the collection again would take, in words."""
        counted = sources.count_rows(self.conn, self.source(space.collection))
        tokens = counted.characters / 4
        usd = price(space, self.context.config.settings(space.provider))
        cost = "at an unknown price" if usd is None else f"about ${tokens * usd / 1e6:,.2f}"
        return f"that embeds {counted.eligible:,} rows again, some {tokens:,.0f} tokens, {cost}"

    def claim(self, space: Space, *, adopted: bool) -> PlannedSpace:
        """Notes that a space is made here. Raises :class:`PlanError` if its tag already means something else."""
        planned = self.spaces.get((space.collection, space.tag))
        if planned and planned.record:
            self._refuse_other_fingerprint(planned.record, space)
            if planned.record.adopted != adopted:
                raise PlanError(f"space {space.tag} of {space.collection!r} is there already, made in another way")
            if not planned.record.live:  # made again, under its own name
                del self.spaces[space.collection, space.tag]
        elif planned and planned.space != space:
            raise PlanError(f"two spaces of {space.collection!r} have the tag {space.tag} and differ", hint=VARIANT)
        made = PlannedSpace(space, revision=self.revision, adopted=adopted)
        return self.spaces.setdefault((space.collection, space.tag), made)

    def _refuse_other_fingerprint(self, record: SpaceRecord, space: Space) -> None:
        wanted = fingerprint(space, self.text_columns(space.collection))
        if record.fingerprint != wanted:
            raise PlanError(
                f"tag {space.tag} of {space.collection!r} has another fingerprint in the database: {differences(record, space, self)}",
                hint=VARIANT,
            )

    def text_columns(self, collection: str) -> tuple[str, ...]:
        """The columns whose joined text is embedded."""
        return tuple(column.name for column in self.source(collection).text)


VARIANT = 'two configurations need two tags: give one of them variant="…" or another version'


def differences(record: SpaceRecord, space: Space, plan: PlannedState) -> str:
    """In which fields a space differs from the one registered under its tag."""
    from embedmig.database.registry import definition_of

    before, now = definition_of(record.space), definition_of(space)
    before["text"], now["text"] = list(record.text_columns), list(plan.text_columns(space.collection))
    return "; ".join(
        f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in now if before.get(name) != now[name]
    )


@dataclass(kw_only=True)
class Run(RunContext):
    """A revision under way: what an operation needs to do its work, and, as a :class:`RunContext`, on whose behalf.

    ``aliases`` is what the revisions before left each alias at, moved on by every flip: the other half of compare-and-set.
    """

    context: Context
    conn: Connection
    attempt: int
    revision: str
    aliases: dict[str, str | None]
    no_wait: bool = False
    pool: WorkerPool = field(default_factory=NoWorkers)
    position: int = 0  # of the operation under way, in the script
    verdicts: list[Verdict] = field(default_factory=list)

    def record(self, collection: str, version: str) -> SpaceRecord:
        """The registered space; validation has seen to it that there is one."""
        record = self.context.registry.space(self.conn, collection, version)
        if record is None:
            raise PlanError(f"space {version} of {collection!r} is not registered")
        return record


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a script. Subclasses say what it is; see the module's docstring for the two kinds."""

    kind: ClassVar[str]
    repeats: ClassVar[bool] = False  # asked again on every run, although an earlier attempt finished it
    validated_again: ClassVar[bool] = True  # although it is passed over; not where its own effect would refuse it

    @property
    def transactional(self) -> bool:
        """Which of the two kinds it is."""
        return True

    def describe(self) -> str:
        """One line for people."""
        raise NotImplementedError

    def validate(self, plan: PlannedState) -> None:
        """Refuses what can't work, before anything is changed, and moves the plan on. Raises :class:`PlanError`."""
        raise NotImplementedError

    def estimate(self, plan: PlannedState) -> Estimate:
        """What it would take."""
        return Estimate()

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """Its statements; or, in words, why there are none."""
        return "not SQL"

    def prepare(self, run: Run) -> None:
        """Transactional: what is to be done outside PostgreSQL goes before the transaction, and may be repeated."""

    def withdraw(self, run: Run) -> None:
        """Takes :meth:`prepare` back, where the transaction came to nothing."""

    def complete(self, run: Run) -> None:
        """Transactional: what is to be done outside PostgreSQL once the transaction is committed; repeated, nothing. A later run
        of the same revision calls it again.
        """

    def apply(self, run: Run, conn: Connection) -> str:
        """Transactional: does it inside the transaction of ``conn``; returns the outcome in a few words."""
        raise NotImplementedError

    def run(self, run: Run) -> str:
        """Online: does it; returns the outcome in a few words."""
        raise NotImplementedError


def tag_of(space: Space | str) -> str:
    """The version that a script means, which names it by its space or by its tag."""
    return space.tag if isinstance(space, Space) else space


def collection_of(space: Space | str, collection: str | None) -> str:
    """The collection that a script means. Raises :class:`PlanError` where a bare tag leaves it open."""
    if isinstance(space, Space):
        if collection not in (None, space.collection):
            raise PlanError(f"the space is of collection {space.collection!r}, not {collection!r}")
        return space.collection
    if collection is None:
        raise PlanError(f"the tag {space!r} doesn't say of which collection", hint='add collection="…"')
    return collection
