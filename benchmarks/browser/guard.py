"""Who may speak to the server: requests to its own names (no DNS rebinding), from its own pages, by the one browser that was let in.

On the network a token in the address lets one browser in, once; it gets a cookie. On this computer alone no token is needed, and a browser
that was silent for a while gives its place to the next one.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .records import Rejected

SILENT_S = 60.0  # a page speaks every 10 s; after which another browser on this computer may take the place
TAKEN = "Another browser is being measured already, and it goes on. Only one can be measured at a time."
AGAIN = "Stop the command with Ctrl-C and run it again: what is done is kept"


@dataclass
class Guard:
    hosts: frozenset[str]  # "127.0.0.1:8765", as a Host header has it
    scheme: str = "http"
    token: str | None = None
    clock: Callable[[], float] = time.monotonic
    cookie: str | None = None  # of the browser that was let in
    heard: float = 0.0  # when it last spoke
    used: bool = field(default=False)  # the token

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

    def check_cookie(self, cookie: str | None) -> None:
        """Raises: Rejected"""
        if not self.knows(cookie):
            if self.cookie is None:
                raise Rejected(401, "The server was started anew. Reload this page, or open the address that the command printed")
            raise Rejected(409, TAKEN)
        self.heard = self.clock()

    def knows(self, cookie: str | None) -> bool:
        return self.cookie is not None and cookie is not None and secrets.compare_digest(cookie.encode(), self.cookie.encode())

    def let_in(self, cookie: str | None, token: str | None) -> str | None:
        """For a page that is opened: a new cookie, or None where the browser is in already. Raises: Rejected"""
        if self.knows(cookie):
            self.heard = self.clock()
            return None
        if self.token is not None:
            if token is None or not secrets.compare_digest(token.encode(), self.token.encode()):
                raise Rejected(403, "This address lacks its token, or has another one. Open the whole address that the command printed")
            if self.used:
                raise Rejected(409, f"{TAKEN} The address works once. If it was you: {AGAIN}")
            self.used = True
        elif self.cookie is not None and self.clock() - self.heard < SILENT_S:
            raise Rejected(409, f"{TAKEN} If its page is closed, reload this one in {SILENT_S:.0f} s")
        self.cookie, self.heard = secrets.token_urlsafe(24), self.clock()
        return self.cookie
