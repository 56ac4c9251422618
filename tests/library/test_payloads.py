"""Long results are kept compressed, and come back as they were."""

from __future__ import annotations

import zlib

import pytest

from idioteque.payloads import COMPRESSED_FROM_BYTES, TAG, TEXT_BYTES_MAX, PayloadUnreadable, packed, unpacked
from idioteque.values import ANY, NotSerializable
from tests.library.engine.rig import STORES, Rig


@pytest.mark.parametrize("length", [0, COMPRESSED_FROM_BYTES - 3, COMPRESSED_FROM_BYTES, 1_000_000])
def test_a_value_of_any_length_comes_back(length: int) -> None:
    value = {"text": "a" * length}
    assert ANY.decode(ANY.encode(value)) == value


def test_only_what_is_long_is_compressed_and_only_if_that_helps() -> None:
    short, long = b'"x"', b'"' + b"lorem ipsum " * 1000 + b'"'
    assert packed(short) == short
    assert packed(long).startswith(TAG)
    assert len(packed(long)) < len(long) / 10
    noise = bytes(range(256)) * 8
    dense = zlib.compress(noise * 4, 9) * 1
    assert unpacked(packed(dense)) == dense


def test_what_was_stored_before_is_read_as_it_is() -> None:
    text = b'{"text":"' + b"a" * 10_000 + b'"}'
    assert unpacked(text) == text
    assert ANY.decode(text) == {"text": "a" * 10_000}


@pytest.mark.parametrize(
    "payload",
    [TAG, TAG + b"nonsense", TAG + zlib.compress(b"[1]")[:-3], TAG + zlib.compress(b" " * (TEXT_BYTES_MAX + 1))],
    ids=["empty", "damaged", "cut short", "a bomb"],
)
def test_what_is_damaged_or_blown_up_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadUnreadable):
        unpacked(payload)
    with pytest.raises(NotSerializable, match="the stored result is not"):
        ANY.decode(payload)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_a_run_sees_its_long_results_again_on_a_replay(store: str, mode: str) -> None:
    rig = Rig(store, mode)  # type: ignore[arg-type]
    text = "a long text, " * 2000

    @rig.worker.function("f", on="order")
    async def f(event: object, ctx: object) -> str:
        first = await ctx.execute("long", rig.effect, "long", text)  # type: ignore[attr-defined]
        await ctx.sleep("pause", "1h")  # type: ignore[attr-defined]
        return str(first) + "and its end"

    rig.mount()
    run = await rig.run()
    assert (run.status, run.result) == ("completed", text + "and its end")
    assert run.steps[0].result == text
    assert rig.effects == {"long": 1}
