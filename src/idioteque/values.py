"""The one codec of results: strict JSON in the shape of a callable's return annotation."""

from __future__ import annotations

import functools
import inspect
import json
import types
import typing
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter

from idioteque.errors import IdiotequeError
from idioteque.finite import has_non_finite
from idioteque.payloads import packed, unpacked

VALUE_BYTES_MAX = 16 * 1024 * 1024

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


class NotSerializable(IdiotequeError):
    """A value has no faithful JSON form in the shape it was declared to have; the text names type and reason."""


class Codec:
    """Encodes values of one declared type to JSON bytes and back."""

    def __init__(self, annotation: object) -> None:
        self.annotation = annotation
        self._is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        self._adapter = _adapter(annotation)

    def encode(self, value: object) -> bytes:
        """Return strict JSON, packed if it is long.

        Raise `NotSerializable` for what JSON or the declared type cannot hold.
        """
        if self.annotation is None:
            return b"null"
        if self._is_model and not isinstance(value, BaseModel):  # else a model of defaults could come of it
            raise NotSerializable(f"{_named(value, self.annotation)}: it is no model")
        try:
            # By names, since an alias for writing need not be the one for reading.
            encoded = self._adapter.dump_json(value, by_alias=False, warnings="error", round_trip=True)
        except Exception as error:  # whatever a serializer of the user's raises
            raise NotSerializable(f"{_named(value, self.annotation)}: {_reason(error)}") from error
        if len(encoded) > VALUE_BYTES_MAX:
            raise NotSerializable(f"{_named(value, self.annotation)}: {len(encoded)} bytes, {VALUE_BYTES_MAX} at most")
        if _may_hide_non_finite(encoded) and (_is_not_strict(encoded) or has_non_finite(value)):
            raise NotSerializable(f"{_named(value, self.annotation)}: NaN and infinities have no JSON form")
        return packed(encoded)

    def decode(self, encoded: bytes) -> Any:
        """Return the value as its declared type; raise `NotSerializable` when it does not fit (any more)."""
        try:
            return self._adapter.validator.validate_json(unpacked(encoded), by_alias=False, by_name=True)
        except Exception as error:  # whatever a validator of the user's raises
            raise NotSerializable(
                f"the stored result is not a {_type_name(self.annotation)}: {_reason(error)}"
            ) from error


def codec_of(function: Callable[..., object]) -> Codec:
    """Return the codec of what a callable returns, awaited; without an annotation, of plain JSON values.

    Raise `NotSerializable` when no schema can be made of the annotation.
    """
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    function = getattr(function, "__func__", function)
    try:
        known = _codecs.get(function)
    except TypeError:  # a callable object without a hash or without weak references
        return Codec(_result_type(function))
    if known is None:
        annotation = _result_type(function)
        if annotation is Self:
            return Codec(owner if isinstance(owner, type) else type(owner))
        known = ANY if annotation is Any else Codec(annotation)
        try:
            _codecs[function] = known
        except TypeError:
            return known
    return known


def _result_type(function: Callable[..., object]) -> object:
    if isinstance(function, type):
        return function
    is_function = inspect.isroutine(function) or hasattr(function, "__wrapped__")
    target = function if is_function else type(function).__call__
    try:
        annotation = get_type_hints(target, include_extras=True).get("return", Any)
    except Exception:  # a name that exists for type checkers only: the text of the annotation says nothing to us
        return Any
    if annotation is types.NoneType:
        return None
    if get_origin(annotation) in (Coroutine, Awaitable):
        annotation = get_args(annotation)[-1]
    return Any if isinstance(annotation, TypeVar) or annotation is typing.NoReturn else annotation


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=_CONFIG)
    except Exception as error:  # of many kinds
        if not isinstance(error, PydanticUserError) or error.code != "type-adapter-config-unused":
            raise NotSerializable(f"no JSON form is known for {_type_name(annotation)}: {_reason(error)}") from error
    return TypeAdapter(annotation)


def _may_hide_non_finite(encoded: bytes) -> bool:
    return b"NaN" in encoded or b"Infinity" in encoded or b"null" in encoded


def _is_not_strict(encoded: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise NotSerializable(constant)

    try:
        json.loads(encoded, parse_constant=refuse)
    except NotSerializable:
        return True
    except ValueError:  # an integer of more digits than Python converts
        return False
    return False


def _named(value: object, annotation: object) -> str:
    if annotation is Any or annotation is type(value):
        return f"a {type(value).__qualname__}"
    return f"a {type(value).__qualname__}, declared as {_type_name(annotation)}"


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is Any:
        return "JSON value"
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{text}; {_BYTES_HINT}" if "invalid utf-8" in text else text


_BYTES_HINT = "a model with such bytes needs ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"


ANY = Codec(Any)
"""Plain JSON values: for callables that declare nothing."""

_codecs: weakref.WeakKeyDictionary[Callable[..., object], Codec] = weakref.WeakKeyDictionary()
