"""Rules about flips, gates, retirement and downgrades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedmig.config.toml_values import parse_duration
from embedmig.errors import ConfigError
from embedmig.lint import Violation, rule
from embedmig.lint.reading import Reading, Subject
from embedmig.operations.adopt_collection import AdoptCollection
from embedmig.operations.adopt_space import AdoptSpace
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.derive_space import DeriveSpace
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.gate import Gate
from embedmig.operations.recording import Call
from embedmig.operations.retire_space import RetireSpace

MEASURES = {"ndcg_at_10", "overlap_at_10"}  # thresholds that say how well a version finds
RETENTION_DAYS = 7  # a week of traffic: what only Monday morning shows has been seen by then


@rule("EM001")
def flip_without_gate(subject: Subject) -> Iterator[Violation]:
    """A flip to a version that no gate of the same function has passed since it was last filled.

    Vectors that the function itself adopts are what is being served already: showing them changes nothing.
    """
    for reading in subject.readings:
        for calls in (reading.upgrade, reading.downgrade or ()):
            yield from _ungated(reading, calls)


def _ungated(reading: Reading, calls: Sequence[Call]) -> Iterator[Violation]:
    passed: set[tuple[str, str]] = set()
    for call in calls:
        match call.operation:
            case Gate(collection, version):
                passed.add((collection, version))
            case AdoptSpace(space) | AdoptCollection(space):
                passed.add((space.collection, space.tag))
            case BackfillSpace(space) | DeriveSpace(space):
                passed.discard((space.collection, space.tag))
            case FlipAlias(collection, str(version)) if (collection, version) not in passed:
                yield Violation(
                    reading.script.path,
                    call.line,
                    f"the alias of {collection!r} is flipped to {version} without a gate before it",
                    "put op.gate(…, completeness=0.995) after the backfill and before the flip",
                )


@rule("EM002")
def gate_without_completeness(subject: Subject) -> Iterator[Violation]:
    """A gate whose threshold is whatever ``[gates]`` says on the day, which nobody reviewed."""
    for reading, call, gate in subject.calls(Gate):
        if gate.completeness is None:
            message = f"the gate on {gate.version} has no completeness"
            fix = "write completeness=0.995 in the script, so that the reviewed threshold applies"
            yield Violation(reading.script.path, call.line, message, fix)


@rule("EM003")
def retire_too_early(subject: Subject) -> Iterator[Violation]:
    """A version is dropped before it can be known that nobody has to go back to it."""
    for reading, call, retired in subject.calls(RetireSpace):
        if _days(retired.after) < RETENTION_DAYS:
            message = (
                f"{retired.version} is retired {f'after {retired.after}' if retired.after else 'without a retention'}"
            )
            fix = f'after="{RETENTION_DAYS}d" or more, better "21d": until it is retired, a rollback is one flip'
            yield Violation(reading.script.path, call.line, message, fix)


def _days(after: object) -> float:
    """A retention in days; none where there is none, or where it can't be read."""
    try:
        return parse_duration(after) / 86400 if isinstance(after, (str, int, float)) else 0.0
    except ConfigError:
        return 0.0


@rule("EM004")
def retire_with_flip(subject: Subject) -> Iterator[Violation]:
    """The revision that flips also drops the version that a rollback needs."""
    for reading, call, retired in subject.calls(RetireSpace):
        if call in reading.upgrade and retired.collection in last_flips(reading.upgrade):
            message = f"{retired.version} is retired by the revision that flips the alias of {retired.collection!r}"
            fix = f"retire it in a revision of its own, or by hand: embedmig retire {retired.collection} {retired.version}"
            yield Violation(reading.script.path, call.line, message, fix)


@rule("EM020")
def quality_not_measured(subject: Subject) -> Iterator[Violation]:
    """A flip away from a version without any gate on quality: a worse model would pass. Scripts that are applied are history."""
    judged: set[tuple[str, str]] = set()
    for reading in subject.readings:
        gates = [call.operation for call in reading.upgrade if isinstance(call.operation, Gate)]
        judged |= {(gate.collection, gate.version) for gate in gates if MEASURES.intersection(gate.evidence.given)}
        if reading.script.revision not in (subject.applied or {}):
            yield from _unmeasured(reading, judged)


def _unmeasured(reading: Reading, judged: set[tuple[str, str]]) -> Iterator[Violation]:
    for call in reading.upgrade:
        match call.operation:
            case FlipAlias(collection, str(version)) if (collection, version) not in judged:
                shown = reading.before.aliases.get(collection)
                if shown not in (None, version):
                    yield Violation(
                        reading.script.path,
                        call.line,
                        f"the alias of {collection!r} moves from {shown} to {version}, and no gate asks how well that finds",
                        f"embedmig eval {collection} --make-golden 200 draws a golden set; then "
                        "op.gate(…, ndcg_at_10=within(0.01, of=OLD))",
                    )


@rule("EM024")
def alias_changes_columns(subject: Subject) -> Iterator[Violation]:
    """A flip between PostgreSQL and a store beside it: who reads the alias' vectors in SQL loses them. Scripts that are applied are
    history.
    """
    for reading in subject.readings:
        if reading.script.revision in (subject.applied or {}):
            continue
        for call in reading.upgrade:
            match call.operation:
                case FlipAlias(collection, str(version)):
                    spaces = reading.before.after(reading.upgrade).spaces
                    before = spaces.get((collection, reading.before.aliases.get(collection) or ""))
                    after = spaces.get((collection, version))
                    if before and after and before.external != after.external:
                        gone, comes = ("embedding", "point_id") if after.external else ("point_id", "embedding")
                        yield Violation(
                            reading.script.path,
                            call.line,
                            f"the alias of {collection!r} loses its column {gone} and shows {comes} instead",
                            "its view is dropped and made anew with its grants; drop views that stand on it, and have "
                            "programs search through Reader",
                        )


@rule("EM021")
def work_after_flip(subject: Subject) -> Iterator[Violation]:
    """What follows a flip may fail when readers are on the new version already: only retirement needs the flip first.

    Where the alias showed nothing before, nobody is moved; and ``downgrade()`` undoes in reverse order.
    """
    for reading in subject.readings:
        moved = False
        for call in reading.upgrade:
            if moved and _is_work(call):
                message = (
                    f"op.{call.operation.kind} comes after op.flip_alias: should it fail, the alias has moved already"
                )
                mend = "put it before the gate, or in a revision of its own; only op.retire_space belongs after a flip"
                yield Violation(reading.script.path, call.line, message, mend)
            if isinstance(call.operation, FlipAlias):
                moved |= reading.before.aliases.get(call.operation.collection) is not None


def _is_work(call: Call) -> bool:
    """Whether an operation does something that may fail; another flip, and the gate before it, are part of a cutover."""
    return not isinstance(call.operation, FlipAlias | Gate | RetireSpace)


@rule("EM007")
def downgrade_missing(subject: Subject) -> Iterator[Violation]:
    """There is no ``downgrade()``, so ``embedmig downgrade`` stops here."""
    for reading in subject.readings:
        if reading.error is None and reading.downgrade is None and not reading.script.replaces:
            yield Violation(
                reading.script.path,
                None,
                f"{reading.script.revision} has no downgrade()",
                "write op.gate on the previous version and op.flip_alias to it, or pass if nothing was flipped",
            )


@rule("EM008")
def downgrade_not_inverse(subject: Subject) -> Iterator[Violation]:
    """Each alias that ``upgrade()`` moves must be moved back to what it showed before, and no other."""
    for reading in subject.readings:
        if reading.downgrade is None or not reading.before.known:
            continue
        moved, back = last_flips(reading.upgrade), last_flips(reading.downgrade)
        for collection, call in moved.items():
            yield from _not_back(reading, collection, call, back.get(collection))
        for collection in back.keys() - moved.keys():
            yield Violation(
                reading.script.path,
                back[collection].line,
                f"downgrade() flips the alias of {collection!r}, which upgrade() leaves alone",
                "downgrade() must undo what upgrade() did, and nothing else",
            )


def last_flips(calls: Sequence[Call]) -> dict[str, Call]:
    """Where each alias ends up."""
    return {call.operation.collection: call for call in calls if isinstance(call.operation, FlipAlias)}


def _not_back(reading: Reading, collection: str, moved: Call, back: Call | None) -> Iterator[Violation]:
    before = reading.before.aliases.get(collection)
    shown = "nothing" if before is None else before
    if back is None and target(moved) != before:
        message = f"upgrade() moves the alias of {collection!r} and downgrade() doesn't move it back to {shown}"
        yield Violation(reading.script.path, moved.line, message, "write op.gate and op.flip_alias in downgrade()")
    elif back is not None and target(back) != before:
        message = f"downgrade() leaves the alias of {collection!r} at {target(back) or 'nothing'}; before this revision it shows {shown}"
        yield Violation(reading.script.path, back.line, message, f"flip it to {before!r}")


def target(call: Call) -> str | None:
    """The version that a flip leads to."""
    assert isinstance(call.operation, FlipAlias)
    return call.operation.version
