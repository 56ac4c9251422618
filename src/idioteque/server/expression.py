"""The retry-delay expression: arithmetic over the number of retries done so far, giving milliseconds.

    expr  := term (('+' | '-') term)*        term := unary (('*' | '/' | '%') unary)*
    unary := ('-' | '+') unary | atom        atom := NUMBER | 'retried' | NAME '(' expr (',' expr)* ')' | '(' expr ')'

Strangers write these texts, so length, depth and size are bounded, and there are floats only: no number can grow huge.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping

from idioteque.errors import InvalidValue

LENGTH_MAX = 256
DEPTH_MAX = 16
TOKENS_MAX = 128
DELAY_MAX_MS = 86_400_000

Evaluate = Callable[[float], float]
"""A compiled expression: the number of retries done so far in, milliseconds out."""

_TOKEN = re.compile(r"[ \t]*(?:([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+)|([A-Za-z_]+)|([-+*/%(),]))")

_BINARY: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": math.fmod,
}

_OF_ONE: Mapping[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "abs": math.fabs,
    "exp": math.exp,
    "floor": lambda a: float(math.floor(a)),
    "ceil": lambda a: float(math.ceil(a)),
    "round": lambda a: float(math.floor(a + 0.5)),
}

_OF_TWO: Mapping[str, Callable[[float, float], float]] = {
    "pow": math.pow,
    "min": lambda a, b: min(a, b),
    "max": lambda a, b: max(a, b),
}


def checked_expression(text: str) -> str:
    """Return an expression that gives a delay for the first retry, or raise `InvalidValue` saying why it does not."""
    try:
        delay_ms(text, retried=0)
    except InvalidValue as error:
        raise InvalidValue(f"invalid retry delay expression {text[:LENGTH_MAX]!r}: {error}") from None
    return text


def delay_ms(text: str, retried: int) -> int:
    """Return the delay before the next retry, within 0 and a day.

    Raise `InvalidValue` when the text is no expression, or its value no finite number.
    """
    try:
        value = _compiled(text)(float(retried))
    except InvalidValue:
        raise
    except (ArithmeticError, ValueError) as error:
        raise InvalidValue(f"it has no value for retried={retried} ({error})") from None
    if not math.isfinite(value):
        raise InvalidValue(f"its value for retried={retried} is not a finite number")
    return int(min(max(value, 0.0), float(DELAY_MAX_MS)))


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> Evaluate:
    if len(text) > LENGTH_MAX:
        raise InvalidValue(f"it is longer than {LENGTH_MAX} characters")
    return _Parser(_tokens(text)).parse()


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position, end = 0, len(text.rstrip(" \t"))
    while position < end:
        if len(tokens) == TOKENS_MAX:
            raise InvalidValue(f"it has more than {TOKENS_MAX} parts")
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidValue(f"unexpected {text[position:].lstrip()[:1]!r} at position {position}")
        tokens.append(match.group().strip(" \t"))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def parse(self) -> Evaluate:
        result = self._expression()
        if self._peek():
            raise InvalidValue(f"unexpected {self._peek()!r}")
        return result

    def _expression(self) -> Evaluate:
        return self._chain(self._term, "+-")

    def _term(self) -> Evaluate:
        return self._chain(self._unary, "*/%")

    def _chain(self, operand: Callable[[], Evaluate], operators: str) -> Evaluate:
        left = operand()
        while (token := self._peek()) and token in operators:
            self._take()
            left = _applied(_BINARY[token], left, operand())
        return left

    def _unary(self) -> Evaluate:
        if self._peek() not in ("-", "+"):
            return self._atom()
        sign = self._take()
        operand = self._deeper(self._unary)
        return (lambda retried: -operand(retried)) if sign == "-" else operand

    def _atom(self) -> Evaluate:
        part = self._take()
        if part == "(":
            inner = self._deeper(self._expression)
            self._expect(")")
            return inner
        if part[0].isdigit() or part[0] == ".":
            number = float(part)
            return lambda retried: number
        if part == "retried":
            return lambda retried: retried
        return self._call(part)

    def _call(self, name: str) -> Evaluate:
        if name in _OF_ONE:
            (argument,) = self._arguments(name, 1)
            function = _OF_ONE[name]
            return lambda retried: function(argument(retried))
        if name in _OF_TWO:
            return _applied(_OF_TWO[name], *self._arguments(name, 2))
        raise InvalidValue(f"unknown name {name!r}; known are retried, {', '.join([*_OF_ONE, *_OF_TWO])}")

    def _arguments(self, name: str, count: int) -> list[Evaluate]:
        self._expect("(")
        arguments = [self._deeper(self._expression)]
        while self._peek() == ",":
            self._take()
            arguments.append(self._deeper(self._expression))
        self._expect(")")
        if len(arguments) != count:
            raise InvalidValue(f"{name} takes {count} argument{'s' if count > 1 else ''}, not {len(arguments)}")
        return arguments

    def _deeper(self, part: Callable[[], Evaluate]) -> Evaluate:
        if self._depth >= DEPTH_MAX:
            raise InvalidValue(f"it is nested deeper than {DEPTH_MAX} levels")
        self._depth += 1
        try:
            return part()
        finally:
            self._depth -= 1

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        if not token:
            raise InvalidValue("it ends too early")
        self._next += 1
        return token

    def _expect(self, wanted: str) -> None:
        token = self._take()
        if token != wanted:
            raise InvalidValue(f"expected {wanted!r}, found {token!r}")


def _applied(function: Callable[[float, float], float], left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda retried: function(left(retried), right(retried))
