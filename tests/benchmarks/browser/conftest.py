"""A server with a page, a model file and two questions, and a browser of few words that talks to it."""

import http.client
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgesafe.benchmarks.browser import address
from edgesafe.benchmarks.browser.guard import Guard
from edgesafe.benchmarks.browser.server import Server, serving
from edgesafe.benchmarks.browser.session import Session
from edgesafe.benchmarks.browser.work import Work
from edgesafe.benchmarks.gallery import Drawing
from edgesafe.benchmarks.leakage import Question

SIDE = 64
QUESTIONS = (Question("shark neon style", 0), Question("shark neon style", 1))
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36"
PHONE: dict[str, Any] = {
    "user_agent": ANDROID,
    "model": "Pixel 8",
    "backend": "wasm",
    "threads": 4,
    "cores": 9,
    "memory_gib": 8,
    "adapter": None,
    "isolated": True,
    "clock_ms": 0.005,
}
COLD = {"load_ms": 900.5, "first_picture_ms": 800.25, "download_ms": 1200, "download_bytes": 37_000_000, "held_mib": 120.5}
TIMES = {"warm_up": 2, "samples_ms": [30.0, 31.5, 29.25]}


def make_png(side: int = SIDE, value: int = 7, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).convert(mode).save(out, "PNG")
    return out.getvalue()


@dataclass
class Visitor:
    """Speaks HTTP by hand, so that it can also say what no browser would."""

    port: int
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> tuple[int, dict[str, str], bytes]:
        origin = {"Origin": f"http://127.0.0.1:{self.port}"} if method == "POST" else {}
        given = origin | self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            given["Cookie"] = self.cookie
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host="Host" in given)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def open(self, path: str = "/") -> int:
        """As a browser opens a page; keeps the cookie."""
        status, headers, _ = self.ask("GET", path)
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].split(";")[0]
        return status

    def post(self, path: str, data: Any = None, **headers: str | None) -> tuple[int, dict[str, Any]]:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        status, _, answer = self.ask("POST", path, body, **headers)
        return status, json.loads(answer)


@dataclass
class Stand:
    port: int
    session: Session
    guard: Guard
    root: Path

    def visitor(self) -> Visitor:
        return Visitor(self.port)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """`stand()` starts a server and says where; another call with the same root is the command run again."""
    with ExitStack() as stack:

        def start(token: str | None = None, name: str | None = None, clock: Callable[[], float] | None = None, **work: Any) -> Stand:
            folder = tmp_path / "export"
            folder.mkdir(exist_ok=True)
            (folder / "manifest.json").write_text("{}")
            (folder / "secret.txt").write_text("not in the manifest")
            (folder / "bench.html").write_text("<!doctype html><title>bench</title>")
            (folder / "bench.js").write_text("export {};")
            given = {"export": "tiny", "manifest_sha256": "ab" * 32, "width": SIDE, "height": SIDE, "size_mib": 1.5}
            made = Work(**given | {"drawing": Drawing(2, 4.0, "ddim"), "questions": QUESTIONS} | work)
            session = Session(tmp_path / "kept", made, "cd" * 32, name)
            sock = address.listen(address.LOOPBACK, None)
            port = sock.getsockname()[1]
            guard = Guard(frozenset({f"127.0.0.1:{port}", f"localhost:{port}"}), token=token, **({"clock": clock} if clock else {}))
            pages = {"bench.html": folder / "bench.html", "assets/bench-1.js": folder / "bench.js"}
            files = pages | {"model/manifest.json": folder / "manifest.json"}
            stack.enter_context(serving(Server(session, guard, files), sock))
            return Stand(port, session, guard, tmp_path)

        yield start
