"""How many times as long as in native onnxruntime does a UNet call take in a browser? All in turn, block by block, in one run.

    python -m edgesafe.benchmarks.browser.speed runs/a-onnx-fp32 [--threads 2] [--blocks 12] [--out ratio.json]

Beside the browser (headless, WASM) stand `optimum`, onnxruntime's own sessions on the exported files, and `onnxruntime`, what `edgesafe
bench` measures on this computer. A block is five calls with the batch that guidance asks for. The browser measures its block and posts it;
while it waits for the answer, this computer measures its own. The ratio of a pair of blocks is that of their medians, so whatever slows
the machine down slows down all. The first blocks are left out: a browser compiles what is called often a second time, for speed.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.spread import paired, quartiles

from .. import exhibit
from ..gallery import Drawing
from ..turns import Player
from . import work
from .run import HERE, WebConfig, files, opened
from .session import Session
from .work import PARTS, Work

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CALLS = 5  # of a block
WARM = 8  # blocks that are left out
REST_S = 0.05  # between blocks: onnxruntime's threads look out for more work for a while
NATIVES = ("optimum", HERE)
PART, GOAL = "unet_call", 2.0
HUNG_S = 600.0


def measure(export: Path, threads: int, blocks: int, browser: str | None, console: Console) -> dict[str, Any]:
    found = exhibit.find(exhibit.choose("speed", export, Path("runs"), console), None, (HERE,))
    work.check(found)
    target, sha256 = (found.source.manifest.target or {}) if found.source.manifest else {}, str(found.source.sha256)
    drawing = Drawing(sampling.DEFAULT_STEPS, sampling.DEFAULT_GUIDANCE, sampling.DEFAULT_SAMPLER)
    size, last = (target["width"], target["height"]), WARM + blocks - 1
    given = Work(found.source.name, sha256, *size, 0.0, drawing, (), PARTS, threads, "wasm", turns=last)
    times: dict[str, list[list[float]]] = {name: [] for name in ("browser", *NATIVES)}
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        players = {name: stack.enter_context(Player(found.source.place, name, threads)) for name in NATIVES}

        async def turn(n: int, record: Mapping[str, Any]) -> None:
            blocks = {"browser": record["samples_ms"]}
            for name, player in players.items():
                await asyncio.sleep(REST_S)
                blocks[name] = await asyncio.to_thread(lambda player=player: [player.play(PART) for _ in range(CALLS)])
            await asyncio.sleep(REST_S)
            if n >= WARM:
                for name, block in blocks.items():
                    times[name].append(block)
            words = ", ".join(f"{name} {statistics.median(block):.1f} ms" for name, block in blocks.items())
            console.print(f"{n} of {last}: {words}{' (warming up)' if n < WARM else ''}", highlight=False)
            if n == last:
                ended.set()

        session = Session(Path(folder) / "kept", given, "")
        served, web = files(found, Path(folder)), WebConfig(backend="wasm")
        with opened(session, served, web, turn) as (url, _), _headless(browser, f"{url}#start", Path(folder)):
            if not ended.wait(HUNG_S):
                faults = "; ".join(session.faults) or "it said nothing"
                raise EdgeSafeError(f"the browser did not finish within {HUNG_S:.0f} s: {faults}")
        told = (session.device or {})["threads"]
    medians = {name: [statistics.median(block) for block in kept] for name, kept in times.items()}
    facts = {"export": found.source.name, "threads": threads, "browser_threads": told, "blocks": blocks, "calls": CALLS * blocks}
    facts |= {name: _quartiles([ms for block in kept for ms in block]) for name, kept in times.items()}
    return facts | {"times_as_long": {name: paired(medians["browser"], medians[name]) for name in NATIVES}}


@contextlib.contextmanager
def _headless(browser: str | None, url: str, folder: Path) -> Iterator[None]:
    command = shutil.which(browser) if browser else next(filter(None, map(shutil.which, BROWSERS)), None)
    if command is None:
        raise EdgeSafeError(f"no browser: {browser or ', '.join(BROWSERS)} is not on the PATH. Install one, or name it with --browser")
    quiet = [f"--disable-{what}" for what in ("background-networking", "component-update", "default-apps", "extensions", "sync")]
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet, f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen([command, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _quartiles(samples: list[float]) -> dict[str, float]:
    return dict(zip(("q1_ms", "median_ms", "q3_ms"), (round(ms, 3) for ms in quartiles(samples)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--browser", help="a Chromium's name or path")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    given = parser.parse_args()
    try:
        found = measure(given.export, given.threads, given.blocks, given.browser, Console(stderr=True))
    except EdgeSafeError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    shown = f"{found['browser']['median_ms']:.1f} ms"
    print(f"UNet call, WASM with {found['browser_threads']} threads: {shown}, {found['blocks']} blocks of {CALLS} calls in turn with")
    for name, ratio in found["times_as_long"].items():
        ends = f", 95 % [{ratio['interval95'][0]:.2f}, {ratio['interval95'][1]:.2f}]" if ratio["interval95"] else ""
        verdict = "holds" if ratio["median"] <= GOAL else "is missed"
        own = f"{name} with {found['threads']}, {found[name]['median_ms']:.1f} ms"
        print(f"  {own}: {ratio['median']:.2f} times{ends}; at most {GOAL:g} {verdict}")
        if ratio["warning"]:
            print(f"    {ratio['warning']}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
