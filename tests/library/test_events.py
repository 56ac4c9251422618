"""Events at the door: what fits the schema, what is sent of it, and what starts a function."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, field_serializer, field_validator

from idioteque import ConfigurationError, EventRejected
from idioteque.events import EventsSchema, Trigger, type_of


class Signup(BaseModel):
    type: Literal["user.signup"] = "user.signup"
    user_id: str


class Email(BaseModel):
    type: Literal["email.send", "email.resend"] = "email.send"
    to: str = "a@example.com"


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["aliased"] = "aliased"
    user_id: int = Field(validation_alias=AliasChoices("userId", "uid"), serialization_alias="user")


class Measured(BaseModel):
    type: Literal["measured"] = "measured"
    value: float | None = 0.0
    exact: float = 0.0


class Kind(enum.StrEnum):
    SIGNUP = "user.signup"


Event = Annotated[Signup | Email | Aliased | Measured, Field(discriminator="type")]


@pytest.fixture
def schema() -> EventsSchema:
    return EventsSchema(Event)


@pytest.mark.parametrize(
    ("event", "decoded"),
    [
        (Signup(user_id="1"), Signup(user_id="1")),
        ({"type": "user.signup", "user_id": "1"}, Signup(user_id="1")),
        ({"type": "email.resend"}, Email(type="email.resend")),
        ({"type": "aliased", "userId": 3}, Aliased.model_validate({"uid": 3})),
        (Aliased.model_validate({"uid": 4}), Aliased.model_validate({"uid": 4})),
        (Measured(value=None), Measured(value=None)),
    ],
    ids=repr,
)
def test_an_event_arrives_as_it_was_published(schema: EventsSchema, event: Any, decoded: BaseModel) -> None:
    assert schema.decode(schema.encode(event)) == decoded


def test_an_event_from_elsewhere_may_use_the_aliases(schema: EventsSchema) -> None:
    for body in (b'{"type":"aliased","uid":3}', b'{"type":"aliased","userId":3}', b'{"type":"aliased","user_id":3}'):
        assert schema.decode(body) == Aliased.model_validate({"uid": 3})


class Unrelated(BaseModel):
    type: Literal["user.signup"] = "user.signup"
    user_id: str = "1"


class SmallerThanItWas(BaseModel):
    """Accepts what it makes itself only once."""

    type: Literal["small"] = "small"
    value: int

    @field_validator("value")
    @classmethod
    def halve(cls, value: int) -> int:
        if value < 10:
            raise ValueError("too small")
        return value // 2


class Mute(BaseModel):
    type: Literal["mute"] = "mute"
    value: int = 0

    @field_serializer("value")
    def refuse(self, value: int) -> int:
        raise KeyError("refused")


@pytest.mark.parametrize(
    "event",
    [
        None,
        5,
        "user.signup",
        [],
        {},
        object(),
        {"type": "user.signup"},
        {"type": "unknown"},
        {"type": 1},
        {"type": "user.signup", "user_id": 1},
        {"type": "aliased", "userId": 3, "more": 1},
        Unrelated(),
        Signup.model_construct(user_id=3),
        Measured(exact=math.nan),
        Measured.model_construct(exact="text"),
        Email(to="\ud800"),
    ],
    ids=lambda event: repr(event)[:50],
)
def test_what_would_not_be_accepted_where_it_arrives_is_not_sent(schema: EventsSchema, event: object) -> None:
    with pytest.raises(EventRejected):
        schema.encode(event)


@pytest.mark.parametrize("event", [SmallerThanItWas(value=11), Mute()])
def test_an_event_that_cannot_make_the_journey_is_not_sent(event: BaseModel) -> None:
    with pytest.raises(EventRejected):
        EventsSchema(type(event)).encode(event)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'{"type":"user.signup"}', b"[" * 100_000])
def test_a_body_that_is_no_event_is_rejected(schema: EventsSchema, body: bytes) -> None:
    with pytest.raises(EventRejected, match="does not fit the schema"):
        schema.decode(body)


def test_a_rejection_is_short_and_says_where() -> None:
    class Wide(BaseModel):
        rows: list[int]

    with pytest.raises(EventRejected, match=r"rows\.0: .* \(and 999 more\)") as rejection:
        EventsSchema(Wide).encode({"rows": ["x" * 5000] * 1000})
    assert len(str(rejection.value)) < 700


@pytest.mark.parametrize("nothing", [object(), "no such type", 5])
def test_a_schema_that_pydantic_does_not_know_is_a_mistake_of_configuration(nothing: object) -> None:
    with pytest.raises(ConfigurationError):
        EventsSchema(nothing)


def test_the_names_of_a_schema_are_those_of_its_models(schema: EventsSchema) -> None:
    assert schema.types == {"user.signup", "email.send", "email.resend", "aliased", "measured"}
    assert EventsSchema(dict[str, Any]).types == set()
    assert EventsSchema(Signup | dict[str, Any]).types == set(), "some of it has no names"


# ---- triggers

SIGNUP = Signup(user_id="1")


def big(event: Any) -> bool:
    return bool(event.user_id > "5")


@pytest.mark.parametrize(
    ("on", "starts"),
    [
        ("user.signup", True),
        ("email.send", False),
        ("user", False),
        (Kind.SIGNUP, True),
        (Signup, True),
        (BaseModel, True),
        (Email, False),
        (["email.send", "user.signup"], True),
        ([Email, "user.signup"], True),
        ([Email, Signup], True),
        ((Email,), False),
        (iter(["user.signup"]), True),
        (lambda event: event.user_id == "1", True),
        (big, False),
        (lambda event: "truthy", True),
    ],
    ids=repr,
)
def test_what_starts_a_function(on: Any, starts: bool) -> None:
    assert Trigger(on).matches(SIGNUP) is starts


def test_a_mapping_has_the_type_of_its_key() -> None:
    event = TypeAdapter(dict[str, Any]).validate_python({"type": "user.signup"})
    assert Trigger("user.signup").matches(event)
    assert [type_of(other) for other in ({}, {"type": 5}, 5, None, object())] == [None] * 5


def test_what_a_predicate_raises_reaches_the_caller() -> None:
    with pytest.raises(AttributeError):
        Trigger(big).matches({"type": "user.signup"})


async def slow(event: Any) -> bool:
    return True


class SlowPredicate:
    async def __call__(self, event: Any) -> bool:
        return True


@pytest.mark.parametrize("on", [[], int, [int], [5], [Signup, lambda event: True], slow, SlowPredicate(), dict])
def test_a_trigger_that_could_start_nothing_is_refused(on: Any) -> None:
    with pytest.raises(ConfigurationError):
        Trigger(on)


def test_a_name_that_no_event_has_is_refused(schema: EventsSchema) -> None:
    with pytest.raises(ConfigurationError, match=r"'f' starts on 'user\.singup'.*user\.signup"):
        Trigger(["user.signup", "user.singup"]).check_against(schema, "f")
    Trigger("anything").check_against(EventsSchema(dict[str, Any]), "f")
    Trigger(["user.signup", Email]).check_against(schema, "f")


class Reading(BaseModel):
    type: Literal["reading"] = "reading"
    degrees: float | None = None
    history: list[float | None] = []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_hold_is_refused_and_not_made_null(number: float) -> None:
    readings = EventsSchema(Reading)
    for event in (Reading(degrees=number), {"type": "reading", "degrees": number}, Reading(history=[1.5, number])):
        with pytest.raises(EventRejected, match="NaN or an infinity"):
            readings.encode(event)
    assert readings.decode(readings.encode(Reading(degrees=None, history=[None]))) == Reading(history=[None])
