"""Restate's worker: the functions of the workloads with its Python SDK."""

from __future__ import annotations

import asyncio
import os

import restate

from bench.journal import BEGAN, ENDED, Journal

RESULT = {"v": "x" * 91}
SLOW_STEP_S = 0.02

journal = Journal(os.environ["BENCH_JOURNAL"])
service = restate.Service("Bench")


async def nothing() -> None:
    """The step of W1."""


async def result() -> dict[str, str]:
    return RESULT


@service.handler()
async def one(ctx: restate.Context, what: list[int]) -> None:
    journal.note(what[0], BEGAN)
    await ctx.run_typed("step", nothing)
    journal.note(what[0], ENDED)


@service.handler()
async def seq(ctx: restate.Context, what: list[int]) -> None:
    journal.note(what[0], BEGAN)
    for _ in range(what[1]):
        await ctx.run_typed("step", result)
    journal.note(what[0], ENDED)


@service.handler()
async def par(ctx: restate.Context, what: list[int]) -> None:
    journal.note(what[0], BEGAN)
    await restate.gather(*[ctx.run_typed("step", result) for _ in range(what[1])])
    journal.note(what[0], ENDED)


@service.handler()
async def slow(ctx: restate.Context, what: list[int]) -> None:
    journal.note(what[0], BEGAN)
    for place in range(what[1]):

        async def step(place: int = place) -> dict[str, str]:
            journal.note(what[0], place)
            await asyncio.sleep(SLOW_STEP_S)
            return RESULT

        await ctx.run_typed("step", step)
    journal.note(what[0], ENDED)


app = restate.app([service])
