"""Restate: its own server in Rust, and a worker with the Python SDK behind granian, which speaks HTTP/2 with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from bench.peers import node_package, python_with, run_to_end, versions_of
from bench.processes import ROOT, Child, Producer, free_port
from bench.sites.site import PYTHON, Site
from idioteque.errors import TransportError
from idioteque.transport import HttpRequest, PooledTransport

PACKAGES = ("restate-sdk", "granian", "uvloop")
SERVER_PACKAGE = "@restatedev/restate-server"


async def _binary() -> Path:
    modules = await node_package("restate", SERVER_PACKAGE)
    return next((modules / "@restatedev").glob("restate-server-*/bin/restate-server"))


class Restate(Site):
    name: ClassVar[str] = "restate"
    works: ClassVar[frozenset[str]] = frozenset({"W1", "W1-lat", "W2", "W3", "W4", "W5"})
    settings: ClassVar[str] = (
        "one node with one partition, its log fsynced as it is by default; the worker on granian over HTTP/2, which"
        " lets it stream, in one process, since two were not faster; events are sent one-way through the ingress"
    )

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        python = await python_with("restate", PACKAGES)
        version = (await run_to_end([str(await _binary()), "--version"], "its version")).split()
        return {"restate-server": version[1], **await versions_of(python, PACKAGES[:2])}

    async def start(self) -> None:
        self._worker_port, ingress, admin, node = free_port(), free_port(), free_port(), free_port()
        python = await python_with("restate", PACKAGES)
        environment = {
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DEFAULT_NUM_PARTITIONS": "1",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
        }
        command = [str(await _binary()), "--no-logo", "--base-dir", str(self.folder / "restate"), "--node-name", "n1"]
        server = self.child("restate-server", command, environment)
        self._worker = self.child(
            "restate-worker",
            [
                *(str(python), "-m", "granian", "--interface", "asgi", "--http", "2", "--workers", "1"),
                *("--loop", "uvloop", "--no-ws", "--backlog", "1024", "--host", "127.0.0.1"),
                *("--port", str(self._worker_port), "--working-dir", str(ROOT), "bench.apps.restate:app"),
            ],
            {"BENCH_JOURNAL": str(self.journal_path)},
        )
        url = f"http://127.0.0.1:{ingress}/Bench"
        command = [PYTHON, "-m", "bench.sites.restate_producer"]
        self._producer = self.producing("restate-producer", command, {"BENCH_INGRESS_URL": url})
        await self.worker_is_back()
        await self._register(server, admin)
        await self._producer.listens()

    async def _register(self, server: Child, admin: int) -> None:
        """Tell the server where the worker is, once it listens."""
        transport = PooledTransport()
        body = json.dumps({"uri": f"http://127.0.0.1:{self._worker_port}"}).encode()
        headers = [("Content-Type", "application/json")]
        request = HttpRequest("POST", f"http://127.0.0.1:{admin}/deployments", headers, body)

        async def registered() -> bool:
            try:
                return (await transport.send(request)).ok
            except TransportError:
                return False

        await server.ready(registered)
        await transport.close()

    async def worker_is_back(self) -> None:
        await self._worker.accepts(self._worker_port)

    @property
    def producer(self) -> Producer:
        return self._producer

    @property
    def worker(self) -> Child:
        return self._worker
