"""States of the world as numbers, by which a search knows that it has been somewhere before.

What a delivery is at cannot be looked into, but follows from what it was told so far: its message, the answers it got,
and the time at each of its moves. Two deliveries that were told the same go on in the same way.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.messages import Message
    from tests.model.world import Running, World


def state_of(world: World, *beside: Any) -> int:
    """Return the same number for worlds in which the same can happen, as far as it depends on the world."""
    seen = [value for name, value in vars(world.observer).items() if name not in ("_world", "specs")]
    return _number((
        beside,
        world.clock_ms,
        world.store.kept(),
        _sent(world),
        [_attempt(message) for message in world.queue],
        [_attempt(message) for message in world.delayed],
        [message.uid for message in world.dead],
        world.acknowledged,
        world.given_up,
        world.retried,
        world.accepted,
        world.unanswered,
        world.deleted,
        [memory.state(world.clock_ms) for memory in world.memories],
        [_running(running) for running in world.running],
        seen,
    ))  # fmt: skip


def _number(value: Any) -> int:
    """Return one number for equal values, also where one shares parts that the other has twice."""
    written = io.BytesIO()
    pickler = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL)
    pickler.fast = True
    pickler.dump(value)
    return hash(written.getvalue())


def _sent(world: World) -> int:
    """Return what all messages that were ever accepted come to; each is looked at once."""
    fresh = world.history[world.sent_count :]
    if fresh:
        world.sent_count = len(world.history)
        world.sent_state = _number((world.sent_state, fresh))
    return world.sent_state


def _attempt(message: Message) -> tuple[int, int, int]:
    return message.uid, message.retried, message.due_ms


def _running(running: Running) -> Any:
    if running.heard:
        running.past = _number((running.past, running.heard))
        running.heard.clear()
    message = None if running.message is None else _attempt(running.message)
    return (
        message,
        running.past,
        running.moves,
        running.is_frozen,
        running.is_late,
        running.fails_next,
        list(running.held),
    )
