"""Who is let in, as a browser sees it: the login, what leads to it, and how a session ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from idioteque.console.app import Console
from idioteque.console.settings import ConsoleSettings
from tests.console.actions import does
from tests.console.browse import Visitor
from tests.console.conftest import READONLY, WAIT_MS, Place
from tests.destination import until


@pytest.fixture
def stranger(page: Page) -> Page:
    """A page without a session."""
    page.context.clear_cookies()
    return page


def log_in(page: Page, token: str) -> None:
    page.get_by_label("The server's token").fill(token)
    page.get_by_role("button", name="Log in").click()


@does("/login", "/logout")
def test_a_login_leads_to_what_was_asked_for_and_a_logout_ends_it_everywhere(stranger: Page, place: Place) -> None:
    stranger.goto(f"{place.server.url}/runs?status=failed")
    expect(stranger.get_by_label("The server's token")).to_be_focused()
    log_in(stranger, place.server.token)
    expect(stranger).to_have_url(f"{place.server.url}/runs?status=failed")
    expect(stranger.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    cookies = {one["name"]: one["value"] for one in stranger.context.cookies()}
    other = stranger.context.new_page()
    other.goto(f"{place.server.url}/messages")
    expect(other.locator(".live.on")).to_be_visible()
    stranger.get_by_role("button", name="Log out").click()
    expect(stranger.get_by_role("button", name="Log in")).to_be_visible()
    expect(other.get_by_role("button", name="Log in")).to_be_visible()
    assert Visitor(place.server.url, cookies).get("/runs").status == 303, "a copy of the cookie opens nothing either"
    stranger.go_back()
    expect(stranger.get_by_role("button", name="Log in")).to_be_visible()
    assert [act["what"] for act in place.trail()][-2:] == ["login", "logout"]


@does("/login")
def test_a_wrong_token_is_refused_and_noted(browser: Browser, place: Place, stranger: Page) -> None:
    stranger.route("**/login", lambda route: route.fulfill(status=200, response=route.fetch(max_redirects=0)))
    stranger.goto(f"{place.server.url}/login?next=/runs")
    log_in(stranger, "a wrong token")
    expect(stranger.get_by_role("alert")).to_have_text("that is not this server's token")
    assert stranger.context.cookies() == []
    until(lambda: place.trail()[-1]["outcome"] == "refused: wrong token")
    assert not any("a wrong token" in line for line in place.server.lines)
    stranger.unroute("**/login")
    log_in(stranger, place.server.token)
    expect(stranger).to_have_url(f"{place.server.url}/runs")


@does("/login")
def test_a_read_only_token_shows_every_button_and_lets_none_be_pressed(stranger: Page, place: Place) -> None:
    place.call("/v2/queues", b'{"queueName": "seen"}')
    stranger.goto(f"{place.server.url}/queues")
    log_in(stranger, READONLY)
    expect(stranger).to_have_url(f"{place.server.url}/queues")
    for name in ("Pause", "Delete"):
        expect(stranger.get_by_role("button", name=name)).to_be_disabled()
    stranger.goto(f"{place.server.url}/runs/{place.runs['later']}")
    expect(stranger.get_by_role("button", name="Cancel")).to_be_disabled()
    stranger.keyboard.press("r")
    expect(stranger.locator("h1 .status")).to_have_text("waiting")


@contextmanager
def console_of_short_sessions(place: Place, session_s: int) -> Iterator[str]:
    """Serve a console over this server, in a thread of this process; yield its URL."""
    settings = ConsoleSettings(place.server.url, session_s=session_s, live_every_s=0.1)
    console = Console(settings, lambda token: "admin" if token == place.server.token else None)
    server = uvicorn.Server(uvicorn.Config(console, port=0, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        console.let_go()
        server.should_exit = True
        thread.join(WAIT_MS / 1000)


def test_a_session_that_has_expired_leads_to_the_login_and_back(browser: Browser, place: Place) -> None:
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    with console_of_short_sessions(place, session_s=3) as url:
        page.goto(f"{url}/messages")
        log_in(page, place.server.token)
        expect(page.locator(".live.on")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_text("the session has ended; log in again", timeout=WAIT_MS)
        log_in(page, place.server.token)
        expect(page).to_have_url(f"{url}/messages")
        page.goto(f"{url}/messages/publish")  # which is not live, so that nobody tells it
        page.get_by_label("URL, or the name").fill(f"{place.destination.url}/late")
        cookies = {one["name"]: one["value"] for one in context.cookies()}
        until(lambda: Visitor(url, dict(cookies)).get("/system").status == 303)
        page.get_by_role("button", name="Publish").click()
        expect(page.get_by_role("alert")).to_have_text("the session has ended, so nothing was changed; log in again")
        assert not any(request.target == "/late" for request in place.destination.received)
        context.close()
