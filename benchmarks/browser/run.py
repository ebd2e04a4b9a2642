"""`run(BenchConfig, WebConfig) -> Path`: hand an export to whatever browser opens the address, and report on it like on any runtime.

Times and pictures are the browser's; detectors, the control, and the export on this computer's own runtime are worked out here, once the
browser is done.
"""

import hashlib
import re
import secrets
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from edgesafe import artifact
from edgesafe.apps import site
from edgesafe.errors import EdgeSafeError, Stopped

from .. import exhibit, report
from ..audit import bars
from ..bench import Bench, BenchConfig
from ..cells import attempt
from ..exhibit import MIB, Exhibit
from . import address, plan, rows, server, work
from .guard import Guard
from .received import Received
from .server import Files, Server
from .session import Session
from .work import BACKENDS, Work

HERE = "onnxruntime"  # the runtime of this computer that reads the same files
TICK_S = 0.5
MINUTES = 30.0
NAME = 60  # characters

PLAIN = (
    "Over plain http a browser gives a page of another computer no memory for threads to share (so two cores at most) and no WebGPU. For",
    "more, give --cert and --key (such as mkcert makes them) for this address, or use a cable and no --lan:",
    "adb reverse tcp:{port} tcp:{port}, then open the address on the phone.",
)


@dataclass(frozen=True)
class WebConfig:
    lan: bool = False  # else this computer's own browsers alone
    address: str | None = None  # of this computer, with lan; None: that of its default route
    port: int | None = None  # None: address.PORT, or a free one
    name: str | None = None  # of the device in the report; None: what the browser says
    backend: str | None = None  # of BACKENDS; None: WebGPU where there is one
    timeout: float = MINUTES  # minutes without a word from a browser; 0: for ever
    cert: Path | None = None  # of TLS: a certificate in PEM for the address, which the device trusts
    key: Path | None = None  # None: it stands in the certificate's file

    def __post_init__(self) -> None:
        if self.address is not None and not self.lan:
            raise EdgeSafeError(f"--address {self.address}: only with --lan. Without it the server can be reached from this computer alone")
        if self.key is not None and self.cert is None:
            raise EdgeSafeError(f"--key {self.key}: only with --cert")
        self.tls()
        if self.backend is not None and self.backend not in BACKENDS:
            raise EdgeSafeError(f"--backend {self.backend}: unknown; known: {', '.join(BACKENDS)}")
        if self.name is not None and not 0 < len(re.sub(r"\W", "", self.name)) <= len(self.name) <= NAME:
            raise EdgeSafeError(f"--name {self.name!r}: give the device a name of 1 to {NAME} characters")

    def tls(self) -> ssl.SSLContext | None:
        """Raises: EdgeSafeError for files that are no certificate with its key."""
        if self.cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise EdgeSafeError(f"--cert {self.cert}: not a certificate with its key, in PEM ({error})") from error
        return context


def run(config: BenchConfig, web: WebConfig, machine: Mapping[str, str], console: Console | None = None, root: Path = Path("runs")) -> Path:
    """Returns the folder of the report. machine: what to say of this computer."""
    console = console or Console(stderr=True)
    found = exhibit.find(exhibit.choose("bench", config.source, root, console), config.control, (HERE,))
    work.check(found)
    work.check_probes(config.audit().chosen())
    config = config if config.runtimes is not None else replace(config, runtimes=(HERE,))
    out = config.out or exhibit.beside(found.source, root, "web")
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with artifact.staged(out, config.force) as folder, bars(console) as progress, tempfile.TemporaryDirectory() as cut:
        made = Bench(config, found, threads, out.parent / ".cache", progress)
        if made.audit and made.audit.task is not None:
            progress.update(made.audit.task, visible=False)  # until the browser is done
        served = files(found, Path(cut))
        session = _session(made, web, out.parent / ".cache" / "browser", served)
        with opened(session, served, web) as (url, guard):
            announce(console, url, web)
            _wait(session, guard, web, progress, console)
            record, kept = _measured(made, session, folder, machine)
            report.write(folder, record, kept)
        session.reported()
    return out


@contextmanager
def opened(session: Session, served: Files, web: WebConfig, turn: server.Turn | None = None) -> Iterator[tuple[str, Guard]]:
    """The server, as long as the block runs: the address to open, and who was let in."""
    host = address.own(web.address) if web.lan else address.LOOPBACK
    sock = address.listen(host, web.port)
    port = sock.getsockname()[1]
    names = {f"{host}:{port}"} | (set() if web.lan else {f"localhost:{port}"})
    tls = web.tls()
    guard = Guard(frozenset(names), "https" if tls else "http", secrets.token_urlsafe(16) if web.lan else None)
    url = f"{guard.scheme}://{host}:{port}/" + (f"?t={guard.token}" if guard.token else "")
    with server.serving(Server(session, guard, served, site.content, turn), sock, tls):
        yield url, guard


def files(found: Exhibit, cut: Path) -> Files:
    """The measuring page with all that it needs, and the files that the export's manifest lists. Nothing else is served.

    cut: a folder for the UNet's plan.
    """
    pages = {name: path for name, path in site.files(bench=True) if name not in ("index.html", "sw.js")}
    if server.PAGE not in pages:
        raise EdgeSafeError(f"this edgesafe has no {server.PAGE} in its web app. Install the released package, or run scripts/web")
    folder, manifest = Path(found.source.place), found.source.manifest
    if manifest is None:
        raise EdgeSafeError(f"{folder}: no {artifact.MANIFEST}")
    pages |= {name: cut / name for name in plan.write(folder, manifest, cut)}
    return pages | {f"{site.MODEL}/{name}": folder / name for name in (*manifest.files, artifact.MANIFEST)}


def announce(console: Console, url: str, web: WebConfig) -> None:
    """Address and QR code, and what to do with them."""
    console.print(address.qr(url), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Open {url}", highlight=False, markup=False, soft_wrap=True)
    port = url.split(":")[2].split("/")[0]
    lines = ["It can be opened on this computer alone; --lan lets a phone in the same network open it."]
    if web.lan:
        lines = ["It works once, for one browser in this network.", *(line.format(port=port) for line in PLAIN if web.cert is None)]
    for line in (*lines, "Ctrl-C stops; what was done is kept, and the same command goes on."):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _session(made: Bench, web: WebConfig, root: Path, served: Files) -> Session:
    found, config, audit = made.exhibit, made.config, made.audit
    manifest = found.source.manifest
    if manifest is None or found.source.sha256 is None:
        raise EdgeSafeError(f"{found.source.place}: no manifest.json")
    target = manifest.target or {}
    if not {"width", "height"} <= set(target):
        raise EdgeSafeError(f"{found.source.place}: its manifest does not say how large its pictures are. Export the run again")
    asked = work.questions(work.orders(audit)) if audit else ()
    size = sum(facts["size"] for name, facts in manifest.files.items() if not name.startswith("vae_encoder/")) / MIB
    given = Work(
        found.source.name, found.source.sha256, target["width"], target["height"], round(size, 1), made.drawing, asked,
        threads=config.threads, backend=web.backend,
    )  # fmt: skip
    return Session(root, given, pages_sha256(served), web.name)


def pages_sha256(served: Files) -> str:
    """Of the page, the runtime and the plan that draw, which pictures and times depend on."""
    rows = [f"{name} {artifact.sha256(path)}" for name, path in sorted(served.items()) if name.startswith(("assets/", "ort/", "plan/"))]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _wait(session: Session, guard: Guard, web: WebConfig, progress: Progress, console: Console) -> None:
    """Until the browser is done. Raises: Stopped; EdgeSafeError after too long a silence."""
    task, begun, shown = progress.add_task("waiting for a browser", total=session.total), time.monotonic(), 0
    try:
        while not session.finished.wait(TICK_S):
            _show(session, progress, task)
            for fault in session.faults[shown:]:
                console.print(f"The browser says: {fault}", highlight=False, markup=False, soft_wrap=True)
            shown = len(session.faults)
            silent = time.monotonic() - max(begun, guard.heard)
            if web.timeout and silent > 60 * web.timeout:
                advice = "What it did is kept; run the command again" if session.device else "Open the address, or raise --timeout"
                raise EdgeSafeError(f"no browser was heard for {web.timeout:g} min (--timeout). {advice}")
    except KeyboardInterrupt:
        done = session.total - _n(session) if session.device else 0
        kept = f"{done} of {session.total} measurements are kept" if done else "Nothing was measured yet"
        raise Stopped(f"Stopped. {kept}; run the same command again to go on.") from None
    progress.update(task, completed=session.total, description=rows.label(session.device or {}, session.name))


def _show(session: Session, progress: Progress, task: TaskID) -> None:
    if session.device is None:
        return
    doing, share = session.doing
    words = f"{rows.label(session.device, session.name)}: {doing.replace('_', ' ')}" + (f" {share:.0%}" if share is not None else "")
    progress.update(task, completed=session.total - _n(session), description=words)


def _n(session: Session) -> int:
    left = session.left()
    return int(left["cold"]) + len(left["parts"]) + len(left["pictures"])


def _measured(made: Bench, session: Session, folder: Path, machine: Mapping[str, str]) -> tuple[dict[str, Any], list[Any]]:
    """The whole record, and the pictures of its grids."""
    found, name = made.exhibit, rows.label(session.device or {}, session.name)
    device, timed = rows.facts(session), rows.timed(session)
    for table, measured in made.speed().items():
        timed[table] = [*timed.get(table, []), *measured]  # the device first: `edgesafe compare` takes a report's first runtime
    parity: list[dict[str, Any]] = []
    if made.audit:
        audit = made.audit
        audit.exhibit = replace(found, runtime=name)
        own = (audit.gallery.root, audit.drawing, audit.threads)
        if audit.progress and audit.task is not None:
            audit.progress.update(audit.task, visible=True)
        audit.gallery = Received(*own, device=name, beside=HERE, pictures=session.pictures)
    record = {"sizes": found.sizes(), "versus": None, **timed, **made.audited(folder, machine)}
    if made.audit and HERE in made.runtimes:
        audit, total = made.audit, sum(len(order.cell.questions) for order in made.audit.orders.values())
        task = made.bars.add_task(f"the same pictures on {HERE}", total=total)
        row = attempt(lambda: rows.beside(audit, HERE, lambda n: made.bars.advance(task, n)), a=f"export, {name}", b=f"export, {HERE}")
        rates = row.pop("rates", None)
        device["beside"] = {"runtime": HERE, "rates": rates} if rates is not None else None
        parity.append(row)
    record |= {"parity": [*parity, *made.parity()], "device": device} | made.provenance(machine)
    return record, made.sittings
