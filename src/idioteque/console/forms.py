"""Forms for events, made from the JSON schema of a worker's events, and the events that filled-in forms become."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from idioteque.client import Json
from idioteque.errors import InvalidValue

Describe = Callable[[], Awaitable[Json | None]]
"""Returns what is known of the worker: `schema` (JSON schema of its events) and `mount_url`; None: nothing."""

TYPE = "type"
FIELDS_MAX = 100
PREFIX = "field."
WORDS: Mapping[str, str] = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "json": "JSON",
}
KINDS: Mapping[str, str] = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event: `kind` is text, integer, number, boolean, choice or json; `value` is what it begins with."""

    name: str
    kind: str
    is_required: bool
    value: str
    choices: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class EventForm:
    """How one type of events is written; `type` is "" where the schema declares none."""

    type: str
    title: str
    fields: tuple[Field, ...]


def forms_of(schema: Json) -> tuple[EventForm, ...]:
    """Return a form for each type of events in a schema; none where it is made of no objects."""
    models = _models(schema, schema, 0)
    return tuple(form for model in models for form in _forms(schema, model))


def event_from(form: EventForm, given: Callable[[str], str]) -> Json:
    """Return the event that the fields of a form make; raise `InvalidValue` for what is none of its kind."""
    event: Json = {TYPE: form.type} if form.type else {}
    for field in form.fields:
        text = given(PREFIX + field.name)
        if not text.strip() and not field.is_required:
            continue  # the schema's own default
        event[field.name] = _value(field, text)
    return event


def _value(field: Field, text: str) -> object:
    try:
        match field.kind:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return {"true": True, "false": False}[text]
            case "json":
                return json.loads(text)
            case _:
                return text
    except (ValueError, KeyError, RecursionError):
        what = WORDS.get(field.kind, "a text")
        raise InvalidValue(f"field {field.name!r} must be {what}, not {text[:80]!r}") from None


def _models(schema: Json, node: Json, depth: int) -> list[Json]:
    node = _resolved(schema, node)
    several = _list(node, "oneOf") or _list(node, "anyOf")
    if several and depth < 8:
        return [model for one in several for model in _models(schema, one, depth + 1)]
    return [node] if isinstance(node.get("properties"), dict) else []


def _forms(schema: Json, model: Json) -> list[EventForm]:
    properties = cast(Mapping[str, Json], model["properties"])
    named = _resolved(schema, properties.get(TYPE, {}))
    types = [str(one) for one in cast(Sequence[object], named.get("enum", ()))] or [str(named.get("const", ""))]
    wanted = {str(name) for name in cast(Sequence[object], model.get("required", ()))}
    fields = tuple(
        _field(schema, name, _resolved(schema, node), name in wanted)
        for name, node in list(properties.items())[:FIELDS_MAX]
        if name != TYPE or not types[0]
    )
    return [EventForm(one, str(model.get("title", one or "event")), fields) for one in types]


def _field(schema: Json, name: str, node: Json, is_required: bool) -> Field:
    note = str(node.get("description", ""))
    choices = tuple(str(one) for one in cast(Sequence[object], node.get("enum", ())) if isinstance(one, str))
    variants = [_resolved(schema, one) for one in _list(node, "anyOf")]
    real = [one for one in variants if one.get("type") != "null"]
    if len(real) == 1:  # an optional value
        inner = _field(schema, name, {**real[0], "default": node.get("default")}, is_required)
        return Field(
            name, inner.kind, is_required and len(variants) == 1, inner.value, inner.choices, note or inner.note
        )
    kind = "choice" if choices else KINDS.get(str(node.get("type", "")), "json")
    if "default" in node and node["default"] is not None:
        default = node["default"]
        value = default if isinstance(default, str) and kind in ("text", "choice") else json.dumps(default)
    else:
        value = {"array": "[]", "object": "{}"}.get(str(node.get("type")), "") if kind == "json" else ""
    return Field(name, kind, is_required, str(value), choices, note or str(node.get("format", "")))


def _resolved(schema: Json, node: Json) -> Json:
    """Follow the references of a node inside its schema; what cannot be followed says nothing."""
    for _ in range(8):
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return node
        found = schema
        for key in reference.removeprefix("#/").split("/"):
            inner = found.get(key)
            found = cast(Json, inner) if isinstance(inner, dict) else {}
        node = {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    return {}


def _list(node: Json, name: str) -> list[Json]:
    value = node.get(name)
    several = cast(list[object], value) if isinstance(value, list) else []
    return [cast(Json, one) for one in several if isinstance(one, dict)]
