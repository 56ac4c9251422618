"""What every screen is given and gives back: a visit, and a page, or what came of an action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from idioteque.client import QStash
from idioteque.clock import Clock
from idioteque.console.audit import Audit
from idioteque.console.checkup import Checkup
from idioteque.console.desk import RunsDesk
from idioteque.console.forms import Describe
from idioteque.console.sessions import Session
from idioteque.console.settings import ConsoleSettings
from idioteque.environment import Account
from idioteque.errors import IdiotequeError, InvalidValue
from idioteque.transport import HttpTransport

FIELDS_MAX = 5000


class NotShown(IdiotequeError):
    """There is nothing to show under this address, as the text says."""


class FormRefused(IdiotequeError):
    """A form came without the session's own token, from another origin, or is too large; `status` says which."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Services:
    """What the screens work with; None where no store of runs was named, there is no doctor, or no worker was named."""

    settings: ConsoleSettings
    clock: Clock
    transport: HttpTransport
    runs: RunsDesk | None
    audit: Audit
    checkup: Checkup | None = None
    describe: Describe | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A screen: `view` is a frozen dataclass, which the template shows and the JSON twin spells out."""

    template: str
    view: object
    status: int = 200
    refusal: str = ""
    """Why an action was not done, when the page is its form again; for the audit trail."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an action, and the path of the page to go on with."""

    text: str
    back: str
    is_failure: bool = False
    target: str = ""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is logged in; `form` holds the fields of an action."""

    services: Services
    session: Session
    query: Mapping[str, str]
    path: Mapping[str, str]
    form: Sequence[tuple[str, str]] = field(default=())

    @property
    def api(self) -> QStash:
        """The QStash, in this session's name."""
        account = Account(self.services.settings.api_url, self.session.token, None, None)
        return QStash(account, self.services.transport)

    @property
    def runs(self) -> RunsDesk:
        """The runs; raise `NotShown` when there is no store."""
        if self.services.runs is None:
            raise NotShown("no store of runs was named: give --store URL, or set IDIOTEQUE_STORE")
        return self.services.runs

    @property
    def now_ms(self) -> int:
        return self.services.clock.now_ms()

    def asked(self, name: str) -> str:
        """Return a query parameter without the blanks around it; "" when it is missing."""
        return self.query.get(name, "").strip()

    def given(self, name: str) -> str:
        """Return a field of the form; "" when it is missing."""
        return next((value for key, value in self.form if key == name), "")

    def written(self, name: str) -> str:
        """Return a field of several lines as it was written: browsers send the end of each line as CRLF."""
        return self.given(name).replace("\r\n", "\n")

    def all_given(self, name: str) -> list[str]:
        """Return every value of a field, without repetitions."""
        return list(dict.fromkeys(value for key, value in self.form if key == name))


Answer = Page | Done | Response
Handler = Callable[[Visit], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Screen:
    """A path and what shows it (`act` empty) or acts on it (`act` names the action in the audit trail)."""

    path: str
    handler: Handler
    act: str = ""
    looks_only: bool = False
    """Whether a reader may send this form, since it changes nothing."""


async def read_form(request: Request, bytes_max: int) -> list[tuple[str, str]]:
    """Return the fields of a urlencoded form; raise `FormRefused` for one that is too large or of another kind."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise FormRefused(415, "forms are sent as application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise FormRefused(413, f"the form has more than {bytes_max} bytes")
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict", encoding="utf-8"
        )
    except ValueError:
        raise InvalidValue(f"the form is not UTF-8, or has more than {FIELDS_MAX} fields") from None


def is_from_elsewhere(request: Request) -> bool:
    """Whether a browser says that a form was sent by another site's page."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site not in ("same-origin", "none")
