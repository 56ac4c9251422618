"""The console's screens: a module for each family, which exports `screens`."""

from __future__ import annotations

from idioteque.console.pages import dead_letters, events, messages, overview, resources, run, runs

SCREENS = (
    *overview.screens,
    *runs.screens,
    *run.screens,
    *dead_letters.screens,
    *messages.screens,
    *events.screens,
    *resources.screens,
)
