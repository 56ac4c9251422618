"""The console's screens: a module for each family, which exports `screens`."""

from __future__ import annotations

from idioteque.console.pages import (
    dead_letters,
    events,
    lines,
    messages,
    overview,
    resources,
    run,
    runs,
    schedule_form,
    system,
)

SCREENS = (
    *overview.screens,
    *runs.screens,
    *run.screens,
    *dead_letters.screens,
    *messages.screens,
    *events.screens,
    *resources.screens,
    *schedule_form.screens,
    *lines.screens,
    *system.screens,
)
