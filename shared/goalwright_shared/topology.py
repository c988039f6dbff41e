"""Streams, durable consumers and the artifact bucket: what they must be, `apply` and `verify`.

`goalwright topology apply` (and the scheduler, when a lane is added to a running system) applies; services
only verify, and say clearly what is missing or differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.client import JetStreamContext
from nats.js.errors import BucketNotFoundError, NotFoundError

from goalwright_shared import subjects
from goalwright_shared.errors import TopologyMissing

_DAY = 86_400.0
_TAKEOVER_SECONDS = 6.0
"""What a killed leader had in hand comes to the next one after this; commits take milliseconds."""
PRESENCE_SECONDS = 15.0
"""A performer of ours that was not heard of for so long has lost its work; it says something three times as often."""

MAX_SLOTS = 8_192
"""Waiting pulls and unacked messages a lane's consumer takes, over all its performers."""


def streams(
    *, events_days: float = 7, events_bytes: int = 4 << 30, dead_days: float = 30
) -> list[StreamConfig]:
    """The streams. Only NATS holds a submitted goal, so GOALS is a file stream that is synced before the ack
    (where the server's `sync_interval` is `always`); Postgres can rebuild WORK, so it is memory, and stands
    behind the other files, so they need not wait for the disk (`persist_mode` async)."""
    return [
        StreamConfig(
            name=subjects.GOALS,
            subjects=[subjects.GOALS_SUBMIT, f"{subjects.GOALS_SUBMIT}.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            duplicate_window=120,
        ),
        StreamConfig(
            name=subjects.WORK,
            subjects=["work.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY,
            duplicate_window=120,
        ),
        StreamConfig(
            name=subjects.OUTCOMES,
            subjects=["outcomes.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            persist_mode=PersistMode.ASYNC,
            duplicate_window=120,
        ),
        StreamConfig(
            name=subjects.EVENTS,
            subjects=[subjects.EVENTS_ALL],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            persist_mode=PersistMode.ASYNC,
            max_age=events_days * _DAY,
            max_bytes=events_bytes,
            discard=DiscardPolicy.OLD,
            duplicate_window=120,
            allow_direct=True,
        ),
        StreamConfig(
            name=subjects.DEAD,
            subjects=["dead.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            persist_mode=PersistMode.ASYNC,
            max_age=dead_days * _DAY,
            max_bytes=1 << 30,
        ),
        StreamConfig(
            name=subjects.ADVISORIES,
            subjects=[
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
            ],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            max_age=dead_days * _DAY,
        ),
    ]


def scheduler_consumers() -> list[tuple[str, ConsumerConfig]]:
    """The scheduler's durable consumers as (stream, config)."""
    return [
        (stream, ConsumerConfig(durable_name=durable, ack_policy=AckPolicy.EXPLICIT,
                                ack_wait=_TAKEOVER_SECONDS, max_deliver=deliver, max_ack_pending=10_000))
        for stream, durable, deliver in (
            (subjects.GOALS, subjects.DURABLE_GOALS, 20),
            (subjects.OUTCOMES, subjects.DURABLE_OUTCOMES, -1),
            (subjects.ADVISORIES, subjects.DURABLE_ADVISORIES, 20),
        )
    ]  # fmt: skip


def reflector_consumers() -> list[tuple[str, ConsumerConfig]]:
    """The reflectors' durable on the event stream, shared by all of them, as (stream, config)."""
    config = ConsumerConfig(
        durable_name=subjects.DURABLE_REFLECTOR,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=30,
        max_deliver=20,
        max_ack_pending=4_096,
    )
    return [(subjects.EVENTS, config)]


def lane_consumer(lane: str, *, ack_wait: float = PRESENCE_SECONDS) -> ConsumerConfig:
    """The durable pull consumer of a lane: performers pull one message at a time from it.

    Ours extend `ack_wait` while they work; lanes of users, who need not, get one beyond their lease.
    """
    return ConsumerConfig(
        durable_name=subjects.work_durable(lane),
        filter_subject=subjects.work(lane),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        max_deliver=-1,
        max_ack_pending=MAX_SLOTS,
        max_waiting=MAX_SLOTS,
    )


async def apply(js: JetStreamContext, lanes: list[str]) -> list[str]:
    """Create or update everything; idempotent. Returns what was created or changed, for people."""
    changed = []
    for config in streams():
        assert config.name is not None
        try:
            have = (await js.stream_info(config.name)).config
        except NotFoundError:
            await js.add_stream(config)
            changed.append(f"stream {config.name} created")
        else:
            if _stream_drift(have, config):
                # the server refuses to change how an existing stream persists
                await js.update_stream(config.evolve(persist_mode=have.persist_mode))
                changed.append(f"stream {config.name} updated")
    try:
        await js.object_store(subjects.ARTIFACTS)
    except (BucketNotFoundError, NotFoundError):
        await js.create_object_store(subjects.ARTIFACTS)
        changed.append(f"bucket {subjects.ARTIFACTS} created")
    for stream, consumer in _consumers(lanes):
        if await apply_consumer(js, stream, consumer):
            changed.append(f"consumer {consumer.durable_name} applied")
    return changed


async def apply_consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> bool:
    """Create or update one durable; True when something changed."""
    assert config.durable_name is not None
    try:
        have = (await js.consumer_info(stream, config.durable_name)).config
    except NotFoundError:
        await js.add_consumer(stream, config)
        return True
    if _consumer_drift(have, config):
        await js.add_consumer(stream, config)
        return True
    return False


async def verify_durable(js: JetStreamContext, stream: str, config: ConsumerConfig) -> None:
    """Raise `TopologyMissing` when a durable is absent or differs from `config`."""
    fix = "goalwright topology apply"
    assert config.durable_name is not None
    try:
        have = (await js.consumer_info(stream, config.durable_name)).config
    except NotFoundError as error:
        raise TopologyMissing(
            "no_consumer", f"consumer {config.durable_name} of stream {stream} does not exist", hint=fix
        ) from error
    drift = _consumer_drift(have, config)
    if drift:
        raise TopologyMissing(
            "consumer_differs", f"consumer {config.durable_name} of {stream} differs: {drift}", hint=fix
        )


async def differences(js: JetStreamContext, lanes: list[str]) -> list[str]:
    """What is missing or differs from what `apply` makes, for people; changes nothing."""
    found = []
    for config in streams():
        assert config.name is not None
        try:
            drift = _stream_drift((await js.stream_info(config.name)).config, config)
        except NotFoundError:
            drift = "does not exist"
        if drift:
            found.append(f"stream {config.name}: {drift}")
    try:
        await js.object_store(subjects.ARTIFACTS)
    except (BucketNotFoundError, NotFoundError):
        found.append(f"bucket {subjects.ARTIFACTS}: does not exist")
    for stream, consumer in _consumers(lanes):
        try:
            await verify_durable(js, stream, consumer)
        except TopologyMissing as error:
            found.append(error.message)
    return found


def _consumers(lanes: list[str]) -> list[tuple[str, ConsumerConfig]]:
    of_lanes = [(subjects.WORK, lane_consumer(lane)) for lane in lanes]
    return scheduler_consumers() + reflector_consumers() + of_lanes


def _stream_drift(have: StreamConfig, want: StreamConfig) -> str:
    fields = ("subjects", "retention", "storage", "max_age", "max_bytes")
    defaults = {"max_age": 0, "max_bytes": -1}
    return _drift(have, want, fields, defaults)


def _consumer_drift(have: ConsumerConfig, want: ConsumerConfig) -> str:
    fields = ("filter_subject", "ack_wait", "max_deliver", "max_ack_pending", "max_waiting")
    return _drift(have, want, fields, {"max_waiting": have.max_waiting})


def _drift(have: object, want: object, fields: tuple[str, ...], defaults: Mapping[str, object]) -> str:
    found = []
    for field in fields:
        wanted, present = getattr(want, field), getattr(have, field)
        wanted = defaults.get(field) if wanted is None else wanted
        present = defaults.get(field) if present is None else present
        if (wanted or None) != (present or None):
            found.append(f"{field} is {present!r}, wanted {wanted!r}")
    return "; ".join(found)
