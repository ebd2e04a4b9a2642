"""The server that a browser is measured with: fixed files, and a few places to post to.

It runs on a thread of its own. Only names on its lists are served, so there is no path to escape from; whatever is wrong with a request
ends in a message with a 4xx, and the session goes on.
"""

import asyncio
import html
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web

from . import records
from .guard import Guard
from .records import Rejected
from .session import Session

PAGE = "bench.html"
TYPES = {  # of whatever a site or an export holds; all else is bytes
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next one: threads in WebAssembly
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",  # the address may hold a token
    "X-Content-Type-Options": "nosniff",
}
REFUSAL = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>EdgeSafe</title>
<h1>EdgeSafe</h1>
<p>{}</p>
</html>
"""
MEASURED = ("model/", "plan/")  # names whose files a browser asks for once it is started
STOP_S = 2.0  # for requests that are under way when the server stops

Files = Mapping[str, Path]
Turn = Callable[[int, Mapping[str, Any]], Awaitable[None]]  # a posted block of UNet calls; returns when the browser may go on
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    session: Session
    guard: Guard
    files: Files  # name in the site -> file
    unpack: Callable[[Path], bytes] = Path.read_bytes  # of a file that is packed in the package
    turn: Turn | None = None
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        self.cookie = f"edgesafe-{min(self.guard.hosts).rpartition(':')[2]}"  # browsers do not tell ports apart
        self.unpacked = cache(self.unpack)

    def app(self) -> web.Application:
        limit = max(records.JSON_BYTES, records.png_limit(self.session.work.width, self.session.work.height))
        app = web.Application(middlewares=[self._guarded], client_max_size=limit)
        app.add_routes(
            [
                web.get("/api/work", self._work, allow_head=False),
                web.post("/api/hello", self._hello),
                web.post("/api/cold", self._cold),
                web.post("/api/latency/{part}", self._latency),
                web.post("/api/picture/{id}", self._picture),
                web.post("/api/progress", self._progress),
                web.post("/api/fault", self._fault),
                web.post("/api/turn/{n}", self._turn),
                web.get("/{name:.*}", self._file, allow_head=False),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self.guard.check_source(request.method, request.headers)
            given, name = request.cookies.get(self.cookie), request.path.removeprefix("/")
            fresh = None
            if name in ("", PAGE) and request.method == "GET":
                fresh = self.guard.let_in(given, request.query.get("t"))
            else:
                self.guard.check_cookie(given, only_looks=request.method == "GET" and not name.startswith(MEASURED))
            response = _page() if name == "" else await handler(request)
            if fresh:
                options: dict[str, Any] = {"httponly": True, "samesite": "Lax", "path": "/", "max_age": 86_400}
                response.set_cookie(self.cookie, fresh, secure=self.guard.scheme == "https", **options)
        except Rejected as error:
            response = refusal(request, error.status, error.message, error.retry_s)
        except web.HTTPException as error:
            response = refusal(request, error.status, _words(error))
        for header, value in HEADERS.items():
            response.headers[header] = value
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/")
        path = self.files.get(name)
        if path is None:
            raise Rejected(404, f"There is no {name[:100]!r} here")
        kind = {"Content-Type": TYPES.get(Path(name).suffix, "application/octet-stream")}
        if path.suffix == ".xz":
            body = await asyncio.to_thread(self.unpacked, path)
            return web.Response(body=body, headers=kind)
        return web.FileResponse(path, headers=kind)

    async def _work(self, request: web.Request) -> web.Response:
        return web.json_response(self.session.work.offer())

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response(self.session.hello(await _json(request, records.DEVICE, "device")))

    async def _cold(self, request: web.Request) -> web.Response:
        return _left(self.session.put_cold(await _json(request, records.COLD, "cold start")))

    async def _latency(self, request: web.Request) -> web.Response:
        part = request.match_info["part"]
        return _left(self.session.put_latency(part, await _json(request, records.LATENCY, f"latency of {records.printable(part)[:40]}")))

    async def _picture(self, request: web.Request) -> web.Response:
        return _left(self.session.put_picture(request.match_info["id"], await request.read()))

    async def _progress(self, request: web.Request) -> web.Response:
        self.session.put_progress(await _json(request, records.PROGRESS, "progress"))
        return web.json_response({})

    async def _fault(self, request: web.Request) -> web.Response:
        self.session.put_fault(await _json(request, records.FAULT, "fault"))
        return web.json_response({})

    async def _turn(self, request: web.Request) -> web.Response:
        n = request.match_info["n"]
        if self.turn is None or not n.isdecimal() or int(n) > self.session.work.turns:
            raise Rejected(404, "Nobody asked for turns")
        await self.turn(int(n), await _json(request, records.TIMES, "turn"))
        return web.json_response({})


def refusal(request: web.Request, status: int, message: str, retry_s: int | None = None) -> web.Response:
    """A page for whoever opened the address, JSON for the page's own script."""
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        again = {"Refresh": str(retry_s)} if retry_s is not None else {}
        return web.Response(text=REFUSAL.format(html.escape(message)), status=status, content_type="text/html", headers=again)
    return web.json_response({"message": message}, status=status)


@contextmanager
def serving(server: Server, sock: socket.socket, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """The server answers while the block runs."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=STOP_S)

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, sock, ssl_context=tls).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, name="edgesafe-browser", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _json(request: web.Request, schema: dict[str, Any], what: str) -> dict[str, Any]:
    return records.parse(await request.read(), schema, what)


def _page() -> web.StreamResponse:
    return web.Response(status=303, headers={"Location": f"/{PAGE}"})


def _left(n: int) -> web.Response:
    return web.json_response({"left": n})


def _words(error: web.HTTPException) -> str:
    if error.status == 413:
        return "What was sent is larger than anything that is asked for"
    return f"{error.status}: {error.reason}"
