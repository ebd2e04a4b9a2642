"""How many times as long as in native onnxruntime does a UNet call take in a browser? Both in turn, block by block, in one run.

    python -m edgesafe.benchmarks.browser.speed runs/a-onnx-fp32 [--threads 2] [--blocks 12] [--native optimum] [--out ratio.json]

A block is five calls with the batch that guidance asks for. The browser (headless, WASM) measures its block and posts it; while it waits
for the answer, this computer measures its own. The ratio of a pair of blocks is that of their medians, so whatever slows the machine
down slows down both.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from edgesafe import sampling
from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.spread import paired, quartiles

from .. import exhibit
from ..gallery import Drawing
from ..peers import PEERS
from ..turns import Player
from . import work
from .run import HERE, WebConfig, files, opened
from .session import Session
from .work import PARTS, Work

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CALLS = 5  # of a block
PART, GOAL = "unet_call", 2.0
HUNG_S = 600.0


def measure(export: Path, threads: int, blocks: int, browser: str | None, native: str, console: Console) -> dict[str, Any]:
    found = exhibit.find(exhibit.choose("speed", export, Path("runs"), console), None, (HERE,))
    work.check(found)
    target, sha256 = (found.source.manifest.target or {}) if found.source.manifest else {}, str(found.source.sha256)
    drawing = Drawing(sampling.DEFAULT_STEPS, sampling.DEFAULT_GUIDANCE, sampling.DEFAULT_SAMPLER)
    size = (target["width"], target["height"])
    given = Work(found.source.name, sha256, *size, 0.0, drawing, (), PARTS, threads, "wasm", turns=blocks)
    pairs: list[tuple[list[float], list[float]]] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder, Player(found.source.place, native, threads) as player:

        async def turn(n: int, record: Mapping[str, Any]) -> None:
            ours = await asyncio.to_thread(lambda: [player.play(PART) for _ in range(CALLS)])
            if n:  # the first block of each warms up
                pairs.append((record["samples_ms"], ours))
                console.print(f"{n} of {blocks}: {native} {_ms(ours)}, browser {_ms(record['samples_ms'])}", highlight=False)
            if n == blocks:
                ended.set()

        session = Session(Path(folder) / "kept", given, "")
        served, web = files(found, Path(folder)), WebConfig(backend="wasm")
        with opened(session, served, web, turn) as (url, _), _headless(browser, f"{url}#start", Path(folder)):
            if not ended.wait(HUNG_S):
                faults = "; ".join(session.faults) or "it said nothing"
                raise EdgeSafeError(f"the browser did not finish within {HUNG_S:.0f} s: {faults}")
        told = (session.device or {})["threads"]
    medians = [[statistics.median(side) for side in column] for column in zip(*pairs, strict=True)]
    there, here = (sorted(x for block in column for x in block) for column in zip(*pairs, strict=True))
    facts = {"export": found.source.name, "threads": threads, "browser_threads": told, "blocks": blocks, "calls": len(there)}
    return facts | {"browser": _quartiles(there), native: _quartiles(here), "times_as_long": paired(*medians)}


@contextmanager
def _headless(browser: str | None, url: str, folder: Path) -> Iterator[None]:
    command = shutil.which(browser) if browser else next(filter(None, map(shutil.which, BROWSERS)), None)
    if command is None:
        raise EdgeSafeError(f"no browser: {browser or ', '.join(BROWSERS)} is not on the PATH. Install one, or name it with --browser")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen([command, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _quartiles(samples: list[float]) -> dict[str, float]:
    return dict(zip(("q1_ms", "median_ms", "q3_ms"), (round(ms, 3) for ms in quartiles(samples)), strict=True))


def _ms(samples: list[float]) -> str:
    return f"{statistics.median(samples):.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--browser", help="a Chromium's name or path")
    parser.add_argument("--native", default=HERE, choices=(HERE, *PEERS), help="optimum: onnxruntime's sessions as they are")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    given = parser.parse_args()
    try:
        found = measure(given.export, given.threads, given.blocks, given.browser, given.native, Console(stderr=True))
    except EdgeSafeError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    ratio, interval = found["times_as_long"], found["times_as_long"]["interval95"]
    around = f", 95 % [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    threads, verdict = found["browser_threads"], "holds" if ratio["median"] <= GOAL else "is missed"
    print(f"UNet call, WASM with {threads} threads: {ratio['median']:.2f} times {given.native} with {found['threads']}{around}")
    print(f"{found['blocks']} blocks of {CALLS} calls in turn; the goal, at most {GOAL:g} times, {verdict}")
    if ratio["warning"]:
        print(ratio["warning"])
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
