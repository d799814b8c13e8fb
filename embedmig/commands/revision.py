"""revision: writes the next script."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.config.loading import unknown_store
from embedmig.errors import EmbedmigError, UsageError
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.derive_space import refuse_other_geometry
from embedmig.operations.evaluating import default_set
from embedmig.revisions import authoring
from embedmig.runner import plan_of, step_of
from embedmig.stores import adopted_place, describe_collection, vectors_in
from embedmig.types import IN_POSTGRESQL, MAX_INDEX_DIMENSIONS, Space


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a script with operations is made from; see :func:`revision`."""

    collection: str | None
    fields: Mapping[str, Any]
    adopt: str | None
    autogenerate: bool
    strategy: authoring.Strategy
    derive: str | None = None
    assume_current: bool = False
    key: str = "id"
    unmatched: float = 0.0


def revision(
    project: ProjectLike,
    message: str,
    *,
    collection: str | None = None,
    fields: Mapping[str, Any] | None = None,
    adopt: str | None = None,
    autogenerate: bool = False,
    empty: bool = False,
    strategy: authoring.Strategy = "all-at-once",
    head: str = "head",
    label: str | None = None,
    derive: str | None = None,
    assume_current: bool = False,
    key: str = "id",
    unmatched: float = 0.0,
) -> Path:
    """Writes the next script and returns its path. Raises :class:`UsageError`.

    ``fields`` are those of :class:`Space`: ``{"model": …, "version": …, "dimensions": …}``. ``adopt`` is the
    TABLE.COLUMN that holds the vectors already; where the fields name a ``store``, its collection, whose points say their
    row's key in ``key`` (``id``, ``payload.FIELD``), and ``unmatched`` is the share of them that may fit no row.
    ``autogenerate`` takes the model from the configuration. ``empty`` writes a script without operations. ``label`` names the branch that begins here. ``derive`` is the version (its tag, a part of it,
    or the number of the revision that made it) from whose vectors those of the new one are computed; then ``fields`` are what
    changes: storage, store, or fewer dimensions with ``cut``. ``assume_current`` as for ``op.derive_space``.
    """
    project = opened(project)
    wanted = Wanted(collection, fields or {}, adopt, autogenerate, strategy, derive, assume_current, key, unmatched)
    body = authoring.empty_body() if empty else _body(project, wanted)
    return authoring.new_revision(project.graph, message, body, head=head, label=label)


def _body(project: Project, wanted: Wanted) -> authoring.Body:
    collection = _collection_for(project, wanted)
    if wanted.adopt and wanted.fields.get("store", IN_POSTGRESQL) != IN_POSTGRESQL:
        return _adoption_beside(project, collection, wanted, wanted.adopt)
    if wanted.adopt:
        return _adoption(project, collection, wanted, wanted.adopt)
    old = _latest_version(project, collection)
    if wanted.derive:
        return _derivation(project, collection, wanted, wanted.derive, old)
    space = _space_for(project, collection, wanted)
    if old == space.tag:
        raise UsageError(f"{collection!r} is at {old} already; there is nothing to migrate")
    if wanted.strategy not in ("all-at-once", "parallel", "lazy"):
        raise UsageError(f"strategy {wanted.strategy!r} is not known", hint="all-at-once, parallel or lazy")
    judged = default_set(project.config, collection).exists()
    return authoring.space_body(_pinned(project, space), old, project.config.gates, wanted.strategy, judged=judged)


def _adoption(project: Project, collection: str, wanted: Wanted, place: str) -> authoring.Body:
    table, _, column = place.rpartition(".")
    if not table:
        raise UsageError(f"--adopt {place}: is not TABLE.COLUMN", hint="for example --adopt documents.embedding")
    found = _stored_as(project, collection, table, column)
    for name, value in found.items():
        if wanted.fields.get(name) not in (None, value):
            raise UsageError(f"--adopt {place}: {name} is {value} in the database, not {wanted.fields[name]}")
    declared = _declared(project, collection) if not wanted.fields.get("model") else {}
    space = _space_for(project, collection, replace(wanted, fields={**declared, **wanted.fields, **found}))
    return authoring.adopt_body(_pinned(project, space), table, column)


def _adoption_beside(project: Project, collection: str, wanted: Wanted, name: str) -> authoring.Body:
    """Of a collection in a store beside PostgreSQL, which says dimensions and metric where it can be reached."""
    adopted_place.check_key(wanted.key)
    declared = _declared(project, collection) if not wanted.fields.get("model") else {}
    fields, store = {**declared, **wanted.fields}, wanted.fields["store"]
    if store not in project.config.stores:
        raise UsageError(f"there is no [stores.{store}]", hint=unknown_store(store, project.config.stores))
    found = describe_collection(project.config.stores, store, name)
    for field, value in found.items():
        if wanted.fields.get(field) not in (None, value):
            raise UsageError(f"--adopt {name}: {field} is {value} in {store}, not {wanted.fields[field]}")
    space = _space_for(project, collection, replace(wanted, fields=fields | found))
    return authoring.adopt_collection_body(_pinned(project, space), name, wanted.key, wanted.unmatched)


def _derivation(project: Project, collection: str, wanted: Wanted, version: str, old: str | None) -> authoring.Body:
    made = _made_by_scripts(project, collection, version)
    space = replace(made.space, **wanted.fields)
    refuse_other_geometry(space, made.space)
    adopted = isinstance(made, AdoptSpace | AdoptCollection)
    if adopted and not wanted.assume_current:
        raise UsageError(
            f"of which text the adopted vectors of {made.space.tag} were made is not known",
            hint="--assume-current takes them to be of the texts as they are when the script is run",
        )
    derived = authoring.Derived(made.space.tag, adopted)
    judged = default_set(project.config, collection).exists()
    return authoring.space_body(space, old, project.config.gates, wanted.strategy, judged=judged, derived=derived)


def _made_by_scripts(project: Project, collection: str, version: str) -> CreateSpace | AdoptSpace | AdoptCollection:
    """What makes a version: named by its tag, a part of it that no other has, or the number of its revision."""
    made = {
        operation.space.tag: (script.revision, operation)
        for script in project.graph.walk()
        for operation in step_of(script, "upgrade").operations
        if isinstance(operation, CreateSpace | AdoptSpace | AdoptCollection)
        and operation.space.collection == collection
    }
    found = [one for tag, one in made.items() if tag == version] or [
        one for tag, one in made.items() if version in tag or version == one[0]
    ]
    if len(found) != 1:
        raise UsageError(
            f"{version!r} is {'no version' if not found else 'more than one version'} of {collection!r}",
            hint=f"the scripts make {', '.join(made) or 'none'}",
        )
    return found[0][1]


def _stored_as(project: Project, collection: str, table: str, column: str) -> dict[str, Any]:
    """Storage and dimensions of a column; nothing where there is no database, dimensions where they can be known.

    Raises :class:`SourceError` where there is no such table or column, :class:`UsageError` where it holds no vectors.
    """
    with ExitStack() as stack:
        try:
            _, conn = stack.enter_context(project.looking())
        except EmbedmigError:
            return {}  # a script can be written without the database
        declared = replace(project.config.collection(collection), table=table)
        return vectors_in(conn, declared, column)


def _collection_for(project: Project, wanted: Wanted) -> str:
    if wanted.collection:
        return project.config.collection(wanted.collection).name
    if wanted.autogenerate:
        return _outdated(project)
    if len(project.config.collections) == 1:
        return next(iter(project.config.collections))
    raise UsageError(
        "which collection?", hint=f"--collection {' or '.join(project.config.collections) or 'NAME'}, or --empty"
    )


def _outdated(project: Project) -> str:
    """The one collection whose declared model is not the active version."""
    declared = {
        name: Space(collection=name, **_declared(project, name)).tag
        for name, collection in project.config.collections.items() if collection.embedding
    }  # fmt: skip
    active = _active_versions(project)
    found = [name for name, tag in declared.items() if tag not in (_latest_version(project, name), active.get(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} collections differ from what the configuration declares",
            hint=f"--collection {' or '.join(found)}",
        )
    raise UsageError(
        "every declared model is the active version; there is nothing to generate",
        hint="declare the wanted one in [collections.NAME.embedding], or give --model, --model-version and --dimensions",
    )


def _active_versions(project: Project) -> dict[str, str | None]:
    """What each alias shows now, as the ledger's side knows it; nothing where the database is out of reach."""
    try:
        with project.looking() as (context, conn):
            plan = plan_of(context, conn, offline=True)
            return dict(plan.aliases)
    except EmbedmigError:
        return {}  # a script can be written without the database; the scripts say what came last


def _declared(project: Project, collection: str) -> dict[str, Any]:
    found = project.config.collection(collection)
    return dict(found.embedding or {}) | ({"chunk": found.chunk} if found.chunk else {})


def _space_for(project: Project, collection: str, wanted: Wanted) -> Space:
    declared = _declared(project, collection)
    fields = (
        declared | dict(wanted.fields) if wanted.autogenerate or not wanted.fields.get("model") else dict(wanted.fields)
    )
    if project.config.collection(collection).chunk and not wanted.adopt:
        fields = {"chunk": project.config.collection(collection).chunk} | fields
    if wanted.adopt:
        fields = {name: value for name, value in fields.items() if name != "chunk"}
    store = fields.get("store", IN_POSTGRESQL)
    stores = project.config.stores
    if store not in (IN_POSTGRESQL, *stores):
        raise UsageError(f"there is no [stores.{store}]", hint=unknown_store(store, stores))
    if store == IN_POSTGRESQL and fields.get("dimensions", 0) > MAX_INDEX_DIMENSIONS["vector"] and not wanted.adopt:
        fields = {"storage": "halfvec"} | fields  # an index on vector could not hold them
    missing = [option for option, name in (("--model", "model"), ("--model-version", "version"), ("--dimensions", "dimensions")) if not fields.get(name)]  # fmt: skip
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is needed",
            hint=f"or declare the model in [collections.{collection}.embedding] and use --autogenerate",
        )
    return Space(collection=collection, **fields)


def _pinned(project: Project, space: Space) -> Space:
    """The space with the hash of its weights, where they are on this disk: pinned in what is reviewed."""
    from embedmig.embedders import create

    try:
        embedder = create(space, project.config.settings(space.provider))
        if getattr(embedder, "pins_commit", False):
            return space  # its version names the files, which would have to be downloaded
        return replace(space, weights=embedder.weights())
    except EmbedmigError:
        return space  # written on a machine without the model; the backfill pins what it finds


def _latest_version(project: Project, collection: str) -> str | None:
    """The version that the alias shows when every script has run: a new one builds on all of them."""
    from embedmig.operations.flip_aliases import flips_of

    for script in project.graph.walk():
        for operation in reversed(step_of(script, "upgrade").operations):
            for flip in flips_of(operation):
                if flip.collection == collection and flip.version:
                    return flip.version
    return None
