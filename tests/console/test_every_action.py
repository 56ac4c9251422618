"""Whatever the console takes a form for is done in a real browser by a test. A new action has to be done there, too."""

from __future__ import annotations

from tests.console import test_making, test_message_actions, test_resource_actions, test_run_actions, test_sessions
from tests.console.actions import TESTED, every_action

MODULES = (test_making, test_message_actions, test_resource_actions, test_run_actions, test_sessions)


def test_every_action_is_carried_through_in_a_browser() -> None:
    assert every_action() - TESTED.keys() == set()
    assert TESTED.keys() - every_action() == set(), "the console has no such action"
    names = {name for module in MODULES for name in vars(module)}
    assert set(TESTED.values()) <= names
