"""Who may speak to the server: requests to its own names (no DNS rebinding), from its own pages, by the one browser that is measured.

Whoever opens the page gets a cookie, on the network only by the token in the address. The first of them that does more than look, as its
page does once it is started, is the one that is measured; from then on the token is spent. So whatever opens a link without running it, as
some QR scanners do for a preview, takes nothing away. On this computer alone a browser that was silent for a while gives its place to the
next one.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .records import Rejected

SILENT_S = 60.0  # a page speaks every 10 s; after which another browser on this computer may take the place
RETRY_S = 10  # after which a page that was refused for that asks again
VISITORS = 16  # cookies of those that only looked so far
TAKEN = "Another browser is being measured already, and it goes on. Only one can be measured at a time."
AGAIN = "Stop the command with Ctrl-C and run it again: what is done is kept"


@dataclass
class Guard:
    hosts: frozenset[str]  # "127.0.0.1:8765", as a Host header has it
    scheme: str = "http"
    token: str | None = None
    clock: Callable[[], float] = time.monotonic
    cookie: str | None = None  # of the browser that is measured
    heard: float = 0.0  # when it last spoke
    visitors: list[str] = field(default_factory=list)  # cookies of those that opened the page, the newest last

    def check_source(self, method: str, headers: Mapping[str, str]) -> None:
        """Raises: Rejected"""
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if host.lower() not in self.hosts:
            raise Rejected(421, f"This server is not {host[:100]!r}. Open the address that the command printed")
        if origin is None and method != "GET":
            raise Rejected(403, "A request without an Origin changes nothing here: only the measuring page may post")
        if origin is not None and origin.lower() != f"{self.scheme}://{host.lower()}":
            raise Rejected(403, f"A page of {origin[:100]!r} has no business here")
        if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and headers.get("Sec-Fetch-Mode") != "navigate":
            raise Rejected(403, "A page of another site has no business here")

    def check_cookie(self, cookie: str | None, only_looks: bool = False) -> None:
        """only_looks: what is asked for is part of the page, not of the measurement. Raises: Rejected"""
        if not _is_one_of(cookie, (self.cookie,)):
            visits = _is_one_of(cookie, self.visitors)
            if self.cookie is None and not visits:
                raise Rejected(401, "The server was started anew. Reload this page, or open the address that the command printed")
            if self._is_taken() or not visits:
                raise Rejected(409, TAKEN)
            if only_looks:
                return
            self.cookie, self.visitors = cookie, []
        self.heard = self.clock()

    def let_in(self, cookie: str | None, token: str | None) -> str | None:
        """For a page that is opened: a new cookie, or None for a browser that has one. Raises: Rejected"""
        if _is_one_of(cookie, (self.cookie,)):
            self.heard = self.clock()
            return None
        if self.token is not None and not _is_one_of(token, (self.token,)) and not _is_one_of(cookie, self.visitors):
            raise Rejected(403, "This address lacks its token, or has another one. Open the whole address that the command printed")
        if self._is_taken():
            if self.token is not None:
                raise Rejected(409, f"{TAKEN} The address works once. If it was you: {AGAIN}")
            raise Rejected(409, f"{TAKEN} If its page is closed, this one opens by itself within {SILENT_S + RETRY_S:.0f} s", RETRY_S)
        if _is_one_of(cookie, self.visitors):
            return None
        self.visitors = [*self.visitors, secrets.token_urlsafe(24)][-VISITORS:]
        return self.visitors[-1]

    def _is_taken(self) -> bool:
        return self.cookie is not None and (self.token is not None or self.clock() - self.heard < SILENT_S)


def _is_one_of(given: str | None, known: Iterable[str | None]) -> bool:
    """In a time that does not tell how much of it was right."""
    return given is not None and any([secrets.compare_digest(given.encode(), one.encode()) for one in known if one is not None])
