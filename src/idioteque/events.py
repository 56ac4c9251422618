"""The check at the door: an events schema that pydantic validates, and triggers, which say what starts a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import ValidationError

from idioteque.errors import ConfigurationError, EventRejected
from idioteque.finite import has_non_finite

On = str | type[BaseModel] | Callable[[Any], bool] | Iterable[str | type[BaseModel]]
"""What starts a function: a type name, an event class, several of either, or a predicate of the event."""

TYPE_FIELD = "type"
REASON_LENGTH_MAX = 500


class EventsSchema:
    """The events of one worker: a pydantic model, a union of them, or anything else a `TypeAdapter` takes."""

    def __init__(self, schema: object) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, schema))
        except Exception as error:
            raise ConfigurationError(f"events_schema is nothing that pydantic can validate: {error}") from error
        self.types = frozenset(_type_names(schema))
        """The names that the schema's `type` fields allow; empty when it declares none."""
        self.classes: tuple[type[BaseModel], ...] = tuple(_classes(schema))
        """The models of the schema; empty when it is not made of models alone."""

    def encode(self, event: object) -> bytes:
        """Validate an event (a model or plain data) and return its JSON, in the names of the schema's fields.

        Raise `EventRejected`, also for an event that would not be accepted again where it arrives.
        """
        valid = self.validate(event)
        encoded = self.dump(valid)
        if b"null" in encoded and has_non_finite(valid):
            raise EventRejected("the event cannot be written as JSON: it holds NaN or an infinity")
        self.decode(encoded)
        return encoded

    def validate(self, event: object) -> Any:
        """Return a Python value as an event of the schema; raise `EventRejected`."""
        try:
            return self._adapter.validate_python(event)
        except ValidationError as error:
            raise EventRejected(f"the event does not fit the schema: {_explained(error)}") from error

    def dump(self, event: object) -> bytes:
        """Return the JSON of an event that was validated."""
        try:
            return self._adapter.dump_json(event, by_alias=False, warnings="error", round_trip=True)
        except Exception as error:  # whatever a serializer of the user's raises
            raise EventRejected(f"the event cannot be written as JSON: {str(error)[:REASON_LENGTH_MAX]}") from error

    def decode(self, data: bytes) -> Any:
        """Return the event of a JSON document, its fields under their names or aliases; raise `EventRejected`."""
        try:
            return self._adapter.validate_json(data, by_alias=True, by_name=True)
        except ValidationError as error:
            raise EventRejected(f"the event does not fit the schema: {_explained(error)}") from error


class Trigger:
    """Decides whether an event starts a function."""

    def __init__(self, on: On) -> None:
        self._names: frozenset[str] = frozenset()
        self._classes: tuple[type[BaseModel], ...] = ()
        self._predicate: Callable[[Any], bool] | None = None
        if isinstance(on, str):
            self._names = frozenset([on])
        elif isinstance(on, type):
            self._classes = (_checked_class(on),)
        elif callable(on):
            self._predicate = _checked_predicate(on)
        else:
            several = list(on)
            self._names = frozenset(item for item in several if isinstance(item, str))
            self._classes = tuple(_checked_class(item) for item in several if not isinstance(item, str))
        if not (self._names or self._classes or self._predicate):
            raise ConfigurationError("on= names nothing that could start the function")

    def matches(self, event: object) -> bool:
        """Return whether this event starts the function; whatever a predicate raises reaches the caller."""
        if self._predicate is not None:
            return bool(self._predicate(event))
        return isinstance(event, self._classes) or (bool(self._names) and type_of(event) in self._names)

    @property
    def runs_code(self) -> bool:
        """Whether somebody's code decides."""
        return self._predicate is not None

    def classes(self, schema: EventsSchema) -> tuple[type[BaseModel], ...]:
        """Return the classes of the events that may start the function; empty when that cannot be told."""
        if self._predicate is not None or not schema.classes:
            return ()
        named = [each for each in schema.classes if self._names.intersection(_type_names(each))]
        return (*self._classes, *named)

    def check_against(self, schema: EventsSchema, function_id: str) -> None:
        """Raise `ConfigurationError` for a type name that no event of the schema can have."""
        unknown = sorted(self._names - schema.types) if schema.types else []
        if unknown:
            raise ConfigurationError(
                f"function {function_id!r} starts on {unknown[0]!r}, but the events schema only has "
                f"{', '.join(sorted(schema.types))}"
            )


def type_of(event: object) -> str | None:
    """Return an event's type name: its `type` field or key, or None."""
    if isinstance(event, Mapping):
        value: object = cast(Mapping[str, object], event).get(TYPE_FIELD)
    else:
        value = getattr(event, TYPE_FIELD, None)
    return value if isinstance(value, str) else None


def names_of(event_class: type[BaseModel]) -> list[str]:
    """Return the type names of an event class; raise `ConfigurationError` when its `type` is no `Literal`."""
    names = _type_names(_checked_class(event_class))
    if not names:
        raise ConfigurationError(f"{event_class.__name__} cannot be waited for: its `type` must be a Literal")
    return names


def _checked_predicate(predicate: Callable[[Any], bool]) -> Callable[[Any], bool]:
    if inspect.iscoroutinefunction(predicate) or inspect.iscoroutinefunction(getattr(predicate, "__call__", None)):  # noqa: B004
        raise ConfigurationError("on= takes a plain predicate: what an async one returns is always true")
    return predicate


def _checked_class(item: object) -> type[BaseModel]:
    if not (isinstance(item, type) and issubclass(item, BaseModel)):
        raise ConfigurationError(f"on= takes type names, event classes or a predicate, not {item!r}")
    return item


def _type_names(schema: object) -> list[str]:
    """Collect the literal names of the `type` fields of every model in a (union) schema."""
    if get_origin(schema) is Annotated:
        return _type_names(get_args(schema)[0])
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        field: FieldInfo | None = schema.model_fields.get(TYPE_FIELD)
        if field is not None and get_origin(field.annotation) is Literal:
            return [name for name in get_args(field.annotation) if isinstance(name, str)]
        return []
    if get_origin(schema) in (Union, UnionType):
        members = [_type_names(member) for member in get_args(schema)]
        return [name for names in members for name in names] if all(members) else []
    return []


def _classes(schema: object) -> list[type[BaseModel]]:
    """Collect the models of a (union) schema; none when anything else is among them."""
    if get_origin(schema) is Annotated:
        return _classes(get_args(schema)[0])
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return [schema]
    if get_origin(schema) in (Union, UnionType):
        members = [_classes(member) for member in get_args(schema)]
        return [each for found in members for each in found] if all(members) else []
    return []


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = f"{where}: {first['msg']}" if where else first["msg"]
    return text[:REASON_LENGTH_MAX] + more
