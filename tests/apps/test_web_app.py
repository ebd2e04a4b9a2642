"""The sticker maker in a browser, with the real emoji student bundled by the command: as a person uses it, and what it says when it cannot.

The host sends no headers of isolation, as `python -m http.server` and GitHub Pages send none. Whatever a page complains of fails its test.
"""

import base64
import dataclasses
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgesafe import artifact
from edgesafe.commands.bundle import bundle

from ..benchmarks import audits
from ..conftest import CHROMIUM
from .conftest import WEB, Folders

pytestmark = pytest.mark.browser
POLICY = "recount = true\n[default]\nhighest_leak = 0.5\nleast_pictures = 40\nprobes = ['plain']\n"
READY = '#stage[data-state="empty"]'
DONE = '#stage[data-state="done"]'
DRAWING = '#stage[data-state="drawing"]'
FAULT = '#stage[data-state="fault"]'
SOON = 60_000  # ms; other tests may run beside this one


@pytest.fixture(scope="module")
def site(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student as if "neon" had been erased from it, with an audit written by hand, as `edgesafe bundle --app web` writes it."""
    folder = tmp_path_factory.mktemp("web")
    export = Path(shutil.copytree(student, folder / "runs" / "stickers"))
    artifact.seal(export, dataclasses.replace(artifact.read(export), concepts=(audits.NEON,)))
    audits.write(folder / "runs" / "stickers-audit", *audits.audit(export))
    (folder / "policy.toml").write_text(POLICY)
    arguments = [str(export), "--app", "web", "--out", str(folder / "site"), "--policy", str(folder / "policy.toml")]
    result = CliRunner().invoke(bundle, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_playwright() as playwright:
        place = next(filter(None, map(shutil.which, CHROMIUM)))
        opened = playwright.chromium.launch(executable_path=place, args=["--no-sandbox", *quiet])
        yield opened
        opened.close()


@pytest.fixture
def host(site: Path, serve: Callable[[dict[str, Path]], Folders]) -> Folders:
    served = serve({"": site})
    served.isolated = False
    return served


@pytest.fixture
def visit(browser: Any, host: Folders) -> Iterator[Callable[..., Any]]:
    """`visit(width=360)`: a new visitor on the page; `until` is what the visit waits for."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def go(width: int = 1200, until: str = READY, script: str = "", **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 850}, **options))
        contexts[-1].on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        contexts[-1].on("weberror", lambda error: complaints.append(str(error.error)))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(SOON)
        if script:
            tab.add_init_script(script)
        elsewhere = (host.url, "blob:", "data:")
        tab.on("request", lambda request: None if request.url.startswith(elsewhere) else complaints.append(f"asked for {request.url}"))
        tab.goto(host.url)
        wait(tab, until)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert not complaints


def wait(tab: Any, selector: str) -> None:
    from playwright.sync_api import TimeoutError

    try:
        tab.wait_for_selector(selector)
    except TimeoutError:
        pytest.fail(f"{selector} did not come; the board says: {tab.locator('#stage').inner_text()}")


def draw(tab: Any, words: str, seed: int | None = None, steps: int = 25) -> None:
    """Types the words and presses Enter, and waits for the sticker."""
    if seed is not None or steps != 25:
        tab.locator("#more").evaluate("more => more.open = true")
        tab.locator("#steps").evaluate("(range, steps) => { range.value = steps; range.dispatchEvent(new Event('input')) }", steps)
        if seed is not None:
            tab.locator("#seed").fill(str(seed))
    tab.get_by_label("What should the sticker show?").fill(words)
    tab.keyboard.press("Enter")
    wait(tab, DRAWING)
    wait(tab, DONE)


def picture(tab: Any) -> np.ndarray:
    """(H, W, 3) of what lies on the board."""
    url = tab.locator("#picture").evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def judged(pixels: np.ndarray) -> tuple[str, str]:
    """(subject, style) as the judge names them."""
    import torch

    from edgesafe.emoji import judge

    network = judge.load()
    scores = network.score(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)
    return ([*network.classes.subjects, "none"][int(scores.subject[0])], network.classes.styles[int(scores.style[0])])


def test_words_become_the_sticker_that_python_draws_and_the_judge_names(visit: Callable[..., Any], site: Path) -> None:
    from edgesafe.benchmarks import runtimes

    heard = """new MutationObserver(() => (window.heard ??= new Set()).add(document.getElementById("meter")?.innerText ?? ""))
        .observe(document, { subtree: true, childList: true, characterData: true })"""
    tab = visit(script=heard)
    assert tab.evaluate("crossOriginIsolated"), "threads on a host that sends no headers"
    assert re.search(r"64 × 64 pixels · drawn by the processor, \d+ threads? \(WebAssembly\)", tab.locator("#device").text_content())
    assert any(re.search(r"Fetching the model\s+[\d.]+ of \d+ MiB", line) for line in tab.evaluate("[...heard]"))
    draw(tab, "strawberry", seed=3)
    assert any(re.search(r"Step \d+ of 25", line) for line in tab.evaluate("[...heard]"))
    assert judged(picture(tab)) == ("strawberry", "emoji")
    drawn = runtimes.load(site / "model", threads=1).generate(["strawberry"], [3])[0]
    assert np.abs(drawn.astype(int) - picture(tab).astype(int)).max() <= 1


def test_without_a_network_it_opens_again_and_draws(visit: Callable[..., Any], host: Folders) -> None:
    tab = visit()
    draw(tab, "fox", seed=1, steps=5)
    first = picture(tab)
    tab.get_by_text("Works offline now").wait_for()
    host.server.shutdown()
    host.server.server_close()
    tab.reload()
    wait(tab, READY)
    assert tab.evaluate("crossOriginIsolated") and tab.locator(".tile").count() == 1
    draw(tab, "fox", seed=1, steps=5)
    assert (picture(tab) == first).all()
    tab.get_by_role("button", name="What was erased").click()
    assert "“neon” leaks at most" in tab.locator("#sheet blockquote").first.inner_text()


def test_a_damaged_file_is_refused_by_name_until_it_is_right(visit: Callable[..., Any], host: Folders, site: Path) -> None:
    name = "model/unet/model.onnx"
    data = bytearray((site / name).read_bytes())
    data[len(data) // 2] ^= 1
    host.replaced[name] = bytes(data)
    tab = visit(until=FAULT)
    said = tab.get_by_role("alert").inner_text()
    assert "A file of the model is damaged" in said and "unet/model.onnx is damaged or was changed" in said
    assert tab.locator("#draw").is_disabled() and "Works offline" not in tab.locator("#offline").inner_text()
    del host.replaced[name]
    tab.get_by_role("button", name="Try again").click()
    wait(tab, READY)
    draw(tab, "fox", steps=5)


def test_escape_stops_a_sticker_and_the_next_one_is_drawn(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.locator("#steps").evaluate("range => range.value = 50")
    tab.locator("#prompt").fill("panda")
    tab.keyboard.press("Enter")
    wait(tab, "#stage.begun")
    assert tab.locator("#picture").is_visible(), "what is drawn so far"
    tab.keyboard.press("Escape")
    wait(tab, READY)
    assert tab.locator("#toast").inner_text() == "Stopped" and tab.locator(".tile").count() == 0
    tab.keyboard.press("Enter")
    wait(tab, DRAWING)
    tab.get_by_role("button", name="Stop").click()
    wait(tab, READY)
    draw(tab, "panda", steps=5)
    assert tab.locator(".tile").count() == 1


def test_the_gallery_keeps_opens_downloads_and_deletes(visit: Callable[..., Any], tmp_path: Path) -> None:
    tab = visit()
    draw(tab, "Red apple: “süß”!", seed=7, steps=5)
    draw(tab, "balloon", seed=8, steps=5)
    with tab.expect_download() as large:
        tab.get_by_role("button", name="Download at 512 px").click()
    assert large.value.suggested_filename == "balloon-seed-8-512px.png"
    large.value.save_as(tmp_path / "large.png")
    assert np.asarray(Image.open(tmp_path / "large.png")).shape[:2] == (512, 512)
    shown = picture(tab)

    tab.reload()
    wait(tab, READY)
    assert tab.locator("#count").inner_text() == "2"
    assert tab.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.title)") == ["balloon", "Red apple: “süß”!"]
    tab.locator(".tile").first.click()
    assert "seed 8 · 5 steps · guidance 4 · ddim" in tab.locator("#viewer").inner_text()
    with tab.expect_download() as plain:
        tab.locator("#viewer").get_by_role("button", name="Download", exact=True).click()
    plain.value.save_as(tmp_path / "plain.png")
    assert (np.asarray(Image.open(tmp_path / "plain.png").convert("RGB")) == shown).all()
    tab.keyboard.press("ArrowRight")
    with tab.expect_download() as other:
        tab.locator("#viewer").get_by_role("button", name="Download", exact=True).click()
    assert other.value.suggested_filename == "red-apple-süß-seed-7.png"

    tab.locator("#viewer").get_by_role("button", name="Delete").click()
    assert tab.locator(".tile").count() == 1
    tab.get_by_role("button", name="Undo").click()
    assert tab.locator(".tile").count() == 2
    tab.locator(".tile").last.press("Delete")
    tab.get_by_text("Deleted").wait_for()
    tab.reload()
    wait(tab, READY)
    assert tab.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.title)") == ["balloon"]
    tab.locator(".tile").click()
    tab.get_by_role("button", name="Draw again").click()
    wait(tab, DONE)
    assert (picture(tab) == shown).all(), "the same words and seed give the same sticker"


def test_the_keyboard_is_enough(visit: Callable[..., Any]) -> None:
    tab = visit()
    focused = "document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            tab.keyboard.press("Tab")
            if wanted == tab.evaluate(focused):
                outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{wanted}: the focus is not seen"
                return
        raise AssertionError(f"{wanted}: no Tab leads there")

    tab_to("Skip to the prompt")
    tab.keyboard.press("Enter")
    assert tab.evaluate(focused) == "prompt"
    tab_to("More settings")
    tab.keyboard.press("Enter")
    tab_to("steps")
    for _ in range(20):
        tab.keyboard.press("ArrowLeft")
    assert tab.locator("#steps-value").inner_text() == "5"
    tab.keyboard.press("Shift+Tab")
    tab.locator("#prompt").focus()
    tab.keyboard.type("crown")
    tab.keyboard.press("Enter")
    wait(tab, DONE)
    assert re.search(r"Done in [\d.]+ s: crown", tab.locator("#said").text_content())
    assert tab.evaluate(focused) == "prompt", "the focus stays where it was"
    tab_to("crown: open")
    tab.keyboard.press("Enter")
    assert tab.locator("#viewer").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#viewer").is_visible() and tab.evaluate(focused) == "crown: open"
    tab_to("card")
    tab.keyboard.press("Enter")
    assert tab.locator("#sheet .card").evaluate("card => card.open")
    tab.keyboard.press("Escape")
    assert not tab.locator("#sheet").is_visible()


def test_what_was_erased_is_a_tap_away(visit: Callable[..., Any], host: Folders, site: Path) -> None:
    tab = visit(until=".chip")
    tab.locator("#prompt").fill("a NEON fox")
    assert tab.locator("#hint").inner_text() == "“neon” was erased from this model. It draws what else you ask for."
    ideas = tab.locator(".chip").all_inner_texts()
    assert len(ideas) == 6 and not any("neon" in idea for idea in ideas)
    tab.get_by_role("button", name="What was erased").click()
    sheet, audit = tab.locator("#sheet"), json.loads((site / "model" / "audit.json").read_text())
    said = sheet.inner_text()
    (verdict,) = audit["verdicts"]
    assert verdict["sentence"] in said and all(caution in said for caution in verdict["cautions"])
    assert all(limit in said for limit in audit["limits"])
    most = f"{math.ceil(round(1000 * verdict['by_attacker']['prompts'], 6)) / 10:.1f} %"  # never rounded down
    assert re.search(rf"By typing\s+at most {most}", said) and re.search(r"By working on the files\s+not measured", said)
    decision = json.loads((site / "model" / "bundle.json").read_text())["decision"]
    kept = sum(rule["passed"] is True for rule in decision["rules"])
    assert f"Passed {kept} of {kept} limits of" in said and "this page checked each of them" in said
    sheet.get_by_text("Every limit").click()
    assert sheet.get_by_role("group", name="limits of the gate").locator("tbody tr").count() == len(decision["rules"])
    sheet.get_by_text("Model card", exact=True).click()
    card = (site / "model" / "README.md").read_text()
    headings = re.findall(r"^## (.*)", card, re.MULTILINE)
    assert sheet.locator(".prose h4").all_inner_texts() == headings
    assert sheet.locator(".prose pre").first.inner_text().strip() == 'edgesafe generate . "red apple" -o apple.png'
    assert "|" not in sheet.locator(".prose").inner_text() and "**" not in sheet.locator(".prose").inner_text()

    hostile = card.replace("## Intended use", "## Intended use\n\n<img src=x onerror=alert(1)> [x](javascript:alert(1)) **bold**\n")
    host.replaced["model/README.md"] = hostile.encode()
    tab.reload()
    tab.get_by_role("button", name="Model card").click()
    assert tab.locator(".prose img, .prose a[href^=javascript], .prose script").count() == 0
    assert "<img src=x onerror=alert(1)>" in tab.locator(".prose").inner_text()
    assert tab.locator("#sheet [role=alert]").inner_text() == "The model card was changed after it was written."


def test_it_fits_a_phone_and_everybody_in_light_and_dark(visit: Callable[..., Any]) -> None:
    axe = WEB / "node_modules" / "axe-core" / "axe.min.js"
    assert axe.is_file(), "axe-core is not installed: run npm ci in apps/web"
    tab = visit(width=360, has_touch=True, bypass_csp=True, reduced_motion="reduce")
    tab.add_script_tag(content=axe.read_text())
    seen = []

    def look(state: str) -> None:
        assert tab.evaluate("document.documentElement.scrollWidth") == 360, state
        small = """() => [...document.querySelectorAll("button, input, select, summary, a[href]")]
            .filter(one => one.checkVisibility() && !one.closest(".skip, .prose"))
            .map(one => one.closest("label") ?? one)
            .filter(one => Math.min(one.getBoundingClientRect().height, one.getBoundingClientRect().width) < 43.5)
            .map(one => one.outerHTML)"""
        assert tab.evaluate(small) == [], state
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            for row in tab.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]:
                seen.extend(f"{state}, {scheme}: {row['id']}: {node['html']}: {node['failureSummary']}" for node in row["nodes"])
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 200) is (scheme == "dark")

    tab.locator("#more summary").tap()
    look("empty")
    draw(tab, "a very long prompt about a rather small strawberry on a table " * 2, steps=5)
    look("done")
    tab.locator(".tile").tap()
    look("viewer")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Model card").tap()
    assert tab.locator("#sheet").evaluate("sheet => sheet.scrollWidth - sheet.clientWidth") == 0
    look("sheet")
    assert not seen, "\n".join(seen)


FAULTS = [
    ("WebAssembly.validate = () => false;", "This browser cannot run the model", "has no WebAssembly SIMD"),
    (
        "WebAssembly.Memory = function () { throw new RangeError('WebAssembly.Memory(): could not allocate memory') };",
        "This device is short of memory",
        "memory",
    ),
]


@pytest.mark.parametrize(("poor", "title", "reason"), FAULTS, ids=["no SIMD", "no memory"])
def test_a_poor_browser_is_told_so(poor: str, title: str, reason: str, visit: Callable[..., Any], host: Folders, site: Path) -> None:
    (worker,) = (site / "assets").glob("worker-*.js")
    host.replaced[f"assets/{worker.name}"] = poor.encode() + worker.read_bytes()
    tab = visit(until=FAULT)
    said = tab.get_by_role("alert").inner_text()
    assert title in said and reason in said and tab.get_by_role("button", name="Try again").is_visible()


def test_a_file_name_that_leaves_the_folder_is_refused(visit: Callable[..., Any], host: Folders, site: Path) -> None:
    text = (site / "model" / "manifest.json").read_text().replace('"model_index.json"', '"../../index.json"')
    host.replaced["model/manifest.json"] = text.encode()
    said = visit(until=FAULT).get_by_role("alert").inner_text()
    assert "This model cannot be read" in said and '"../../index.json" leads out of the folder' in said
    assert not any("index.json" in path for path in host.asked if not path.startswith("model/"))


HURRIED = """for (const name of ["setInterval", "setTimeout"]) {
    const real = self[name];
    self[name] = (run, ms, ...rest) => real(run, ms / 100, ...rest);
}"""


def test_a_load_that_comes_no_further_says_so(visit: Callable[..., Any], host: Folders) -> None:
    host.hung.add("ort/ort-wasm-simd-threaded.wasm")
    tab = visit(until="#stuck", script=HURRIED)
    tab.locator("#stuck").get_by_text("Nothing has moved for a while").wait_for()  # a busy machine may have moved since
    tab.locator("#stuck").get_by_role("button", name="Reload").wait_for()
    host.freed.set()
    wait(tab, READY)
    tab.locator("#stuck").wait_for(state="hidden")
    draw(tab, "fox", steps=5)


def test_a_network_that_answers_nothing_keeps_nobody_waiting(visit: Callable[..., Any], host: Folders, site: Path) -> None:
    worker = (site / "sw.js").read_bytes()
    assert worker.count(b"4e3") == 1, "its patience"
    host.replaced["sw.js"] = worker.replace(b"4e3", b"300")
    host.hung.add("sw.js")
    tab = visit(script=HURRIED)
    assert "Works offline" not in tab.locator("#offline").inner_text()
    host.freed.set()
    tab.reload()
    tab.get_by_text("Works offline now").wait_for()
    host.freed.clear()
    host.hung.add("")
    tab.reload()
    wait(tab, READY)
    tab.get_by_role("button", name="What was erased").click()
    assert "“neon” leaks at most" in tab.locator("#sheet blockquote").first.inner_text()


def test_a_new_version_takes_over_when_it_is_asked(visit: Callable[..., Any], host: Folders, site: Path) -> None:
    tab = visit()
    version = re.search(rb'"[0-9a-f]{16}"|`[0-9a-f]{16}`', (site / "sw.js").read_bytes())
    assert version is not None
    host.replaced["sw.js"] = (site / "sw.js").read_bytes().replace(version[0], b'"0123456789abcdef"')
    host.replaced["index.html"] = (site / "index.html").read_text().replace("What should the sticker show?", "What shall it be?").encode()
    tab.reload()
    tab.get_by_text("A new version is here.").wait_for()
    assert tab.get_by_label("What should the sticker show?").is_visible(), "the old one goes on until then"
    tab.get_by_role("button", name="Reload").click()
    tab.get_by_label("What shall it be?").wait_for()
    wait(tab, READY)
    shells = [name for name in tab.evaluate("caches.keys()") if name.startswith("edgesafe-shell")]
    assert len(shells) == 1 and shells[0].endswith("0123456789abcdef")
