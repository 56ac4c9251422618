"""Signatures: what ours are to the official receiver and PyJWT, theirs to us, and every forgery refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import qstash
from hypothesis import given
from hypothesis import strategies as st

from idioteque.clock import SystemClock
from idioteque.errors import SignatureError
from idioteque.ids import new_signing_key
from idioteque.signing import BACKDATED_S, LEEWAY_S, LIFETIME_S, TOKEN_BYTES_MAX, Claims, sign, verify

KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
NEXT_KEY = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
URL = "https://shop.test/hook?x=1"
BODY = b'{"order": 1}'
NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1000
ABSENT = object()


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def digest(body: bytes = BODY) -> str:
    return encoded(hashlib.sha256(body).digest())


def claims(**changes: object) -> dict[str, object]:
    """The claims of a good token, with some changed or `ABSENT`."""
    good: dict[str, object] = {
        "iss": "Upstash", "sub": URL, "exp": NOW_S + 300, "nbf": 0, "iat": NOW_S, "jti": "jwt_1", "body": digest(),
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


def token(
    payload: object, *, header: object = None, key: str = KEY, mac: Callable[[bytes], bytes] | None = None
) -> str:
    """Make a token by hand: `payload` and `header` are objects, or bytes to take as they are."""
    parts = [
        encoded(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header if header is not None else {"alg": "HS256", "typ": "JWT"}, payload)
    ]
    signed = ".".join(parts).encode()
    made = mac(signed) if mac else hmac.digest(key.encode(), signed, "sha256")
    return f"{signed.decode()}.{encoded(made)}"


def accepted(
    text: str, body: bytes = BODY, *, keys: tuple[str, ...] = (KEY, NEXT_KEY), url: str | None = URL
) -> Claims:
    return verify(text, body, keys, NOW_MS, url)


# ---- both ways with the others


@pytest.mark.parametrize("body", [b"", b"{}", BODY, "é😀".encode(), b"x" * 1_000_000])
@pytest.mark.parametrize("url", [URL, "https://shop.test", 'http://[::1]:8/a"b\\c', "https://é.test/ü?q=%20"])
def test_the_official_receiver_accepts_our_signatures(url: str, body: bytes) -> None:
    now_ms = SystemClock().now_ms()
    for key, keys in ((KEY, (KEY, NEXT_KEY)), (NEXT_KEY, (KEY, NEXT_KEY))):
        receiver = qstash.Receiver(current_signing_key=keys[0], next_signing_key=keys[1])
        receiver.verify(signature=sign(url, body, key, now_ms), body=body.decode(), url=url)


def test_the_official_receiver_refuses_ours_for_another_body_or_url() -> None:
    receiver = qstash.Receiver(current_signing_key=KEY, next_signing_key=NEXT_KEY)
    text = sign(URL, BODY, KEY, SystemClock().now_ms())
    for body, url in ((BODY.decode() + " ", URL), (BODY.decode(), URL + "/")):
        with pytest.raises(qstash.errors.SignatureError):
            receiver.verify(signature=text, body=body, url=url)


def test_pyjwt_reads_what_we_signed() -> None:
    now_ms = SystemClock().now_ms()
    read = jwt.decode(sign(URL, BODY, KEY, now_ms), KEY, algorithms=["HS256"], issuer="Upstash", subject=URL)
    assert read["exp"] - read["iat"] == LIFETIME_S == 300
    assert read["iat"] == now_ms // 1000 - BACKDATED_S
    assert read["nbf"] == 0
    assert read["body"].rstrip("=") == digest()
    assert read["jti"].startswith("jwt_")
    assert jwt.get_unverified_header(sign(URL, BODY, KEY, now_ms)) == {"alg": "HS256", "typ": "JWT"}


def test_we_accept_what_pyjwt_signed() -> None:
    read = accepted(jwt.encode(claims(), KEY, algorithm="HS256"))
    assert read == Claims(URL, "jwt_1", NOW_S)


@given(url=st.text(max_size=200), body=st.binary(max_size=500), now_ms=st.integers(0, 4_102_444_800_000))
def test_we_accept_what_we_signed_and_nothing_that_was_changed(url: str, body: bytes, now_ms: int) -> None:
    key = new_signing_key()
    text = sign(url, body, key, now_ms)
    assert verify(text, body, ["", key], now_ms, url).url == url
    with pytest.raises(SignatureError):
        verify(text, body + b"\0", [key], now_ms, url)
    with pytest.raises(SignatureError):
        verify(text, body, [new_signing_key()], now_ms, url)


def test_every_signature_is_made_anew() -> None:
    texts = {sign(URL, BODY, KEY, NOW_MS) for _ in range(100)}
    assert len({accepted(text).jti for text in texts}) == 100


# ---- keys


def test_the_current_key_the_next_and_no_other_is_accepted() -> None:
    for key in (KEY, NEXT_KEY):
        for keys in ((KEY, NEXT_KEY), (NEXT_KEY, KEY)):
            assert accepted(token(claims(), key=key), keys=keys)
    for keys in ((), ("",), (NEXT_KEY,), (KEY.lower(),), (KEY + " ",), (KEY[4:],)):
        with pytest.raises(SignatureError, match="configured signing keys"):
            accepted(token(claims()), keys=keys)


def test_an_empty_key_signs_nothing() -> None:
    with pytest.raises(SignatureError):
        accepted(token(claims(), key=""), keys=("", ""))


# ---- forgeries

HEADERS: list[Any] = [
    {"alg": "none", "typ": "JWT"},
    {"alg": "None", "typ": "JWT"},
    {"alg": "nOnE", "typ": "JWT"},
    {"alg": "HS384", "typ": "JWT"},
    {"alg": "HS512", "typ": "JWT"},
    {"alg": "RS256", "typ": "JWT"},
    {"alg": "hs256", "typ": "JWT"},
    {"alg": ["HS256"], "typ": "JWT"},
    {"alg": "HS256", "typ": "JWE"},
    {"typ": "JWT"},
    {"alg": "HS256", "typ": "JWT", "kid": "../../etc/passwd"},
    {"alg": "HS256", "typ": "JWT", "jku": "https://evil.test/keys"},
    {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "a2V5"}},
    {"alg": "HS256", "typ": "JWT", "crit": ["exp"]},
    {"alg": "HS256", "typ": "JWT", "b64": False},
    {},
    [],
    None,
    "HS256",
    b"",
    b"{",
    b"\xff",
    b'{"alg":"HS256","alg":"HS256","typ":"JWT"}',
    b'{"alg":"none","typ":"JWT","alg":"HS256"}',
]


@pytest.mark.parametrize("header", [h for h in HEADERS if h is not None])
def test_any_other_header_is_refused_even_with_a_right_signature(header: object) -> None:
    with pytest.raises(SignatureError):
        accepted(token(claims(), header=header))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_other_algorithms_are_refused_with_our_key(algorithm: str) -> None:
    with pytest.raises(SignatureError):
        accepted(jwt.encode(claims(), KEY * 4, algorithm=algorithm), keys=(KEY * 4,))


def test_an_unsigned_token_is_refused() -> None:
    with pytest.raises(SignatureError):
        accepted(jwt.encode(claims(), None, algorithm="none"))


good = token(claims())
HEAD, PAYLOAD, MAC = good.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        f"{HEAD}.{PAYLOAD}",
        f"{HEAD}.{PAYLOAD}.",
        f".{PAYLOAD}.{MAC}",
        f"{good}.",
        f"{good}.{MAC}",
        f"{good},{good}",
        f"{good} {good}",
        f" {good}",
        f"{good}\n",
        f"{good}=",
        f"{good}é",
        f"{HEAD}=.{PAYLOAD}.{MAC}",
        f"{HEAD}.{PAYLOAD}.{MAC[:-1]}",
        f"{HEAD}.{PAYLOAD}.{MAC}A",
        good.upper(),
        good[1:],
        f"{HEAD}.{PAYLOAD[:-4]}.{MAC}",
        "Bearer " + good,
        "é.é.é",
        "\ud800.a.b",
        f"{HEAD}.\u0661.{MAC}",
        "a" * 10_000_000,
        token(claims(), mac=lambda _: b""),
        token(claims(), mac=lambda _: bytes(32)),
        token(claims(), mac=lambda signed: hmac.digest(KEY.encode(), signed, "sha256")[:16]),
        token(claims(), mac=lambda signed: hmac.digest(KEY.encode(), signed, "sha512")),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        accepted(text)


def test_the_last_bits_of_a_signature_cannot_be_changed() -> None:
    """The last character of a MAC holds two bits that mean nothing: another spelling is another signature."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [good[:-1] + one for one in alphabet if one != good[-1]]
    assert any(
        base64.urlsafe_b64decode(text.split(".")[2] + "=") == base64.urlsafe_b64decode(MAC + "=") for text in others
    )
    for text in others:
        with pytest.raises(SignatureError):
            accepted(text)


def test_a_token_up_to_the_limit_is_read_and_none_above() -> None:
    padding = TOKEN_BYTES_MAX - len(token(claims(pad="")))
    fitting = token(claims(pad="x" * (padding * 3 // 4 - 3)))
    assert TOKEN_BYTES_MAX - 8 < len(fitting) <= TOKEN_BYTES_MAX
    assert accepted(fitting)
    with pytest.raises(SignatureError, match=f"longer than {TOKEN_BYTES_MAX}"):
        accepted(token(claims(pad="x" * padding)))


# ---- claims


def test_a_good_token_is_accepted() -> None:
    assert accepted(good) == Claims(URL, "jwt_1", NOW_S)
    assert accepted(token(claims(), header={"alg": "HS256"}))
    assert accepted(token(claims(body=digest() + "=")))
    assert accepted(token(claims(body=digest(b""))), b"")
    assert accepted(token(claims(jti=ABSENT))).jti == ""
    assert accepted(token(claims(sub="https://other.test")), url=None).url == "https://other.test"
    assert accepted(token(claims(iat=NOW_S + 0.5, exp=float(NOW_S + 300))))


ODD_NUMBERS: list[object] = [
    ABSENT,
    None,
    "",
    str(NOW_S),
    True,
    [],
    {},
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"1" * 5000,
    10**30,
]


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ODD_NUMBERS)
def test_a_time_that_is_no_plain_number_is_refused(name: str, value: object) -> None:
    if isinstance(value, bytes):  # a literal that json.dumps would not write
        payload = json.dumps(claims(**{name: 987654321})).encode().replace(b"987654321", value)
    else:
        payload = json.dumps(claims(**{name: value})).encode()
    with pytest.raises(SignatureError):
        accepted(token(payload))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", ABSENT),
        ("iss", None),
        ("iss", ""),
        ("iss", "upstash"),
        ("iss", "Upstash "),
        ("iss", ["Upstash"]),
        ("sub", ABSENT),
        ("sub", None),
        ("sub", 1),
        ("sub", [URL]),
        ("sub", ""),
        ("sub", URL + "/"),
        ("sub", URL.upper()),
        ("sub", "https://shop.test:443/hook?x=1"),
        ("sub", "https://shop.test/hook"),
        ("sub", "https://shop.test/hook?x=1&"),
        ("sub", "https://shop.test/hook?x=%31"),
        ("sub", "https://evil.test/hook?x=1"),
        ("sub", URL + "#x"),
        ("sub", "\ud800"),
        ("jti", None),
        ("jti", 1),
        ("jti", ["jwt_1"]),
        ("body", ABSENT),
        ("body", None),
        ("body", 1),
        ("body", ""),
        ("body", "="),
        ("body", digest(b"")),
        ("body", digest(BODY + b" ")),
        ("body", digest(b'{"order":1}')),
        ("body", digest() + "A"),
        ("body", digest()[:-1]),
        ("body", hashlib.sha256(BODY).hexdigest()),
        ("body", "é" * 43),
        ("body", "\ud800" * 43),
    ],
)
def test_a_claim_that_is_not_as_it_must_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(SignatureError):
        accepted(token(claims(**{name: value})))


def test_the_standard_alphabet_is_not_base64url() -> None:
    body = next(b for b in (b"%d" % n for n in range(1000)) if {"-", "_"} & set(digest(b)))
    standard = base64.b64encode(hashlib.sha256(body).digest()).decode()
    with pytest.raises(SignatureError):
        accepted(token(claims(body=standard)), body)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe", b"[" * 3000,
        json.dumps(claims()).encode()[:-1] + b',"exp":9999999999}',
        b'{"iss":"Evil",' + json.dumps(claims()).encode()[1:],
    ],
)  # fmt: skip
def test_a_payload_that_is_no_plain_object_is_refused(payload: bytes) -> None:
    with pytest.raises(SignatureError):
        accepted(token(payload))


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({"exp": NOW_S - LEEWAY_S}, True), ({"exp": NOW_S - LEEWAY_S - 1}, False),
        ({"nbf": NOW_S + LEEWAY_S}, True), ({"nbf": NOW_S + LEEWAY_S + 1}, False),
        ({"iat": NOW_S + LEEWAY_S}, True), ({"iat": NOW_S + LEEWAY_S + 1}, False),
        ({"iat": 0}, True), ({"nbf": -1}, True), ({"exp": 0}, False),
    ],
)  # fmt: skip
def test_clocks_may_differ_by_the_leeway_and_no_more(changes: dict[str, object], ok: bool) -> None:
    if ok:
        assert accepted(token(claims(**changes)))
    else:
        with pytest.raises(SignatureError, match="clocks"):
            accepted(token(claims(**changes)))


def test_ours_is_good_for_five_minutes_and_the_leeway() -> None:
    text = sign(URL, BODY, KEY, NOW_MS)
    last_s = LIFETIME_S - BACKDATED_S + LEEWAY_S
    assert verify(text, BODY, [KEY], NOW_MS + last_s * 1000, URL)
    with pytest.raises(SignatureError, match="expired"):
        verify(text, BODY, [KEY], NOW_MS + last_s * 1000 + 1000, URL)


def test_bodies_are_raw_bytes() -> None:
    for body in (b"\xff\xfe\x00", b"", b'{"a": 1}'):
        text = sign(URL, body, KEY, NOW_MS)
        assert verify(text, body, [KEY], NOW_MS, URL)
        with pytest.raises(SignatureError, match="body"):
            verify(text, body + b"\n", [KEY], NOW_MS, URL)


def test_an_error_never_holds_a_key() -> None:
    for text in ("a.b.c", token(claims(), key=NEXT_KEY), token(claims(iss="x"))):
        with pytest.raises(SignatureError) as caught:
            accepted(text, keys=(KEY,))
        assert KEY not in str(caught.value)


@given(
    st.text(max_size=300) | st.tuples(st.binary(), st.binary(), st.binary()).map(lambda p: ".".join(map(encoded, p)))
)
def test_no_text_makes_the_check_fail_in_another_way(text: str) -> None:
    with pytest.raises(SignatureError):
        accepted(text)


LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=20)
CLAIMS = st.sampled_from(["iss", "sub", "exp", "nbf", "iat", "jti", "body"])


@given(
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLAIMS, inner),
    )
)
def test_no_payload_makes_the_check_fail_in_another_way(payload: object) -> None:
    with pytest.raises(SignatureError):
        accepted(token(payload))
