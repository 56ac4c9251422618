"""`idioteque doctor`: whether this process could work with what the environment names."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict

import click

from idioteque.cli.checkup import findings
from idioteque.client import printable
from idioteque.console.checkup import Finding
from idioteque.server.reporting import redacted

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--store", metavar="URL", help="Where the runs are kept; IDIOTEQUE_STORE by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(store: str | None, as_json: bool) -> None:
    """Look for what is wrong: variables, server, token, clocks, signing keys, store, versions.

    Each line is ok, warn or fail, with what to do; the exit code is 1 if one is fail. Nothing is changed.
    """
    found = asyncio.run(_collected(store or os.environ.get("IDIOTEQUE_STORE", "").strip() or None, quiet=as_json))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    if any(finding.verdict == "fail" for finding in found):
        raise SystemExit(1)


async def _collected(store: str | None, *, quiet: bool) -> list[Finding]:
    found: list[Finding] = []
    async for raw in findings(os.environ, store):
        finding = Finding(raw.check, raw.verdict, redacted(raw.seen), raw.advice)
        found.append(finding)
        if not quiet:
            click.echo(_line(finding))
    return found


def _line(finding: Finding) -> str:
    verdict = click.style(f"{finding.verdict:<4}", STYLES[finding.verdict])
    advice = f" - {finding.advice}" if finding.advice else ""
    return f"{verdict}  {finding.check:<12}  {printable(finding.seen + advice)}"
