"""Every screen, also the forms that are folded away and the pages between two steps: for all people, by keyboard, and
at every width. A new screen has to be named here.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from starlette.routing import Match, Route

from idioteque.console.pages import SCREENS
from tests.console.conftest import Place
from tests.console.test_browser import violations
from tests.destination import until

DOWNLOADS = "/raw"
"""What is handed over as a file, and is no page."""

FOLDED = """() => document.querySelectorAll('main details').forEach((one) => { one.open = true; })"""

WITHIN = """() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const controls = 'main button, main input:not([type=hidden]), main select, main textarea';
    const hidden = [...document.querySelectorAll(controls)]
        .filter((one) => one.getClientRects().length)
        .filter((one) => { const box = one.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; });
    return [wide, hidden.map((one) => one.outerHTML.slice(0, 120))];
}"""
"""By how many pixels the page is too wide, and the controls that lie beside the screen."""

REACHABLE = """() => {
    const wanted = 'a[href], button:not(:disabled), input:not([type=hidden]), select, textarea, summary';
    const shown = (one) => one.getClientRects().length && !one.closest('dialog:not([open])');
    const all = [...document.querySelectorAll(wanted)].filter(shown);
    window.reached ??= new Set();
    if (document.activeElement !== document.body) window.reached.add(document.activeElement);
    return all.filter((one) => !window.reached.has(one)).map((one) => one.outerHTML.slice(0, 120));
}"""
"""The controls that the focus has not been on yet."""

MOUSE_ONLY = """() => [...document.querySelectorAll('[onclick], [role=button]:not(button), [tabindex]')]
    .filter((one) => one.tabIndex > 0 || (one.tabIndex < 0 && one.matches('a, button, input, select, textarea')))
    .map((one) => one.outerHTML.slice(0, 120))"""


def fill(place: Place) -> list[str]:
    """Give every screen something to show; return the addresses of all of them."""
    visitor = place.visitor()
    seen = place.publish("/bad-access", b'{"invoice": 1}', Retries="0", Label="access", Forward_X_Note="note")
    until(lambda: seen in visitor.get("/dead-letters").text)
    letter = place.get(f"/v2/dlq?messageId={seen}").split('"dlqId":"')[1].split('"')[0]
    place.call("/v2/queues", b'{"queueName": "access", "parallelism": 1, "paused": true}')
    place.call(f"/v2/enqueue/access/{place.destination.url}/access")
    place.call("/v2/flowControl/access/eu/pause")
    place.publish("/access", Flow_Control_Key="access/eu", Flow_Control_Value="parallelism=1, rate=3, period=1m")
    paris = "CRON_TZ=Europe/Paris 0 4 * * *"
    place.call(f"/v2/schedules/{place.destination.url}/access", b"{}", Cron=paris, Schedule_Id="access", Delay="1s")
    end = f'{{"endpoints": [{{"name": "one", "url": "{place.destination.url}/one"}}]}}'
    place.call("/v2/topics/access/endpoints", end.encode())
    envelope = b'{"idioteque": 1, "kind": "event", "event_id": "evt_access", "event": {"type": "access"}}'
    event = place.publish("/mount", envelope, Retries="0")
    until(lambda: event in visitor.get("/events").text)
    good, bad, later = (place.runs[name] for name in ("good", "bad", "later"))
    tabs = [f"?tab={tab}" for tab in ("input", "output", "error", "attempts", "messages", "logs")]
    return [
        "/", "/runs", "/runs?status=failed", f"/runs/{later}",
        *(f"/runs/{run}{tab}" for run in (good, bad) for tab in ("", *tabs)),
        "/events", f"/events/{event}", "/events/new", "/messages", f"/messages/{seen}",
        "/messages/publish", "/messages/signature",
        "/dead-letters", f"/dead-letters/{letter}", "/schedules", "/schedules/new",
        "/schedules/access/edit", "/schedules/ticks?cron=0+4+*+*+*", "/queues", "/queues/access", "/url-groups",
        "/flow-control", "/flow-control/access%2Feu", "/keys", "/system", "/system/doctor", "/nowhere",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def addresses(place: Place) -> list[str]:
    return fill(place)


@pytest.fixture(autouse=True)
def lenient(page: Page) -> None:
    """Let the pages of refusals be looked at: a browser complains of their status."""
    for address in ("**/nowhere", "**/login"):
        page.route(address, lambda route: route.fulfill(status=200, response=route.fetch()))


def test_every_screen_is_among_those_that_are_looked_at(addresses: list[str]) -> None:
    def leads_to(path: str, address: str) -> bool:
        scope = {"type": "http", "method": "GET", "path": address.partition("?")[0], "root_path": ""}
        return Route(path, lambda request: None).matches(scope)[0] is Match.FULL  # type: ignore[arg-type, return-value]

    pages = [screen.path for screen in SCREENS if not screen.act and DOWNLOADS not in screen.path]
    assert [path for path in pages if not any(leads_to(path, address) for address in addresses)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_every_screen_is_accessible_and_fits(
    page: Page, place: Place, addresses: list[str], scheme: Any, width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})
    for address in addresses:
        page.goto(place.server.url + address)
        page.evaluate(FOLDED)
        assert violations(page) == [], address
        wide, beside = page.evaluate(WITHIN)
        assert wide <= 0, f"{address} is {wide} px too wide"
        assert beside == [], f"{address}: out of sight at {width} px"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_between_two_steps_are_accessible(
    page: Page, place: Place, addresses: list[str], scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for width in (400, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{place.server.url}/runs?status=waiting")
        page.get_by_role("button", name="Cancel…").click()
        expect(page.get_by_role("heading", name="Cancel 1 run")).to_be_visible()
        assert violations(page) == []
        page.goto(f"{place.server.url}/dead-letters")
        page.get_by_role("checkbox").first.check()
        page.get_by_role("button", name="Retry…").first.click()
        expect(page.locator("h1")).to_contain_text("Retry")
        assert violations(page) == []
        page.goto(f"{place.server.url}/messages/signature")
        page.get_by_label("Upstash-Signature").fill("no.such.signature")
        page.get_by_role("button", name="Check").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("?")
        expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()
        assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_login_is_accessible_also_when_it_refuses(page: Page, place: Place, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("about:blank")  # which ends the live page before its session is gone
    page.context.clear_cookies()
    page.goto(f"{place.server.url}/login?next=/runs")
    assert violations(page) == []
    page.get_by_label("The server's token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page) == []
    assert page.evaluate(WITHIN) == [0, []]


def test_the_keyboard_reaches_every_control_of_every_screen(page: Page, place: Place, addresses: list[str]) -> None:
    for address in addresses:
        page.goto(place.server.url + address)
        page.evaluate(FOLDED)
        assert page.evaluate(MOUSE_ONLY) == [], address
        left = page.evaluate(REACHABLE)
        for _ in range(2 * len(left) + 20):  # regions that scroll are stops as well
            if not left:
                break
            page.keyboard.press("Tab")
            left = page.evaluate(REACHABLE)
        assert left == [], f"{address}: the Tab key does not lead there"


def test_an_operator_gets_along_without_a_mouse(page: Page, place: Place, addresses: list[str]) -> None:
    def focus(label: str) -> None:
        for _ in range(80):
            if page.evaluate("document.activeElement.textContent.trim()") == label:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"the Tab key does not lead to {label!r}")

    page.goto(f"{place.server.url}/schedules")
    focus("Pause")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("pause: ")
    focus("Resume")
    page.keyboard.press("Space")
    expect(page.get_by_role("alert")).to_contain_text("resume: ")
    page.goto(f"{place.server.url}/flow-control?search=access")
    focus("Pin")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("9")
    focus("Pin these limits")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("pin: access/eu")
    page.goto(f"{place.server.url}/dead-letters")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator('input[name="id"]:checked')).not_to_have_count(0)
