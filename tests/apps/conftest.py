"""The emoji student as an ONNX export, Node, and a server with the headers that WASM threads ask for."""

import functools
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgesafe import artifact
from edgesafe.benchmarks.browser import plan

WEB = Path(__file__).parents[2] / "apps" / "web"


@pytest.fixture(scope="session")
def cut(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student's UNet cut for a browser: a folder plan/. Do not write to it."""
    folder = tmp_path_factory.mktemp("cut")
    plan.write(student, artifact.read(student), folder)
    return folder / plan.FOLDER


@pytest.fixture(scope="session")
def fixed(tiny_sd2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in fp16 whose sizes are fixed, its batch too, of a model that predicts v. Do not write to it."""
    from edgesafe.export import ExportConfig, run

    return run(ExportConfig(str(tiny_sd2), "onnx", "fp16", tmp_path_factory.mktemp("fixed") / "onnx", static=True))


@pytest.fixture(scope="session")
def npm() -> Callable[..., str]:
    """`npm("test")`: `npm run --silent test` in apps/web; returns what it printed. Fails where Node or its packages are missing."""
    command = shutil.which("npm")
    if command is None:
        pytest.fail("the web app's tests need Node 20.19 or newer with npm: https://nodejs.org, or on Debian: apt install nodejs npm")
    if not (WEB / "node_modules" / "vite").is_dir():
        pytest.fail("the web app's packages are not installed: run npm ci in apps/web")

    def run(*arguments: str) -> str:
        done = subprocess.run([command, "run", "--silent", *arguments], cwd=WEB, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    return run


class Folders:
    """Serves folders by the first part of a URL's path; "" is the rest.

    `replaced` and `absent` change single files by their path; what begins with one of `hung` is not answered before `freed` is set.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders, self.asked = folders, list[str]()
        self.replaced: dict[str, bytes] = {}
        self.absent: set[str] = set()
        self.hung: set[str] = set()
        self.freed = threading.Event()
        self.isolated = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def close(self) -> None:
        self.freed.set()
        self.server.shutdown()
        self.server.server_close()

    def find(self, path: str) -> Path:
        first, _, rest = path.partition("/")
        return self.folders[first] / rest if first in self.folders and rest else self.folders[""] / path


class _Handler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, site: Folders, *arguments: Any) -> None:
        self.site = site
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.lstrip("/").partition("?")[0] or "index.html"
        self.site.asked.append(path)
        if path.startswith(tuple(self.site.hung)):
            self.site.freed.wait()
        file = self.site.find(path)
        if path in self.site.absent or not (path in self.site.replaced or file.is_file()):
            self.send_error(404)
            return
        data = self.site.replaced[path] if path in self.site.replaced else file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def end_headers(self) -> None:
        if self.site.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Path]], Folders]]:
    made: list[Folders] = []

    def start(folders: dict[str, Path]) -> Folders:
        made.append(Folders(folders))
        return made[-1]

    yield start
    for site in made:
        site.close()
