"""Results: whatever a callable declares comes back equal and of the same type, or the step fails saying why."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import math
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, Self, TypeVar, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

from idioteque.values import VALUE_BYTES_MAX, Codec, NotSerializable, codec_of

if TYPE_CHECKING:
    from nowhere import Unimportable  # type: ignore[import-not-found]

T = TypeVar("T")
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Box:
    width: int
    tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Crate:
    boxes: list[Box]
    key: bytes = b""


class Letter(BaseModel):
    seal: bytes


class Address(TypedDict):
    street: str
    zip: int


class User(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    id: int
    name: str = ""
    born: date | None = None
    key: bytes = b""

    @classmethod
    def load(cls, number: int) -> Self:
        return cls(id=number)

    def renamed(self, name: str) -> User:
        return self.model_copy(update={"name": name})


class Admin(User):
    rights: set[str] = set()


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["aliased"] = Field("aliased", alias="Kind")
    user_id: int = Field(validation_alias=AliasChoices("userId", "uid"), serialization_alias="user")
    deep: int = Field(0, validation_alias=AliasPath("a", "b"))


class Other(BaseModel):
    kind: Literal["other"] = Field("other", alias="Kind")


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Defaults(BaseModel):
    value: int = 1


class Names(RootModel[list[str]]):
    pass


class Reading(BaseModel):
    value: float | None
    values: deque[float | None] = deque()


CASES: list[tuple[Any, Any]] = [
    (int, 2**200),
    (float, 3),
    (float, -0.0),
    (str, "é\x00\U0001f600"),
    (bool, False),
    (bytes, b"\xff\x00\xfe"),
    (None, None),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901)),  # noqa: DTZ001 - users have them
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=5, minutes=30)))),
    (date, date(1, 1, 1)),
    (time, time(23, 59, 59, 999999, UTC)),
    (timedelta, timedelta.max),
    (timedelta, timedelta(microseconds=-1)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (PurePosixPath, PurePosixPath("/a/b")),
    (complex, 1 + 2j),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Point, Point(1, 2.5)),
    (Box, Box(1, ("a", "b"))),
    (Crate, Crate([Box(1), Box(2, ("x",))], "é".encode())),
    (Address, {"street": "s", "zip": 1}),
    (User, User(id=1, name="Ann", born=date(2000, 2, 29), key=b"\xff")),
    (Admin, Admin(id=1, rights={"a", "b"})),
    (Aliased, Aliased.model_validate({"Kind": "aliased", "uid": 3, "a": {"b": 4}})),
    (Annotated[Aliased | Other, Field(discriminator="kind")], Other()),
    (list[Aliased], [Aliased.model_validate({"userId": 3})]),
    (Page[User], Page[User](items=[User(id=1)], total=9)),
    (Page[Colour], Page[Colour](items=[Colour.RED], total=1)),
    (Tree, Tree(name="a", children=[Tree(name="b", children=[Tree(name="c")])])),
    (Names, Names(["a", "b"])),
    (list[int], []),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"a"})),
    (deque[int], deque([1, 2])),
    (dict[int, str], {1: "a", 2: "b"}),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[uuid.UUID, date], {uuid.UUID(int=1): date(2026, 1, 1)}),
    (dict[str, list[tuple[int, Box]]], {"a": [(1, Box(2))]}),
    (Optional[User], None),  # noqa: UP045 - both spellings are met
    (Optional[User], User(id=2)),  # noqa: UP045
    (Union[int, str], "1"),  # noqa: UP007
    (int | str, 1),
    (int | float, 1.0),
    (bool | int, True),
    (User | Box, Box(3)),
    (User | None, None),
    (Literal["a", 1, True], "a"),
    (Annotated[int, Field(ge=0)], 5),
    (UserId, UserId(7)),
    (Sequence[int], [1, 2]),
    (Any, {"a": [1, 2.5, None, "x", {"b": True}]}),
    (object, [1, "a"]),
    (list[Any], [None, 0, ""]),
]


def returns(annotation: Any) -> Callable[..., Any]:
    """Return an async function that declares this."""

    async def step() -> Any:
        return None

    step.__annotations__ = {"return": annotation}
    return step


@pytest.mark.parametrize(("annotation", "value"), CASES, ids=lambda case: str(case)[:60])
def test_a_value_comes_back_equal_and_of_its_type(annotation: Any, value: Any) -> None:
    codec = codec_of(returns(annotation))
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert isinstance(decoded, type(value)) or annotation is float
    assert codec.decode(codec.encode(decoded)) == value, "a replay of a replay sees the same"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
typed_values = st.one_of(
    *(
        st.tuples(st.just(kind), strategy)
        for kind, strategy in (
            (bytes, st.binary()),
            (datetime, st.datetimes(timezones=st.none() | st.just(UTC))),
            (date, st.dates()),
            (time, st.times()),
            (timedelta, st.timedeltas()),
            (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
            (uuid.UUID, st.uuids()),
            (float, st.floats(allow_nan=False, allow_infinity=False)),
            (frozenset[int], st.frozensets(st.integers())),
            (tuple[bytes, ...], st.lists(st.binary()).map(tuple)),
            (dict[int, bytes], st.dictionaries(st.integers(), st.binary())),
            (Box, st.builds(Box, st.integers(), st.lists(st.text()).map(tuple))),
            (User, st.builds(User, id=st.integers(), name=st.text(), born=st.none() | st.dates(), key=st.binary())),
        )
    )
)


@settings(deadline=None)
@given(json_values)
def test_plain_json_values_come_back_equal(value: Any) -> None:
    codec = codec_of(lambda: None)
    assert codec.decode(codec.encode(value)) == value


@settings(deadline=None)
@given(typed_values)
def test_typed_values_come_back_equal(case: tuple[Any, Any]) -> None:
    annotation, value = case
    codec = codec_of(returns(annotation))
    decoded = codec.decode(codec.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


# ---- where the annotation is


def plain() -> User: ...  # type: ignore[empty-body]


async def asynchronous() -> User: ...  # type: ignore[empty-body]


def wrapping() -> Coroutine[Any, Any, User]: ...  # type: ignore[empty-body]


def awaitable() -> Awaitable[User]: ...  # type: ignore[empty-body]


async def with_a_parameter(number: int, *, name: str) -> User: ...  # type: ignore[empty-body]


def textual() -> "Annotated[User, 'a comment']": ...  # type: ignore[empty-body]  # noqa: UP037


@functools.lru_cache
def cached() -> User: ...  # type: ignore[empty-body]


class CallableObject:
    async def __call__(self) -> User: ...  # type: ignore[empty-body]

    def method(self) -> User: ...  # type: ignore[empty-body]

    @staticmethod
    def static() -> User: ...  # type: ignore[empty-body]


class Unhashable(CallableObject):
    __hash__ = None  # type: ignore[assignment]


class Traced:
    """A decorator that is a class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any: ...


@pytest.mark.parametrize(
    "call",
    [
        plain,
        asynchronous,
        wrapping,
        awaitable,
        textual,
        cached,
        Traced(plain),
        functools.partial(with_a_parameter, 1, name="x"),
        functools.partial(functools.partial(with_a_parameter, 1), name="x"),
        CallableObject(),
        CallableObject().method,
        CallableObject.static,
        functools.partial(CallableObject().method),
        Unhashable(),
        User,
        User.load,
        User(id=1).renamed,
    ],
    ids=repr,
)
def test_the_annotation_is_found_wherever_it_is(call: Callable[..., Any]) -> None:
    codec = codec_of(call)
    assert codec.decode(codec.encode(User(id=1, key=b"\xff"))) == User(id=1, key=b"\xff")
    with pytest.raises(NotSerializable):
        codec.decode(codec.encode(Box(1)))


def test_self_is_the_class_that_was_asked() -> None:
    for load, made in ((User.load, User(id=1)), (Admin.load, Admin(id=1, rights={"all"})), (User.load, User(id=2))):
        codec = codec_of(load)
        assert codec.decode(codec.encode(made)) == made


def undeclared():  # type: ignore[no-untyped-def]
    ...


def unresolvable() -> Unimportable: ...


def generic(value: T) -> T: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("call", [undeclared, unresolvable, generic, lambda: 1, print, len, 5], ids=repr)
def test_without_a_usable_annotation_a_result_is_plain_json(call: Any) -> None:
    codec = codec_of(call)
    assert codec.decode(codec.encode({"a": [1, None]})) == {"a": [1, None]}
    assert codec.decode(codec.encode(User(id=1, key=b"\xff")))["id"] == 1


def test_what_is_declared_as_none_is_none_whatever_it_returns() -> None:
    codec = codec_of(returns(None))
    assert codec.decode(codec.encode(object())) is None


def test_a_local_class_is_known_by_its_own_annotation() -> None:
    def made(kind: str) -> Callable[[], Any]:
        local = create_model("Local", value=str if kind == "a" else int)

        def step() -> Any: ...

        step.__annotations__ = {"return": local}
        return step

    assert codec_of(made("a")).decode(b'{"value":"a"}').value == "a"
    assert codec_of(made("b")).decode(b'{"value":1}').value == 1


# ---- what has no JSON form


class Computed(BaseModel):
    value: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float:
        return 1 / self.value


class Stubborn(BaseModel):
    value: int

    @field_serializer("value")
    def refuse(self, value: int) -> int:
        raise KeyError("refused")


class Picky(BaseModel):
    value: int

    @field_validator("value")
    @classmethod
    def check(cls, value: int) -> int:
        if value < 0:
            raise KeyError("negative")
        return value


def circular() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


UNFIT: list[tuple[Any, Any]] = [
    (float, math.nan),
    (float, math.inf),
    (Any, [{"a": -math.inf}]),
    (Reading, Reading(value=math.nan)),
    (Reading, Reading(value=1.0, values=deque([math.inf]))),
    (list[Reading], [Reading(value=None), Reading(value=math.inf)]),
    (Any, {"deep": [Reading(value=math.nan)]}),
    (dict[str, float], {"a": math.nan}),
    (Decimal, Decimal("NaN")),
    (Any, object()),
    (Any, lambda: None),
    (Any, "\ud800"),
    (str, "a\udce9"),
    (list[str], ["\udfff"]),
    (Any, circular()),
    (Any, deep()),
    (list[Any], circular()),
    (int, "1"),
    (int, 1.5),
    (int, None),
    (User, {"id": 1}),
    (User, Box(1)),
    (Defaults, Box(1)),
    (list[int], ["a"]),
    (Literal["a"], "b"),
    (Address, {"street": "s"}),
    (Stubborn, Stubborn(value=1)),
    (bytes, "text"),
    (Any, "x" * (VALUE_BYTES_MAX + 1)),
]


@pytest.mark.parametrize(("annotation", "value"), UNFIT, ids=lambda case: str(type(case)))
def test_what_has_no_faithful_form_is_refused_by_name(annotation: Any, value: Any) -> None:
    codec = codec_of(returns(annotation))
    with pytest.raises(NotSerializable) as refusal:
        codec.encode(value)
        codec.decode(codec.encode(value))
    assert type(value).__qualname__ in str(refusal.value) or "the stored result is not" in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_bytes_that_a_model_would_write_as_text_are_refused_saying_what_to_set() -> None:
    codec = codec_of(returns(Letter))
    assert codec.decode(codec.encode(Letter(seal=b"text"))) == Letter(seal=b"text")
    with pytest.raises(NotSerializable, match="ser_json_bytes"):
        codec.encode(Letter(seal=b"\xff"))


def test_a_computed_field_is_not_asked_for() -> None:
    codec = codec_of(returns(Computed))
    assert codec.decode(codec.encode(Computed(value=0))).value == 0


def test_whatever_a_validator_raises_is_a_refusal() -> None:
    with pytest.raises(NotSerializable, match="negative"):
        codec_of(returns(Picky)).decode(b'{"value":-1}')


@pytest.mark.parametrize("annotation", [CallableObject, list[CallableObject], asyncio.Task[int]])
def test_a_type_that_pydantic_does_not_know_is_refused_before_anything_runs(annotation: Any) -> None:
    with pytest.raises(NotSerializable, match="no JSON form"):
        codec_of(returns(annotation)).encode(None)


@pytest.mark.parametrize("stored", [b"", b"{", b"nul", b'"text"', b'{"id":"x"}', b"\xff", b"[" * 100_000])
def test_a_stored_result_that_does_not_fit_any_more_is_refused(stored: bytes) -> None:
    with pytest.raises(NotSerializable, match="the stored result is not a User"):
        codec_of(returns(User)).decode(stored)


def test_a_codec_is_made_once_for_a_function_and_not_kept_after_it() -> None:
    import gc
    import weakref

    step = returns(User)
    assert codec_of(step) is codec_of(step)
    gone = weakref.ref(step)
    del step
    gc.collect()
    assert gone() is None


def test_the_text_of_a_value_is_one_line_of_strict_json() -> None:
    assert Codec(dict[str, Any]).encode({"a": "é\n", "b": [1.0]}) == b'{"a":"\xc3\xa9\\n","b":[1.0]}'
