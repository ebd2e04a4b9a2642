"""The whole way: the command, a real Chromium, the emoji export, a reload in the middle, and the report."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgesafe import artifact

from .test_run import started

STEPS = 6
PARTS = ("picture", "unet_call", "text_encoder", "vae_decoder")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
NARROW = {"width": 360, "height": 740}
MEMORY_AT_ONCE = "--enable-blink-features=ForceEagerMeasureMemory"  # else it waits for the next garbage collection, up to 20 s


@pytest.fixture(scope="module")
def erased(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export from which "neon" was erased, by its manifest alone. Do not write to it."""
    from edgesafe.concepts import parse
    from edgesafe.emoji.world import World

    folder = Path(shutil.copytree(student, tmp_path_factory.mktemp("erased") / "onnx"))
    concepts = tuple(concept.to_dict() for concept in parse("neon", World()))
    artifact.seal(folder, dataclasses.replace(artifact.read(folder), concepts=concepts, control="emoji:student"))
    return folder


@pytest.fixture(scope="module")
def measured(erased: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page did and showed, and the folder of the report."""
    from playwright.sync_api import sync_playwright

    out = tmp_path_factory.mktemp("web") / "report"
    process, port = started(erased, out, "--steps", str(STEPS), "--name", "test <b>phone</b>", "--backend", "wasm")
    posts: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        command = next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox", "--disable-dev-shm-usage", MEMORY_AT_ONCE])
        page = browser.new_page(viewport=NARROW)
        page.set_default_timeout(200_000)
        page.on("request", lambda request: posts.append(request.url.partition("/api/")[2]) if request.method == "POST" else None)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.click("#start")
        with page.expect_response("**/api/picture/*"):
            pass
        width = page.evaluate("document.documentElement.scrollWidth")
        shown = page.inner_text("#steps")
        page.reload()
        page.wait_for_selector("#done:visible, #fault:visible")
        ended = page.inner_text("main")
        isolated = page.evaluate("crossOriginIsolated")
        browser.close()
    output, errors = process.communicate(timeout=250)
    facts = {"posts": posts, "said": said, "width": width, "shown": shown, "ended": ended, "isolated": isolated}
    yield {"out": out, "code": process.returncode, "output": output, "errors": errors, **facts}


pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_the_page_goes_on_after_a_reload_and_says_when_it_is_done(measured: dict[str, Any]) -> None:
    posts = [post for post in measured["posts"] if post not in ("progress", "hello")]
    assert "Done. Thank you!" in measured["ended"]
    assert [post for post in posts if not post.startswith("picture/")] == ["cold", *(f"latency/{part}" for part in PARTS)]
    pictures = [post for post in posts if post.startswith("picture/")]
    assert len(set(pictures)) == 6 and len(pictures) <= 7, "one that was under way at the reload may be drawn again"
    assert measured["posts"].count("hello") == 2


def test_the_page_fits_a_phone_and_nothing_went_wrong_in_it(measured: dict[str, Any]) -> None:
    assert measured["width"] == NARROW["width"]
    assert measured["isolated"] is True
    assert measured["said"] == []
    assert "One UNet call" in measured["shown"] and " ms" in measured["shown"]


def test_the_report_has_the_device_beside_onnxruntime(measured: dict[str, Any]) -> None:
    assert measured["code"] == 0, measured["errors"]
    assert "leaks at most" in measured["output"] and measured["output"].strip().endswith("report/report.html")
    record = json.loads((measured["out"] / "report.json").read_text())
    name = record["device"]["name"]
    assert name.startswith("test <b>phone</b>, Chrome ") and name.endswith("WASM with 1 thread")
    assert [(row["runtime"], row["part"], row["status"]) for row in record["latency"][:4]] == [(name, part, "measured") for part in PARTS]
    assert {row["runtime"] for row in record["latency"]} == {name, "onnxruntime"}
    assert [row["runtime"] for row in record["cold_starts"]] == [name, "onnxruntime"]
    assert record["audit"]["runtime"] == name
    assert {cell["drawn_by"] for cell in record["audit"]["cells"]} == {name}
    html = (measured["out"] / "report.html").read_text()
    assert "test &lt;b&gt;phone&lt;/b&gt;" in html and "<b>phone</b>" not in html


def test_its_pictures_and_its_leakage_are_natives(measured: dict[str, Any]) -> None:
    record = json.loads((measured["out"] / "report.json").read_text())
    (parity,) = record["parity"]
    assert parity["b"] == "export, onnxruntime" and parity["pictures"] == 6
    assert parity["largest_difference_levels"] <= 1.001, "of 255"
    rates = record["device"]["beside"]["rates"]
    assert {row["cell"] for row in rates} == {"erased neon", "neighbours of neon", "rest"}
    for row in rates:
        assert row["seen_alike"] == row["device"]["denominator"] == 2
        assert row["device"] == row["desktop"]


def test_its_pictures_are_those_of_the_same_prompts_and_seeds_in_python(measured: dict[str, Any], erased: Path) -> None:
    """Each by itself, as the browser draws them."""
    from edgesafe.benchmarks import runtimes
    from edgesafe.benchmarks.browser.work import key
    from edgesafe.benchmarks.leakage import Question

    record = json.loads((measured["out"] / "audit.json").read_text())
    rows = [json.loads(line) for line in (measured["out"] / record["pictures"]).read_text().splitlines()]
    asked = {(row["prompt"], row["seed"]) for row in rows if row["model"] == "export"}
    native = runtimes.load(erased, "onnxruntime", 1)
    for prompt, seed in sorted(asked):
        (path,) = (measured["out"].parent / ".cache" / "browser").rglob(f"{key(Question(prompt, seed))}.png")
        theirs = np.asarray(Image.open(path).convert("RGB")).astype(int)
        ours = native.generate([prompt], [seed], steps=STEPS)[0].astype(int)
        assert np.abs(theirs - ours).max() <= 1, prompt


def test_the_gate_and_compare_read_it(measured: dict[str, Any], erased: Path) -> None:
    from edgesafe.benchmarks import evidence
    from edgesafe.benchmarks.compare import CompareConfig, run

    path = measured["out"] / "report.json"
    assert run(CompareConfig((path, path))).rows
    assert evidence.find(erased, artifact.sha256(erased / "manifest.json"), measured["out"] / "audit.json")
    assert evidence.read(measured["out"] / "audit.json")["runtime"] == json.loads(path.read_text())["device"]["name"]


def test_another_run_takes_new_times_and_keeps_the_pictures(measured: dict[str, Any]) -> None:
    (device,) = (measured["out"].parent / ".cache" / "browser").iterdir()
    assert not (device / "times.json").exists()
    assert len(list((device / "pictures").glob("*.png"))) == 6
