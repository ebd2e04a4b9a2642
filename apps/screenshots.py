"""The README's picture of the web app, taken of a real site: three phone screens and one on a desktop.

    python -m edgesafe.apps.screenshots my-site docs/web.png        needs Chromium, and Playwright of edgesafe[dev]

The stickers are drawn by the site's own model while the pictures are taken.
"""

import argparse
import functools
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1120, "height": 740}
WORDS = ("red apple", "penguin", "fox mosaic style", "dog pencil sketch style", "balloon blueprint style", "panda")
GAP = 24  # px between the screens
DONE = '#stage[data-state="done"]'
PATIENCE_MS = 120_000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def screens(site: Path, browser: Any) -> Iterator[Image.Image]:
    with served(site) as url:
        phone = _opened(browser, url, PHONE, "light")
        for words in WORDS[:3]:
            _draw(phone, words)
        yield _shot(phone)
        phone.locator("#about").click()
        phone.wait_for_selector("#sheet[open]")
        yield _shot(phone)
        dark = _opened(browser, url, PHONE, "dark")
        dark.fill("#prompt", WORDS[3])
        dark.locator("#draw").click()
        dark.wait_for_function("() => document.querySelector('#bar')?.ariaValueNow > 40")
        yield _shot(dark)
        desktop = _opened(browser, url, DESKTOP, "light")
        for words in WORDS:
            _draw(desktop, words)
        yield _shot(desktop)


def _opened(browser: Any, url: str, size: dict[str, int], scheme: str) -> Any:
    page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1.5)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.wait_for_selector('#stage[data-state="empty"]')
    return page


def _draw(page: Any, words: str) -> None:
    page.fill("#prompt", words)
    page.keyboard.press("Enter")
    page.wait_for_selector('#stage[data-state="drawing"]')
    page.wait_for_selector(DONE)


def _shot(page: Any) -> Image.Image:
    page.wait_for_timeout(500)  # of moving parts
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="what `edgesafe bundle --app web` wrote")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if not (given.site / "index.html").is_file():
        parser.error(f"{given.site} is no site: no index.html. Write one: edgesafe bundle EXPORT --app web --out {given.site}")
    from playwright.sync_api import sync_playwright

    place = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=place, args=["--no-sandbox"])
        made = list(screens(given.site, browser))
        browser.close()
    sheet = Image.new("RGB", (sum(one.width for one in made) + GAP * (len(made) - 1), max(one.height for one in made)), "white")
    at = 0
    for one in made:
        sheet.paste(one, (at, 0))
        at += one.width + GAP
    sheet.quantize(256, dither=Image.Dither.NONE).save(given.out, optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
