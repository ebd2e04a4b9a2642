"""The web app's engine: its own tests under Node, and the pictures it draws in a browser against those that Python draws."""

import base64
import hashlib
import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesafe.apps import fixtures

from .conftest import WEB, Folders

ORT = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.asyncify.wasm")
# vite/seal.ts has the same list
SOURCES = ("vite", "src", "public", "bench.html", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' dpm++ and numpy 2
SETTINGS = {"steps": 25, "guidance": 4.0, "sampler": "ddim"}


def test_typescript_tests_pass(npm: Callable[..., str]) -> None:
    assert "passed" in npm("test")


def test_typescript_has_no_type_errors(npm: Callable[..., str]) -> None:
    npm("check")


def test_the_built_site_is_current() -> None:
    """Without Node."""
    files = [path for name in SOURCES for path in ([WEB / name] if (WEB / name).is_file() else sorted((WEB / name).rglob("*")))]
    names = sorted(path.relative_to(WEB).as_posix() for path in files if path.is_file() and not path.name.endswith(".test.ts"))
    lines = "".join(f"{hashlib.sha256((WEB / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    built = json.loads((WEB / "site" / "build.json").read_text())
    assert built["sources"] == hashlib.sha256(lines.encode()).hexdigest(), "apps/web/site is older than its sources: run scripts/web"
    pinned = json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    assert built["onnxruntime-web"] == pinned


def test_two_builds_are_equal_byte_by_byte(npm: Callable[..., str], tmp_path: Path) -> None:
    npm("build", "--", "--outDir", str(tmp_path / "site"))
    ours, made = _read(WEB / "site"), _read(tmp_path / "site")
    assert ours.keys() == made.keys()
    assert [name for name in ours if ours[name] != made[name]] == []


def _read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_packed_wasm_is_what_npm_gives(npm: Callable[..., str]) -> None:
    for name in ORT:
        packed = lzma.decompress((WEB / "ort" / f"{name}.xz").read_bytes())
        assert hashlib.sha256(packed).digest() == hashlib.sha256((WEB / "node_modules/onnxruntime-web/dist" / name).read_bytes()).digest()


@pytest.fixture(scope="module")
def harness(npm: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built page that holds nothing but the engine."""
    folder = tmp_path_factory.mktemp("harness")
    npm("build", "--", "--config", "tests/harness/vite.config.ts", "--outDir", str(folder))
    for name in ORT:
        (folder / "ort" / name).write_bytes(lzma.decompress((WEB / "ort" / f"{name}.xz").read_bytes()))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Page:
    """The harness in a browser profile of its own. Anything on its console fails the test, but for the 404s that a test asks for."""

    def __init__(self, browser: Any, site: Any) -> None:
        self.context = browser.new_context()
        self.page, self.said = self.context.new_page(), list[str]()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.site = site
        self.open()

    def open(self) -> None:
        self.page.goto(self.site.url + "index.html")
        self.page.wait_for_function("!!window.Model")

    def load(self, model: str = "model/", **options: Any) -> dict[str, Any]:
        """Model.info without its manifest; or {"fault", "message"}."""
        return self.page.evaluate(LOAD, {"base": self.site.url + model, "device": "wasm", "threads": 2, **options})

    def fetch(self) -> dict[str, Any]:
        """As `load`, but no further than to files that are there and right, which is "stopped"."""
        return self.page.evaluate(FETCH, {"base": self.site.url + "model/", "device": "wasm", "threads": 2})

    def draw(self, **request: Any) -> dict[str, Any]:
        made = self.page.evaluate(DRAW, {"preview": False, **SETTINGS, **request})
        if "rgba" in made:
            size = made["height"], made["width"], 4
            made["pixels"] = np.frombuffer(base64.b64decode(made.pop("rgba")), np.uint8).reshape(size)
        return made


CAUGHT = "catch (error) { return { fault: error.fault, message: error.message }; }"
LOAD = f"""async (options) => {{
  try {{
    window.model?.close();
    window.phases = new Set();
    window.model = await Model.load(options, ({{ phase }}) => phases.add(phase));
    return {{ ...model.info, manifest: model.info.manifest.schema_version, phases: [...phases] }};
  }} {CAUGHT}
}}"""
FETCH = f"""async (options) => {{
  const control = new AbortController();
  try {{
    await Model.load(options, ({{ phase }}) => phase === "compile" && control.abort(), control.signal);
  }} {CAUGHT}
}}"""
DRAW = f"""async (request) => {{
  try {{
    const steps = [], previews = [];
    if (request.latents) request.latents = Float32Array.from(request.latents);
    const made = await model.generate(request, (s) => {{ steps.push(s.step); if (s.preview) previews.push(s.preview.rgba.length); }});
    return {{ ...made, rgba: base64(made.rgba), steps, previews }};
  }} {CAUGHT}
}}"""


@pytest.fixture
def page(browser: Any, harness: Path, student: Path, cut: Path, serve: Callable) -> Iterator[Page]:
    opened = Page(browser, serve({"": harness, "model": student, "plan": cut}))
    yield opened
    opened.context.close()
    assert [line for line in opened.said if "404" not in line] == []


@pytest.fixture(scope="module")
def opened(browser: Any, harness: Path, student: Path, cut: Path) -> Iterator[Page]:
    site = Folders({"": harness, "model": student, "plan": cut})
    page = Page(browser, site)
    page.load()
    yield page
    page.context.close()
    site.close()


@pytest.fixture
def drawing(opened: Page) -> Iterator[Page]:
    """One page for all tests that only draw."""
    opened.said.clear()
    yield opened
    assert opened.said == []


def apart(made: dict[str, Any], wanted: np.ndarray) -> int:
    """The largest difference in levels of 255."""
    assert (made["pixels"][..., 3] == 255).all()
    return int(np.abs(made["pixels"][..., :3].astype(int) - wanted.astype(int)).max())


@pytest.mark.browser
@pytest.mark.parametrize("planned", [True, False])
def test_pictures_are_those_of_python_within_a_level(page: Page, student: Path, planned: bool, record_property: Callable) -> None:
    from edgesafe import sampling
    from edgesafe.benchmarks import runtimes

    artist = runtimes.load(str(student), "onnxruntime", 1)
    if not planned:
        page.site.absent.add("plan/plan.json")
    info = page.load()
    assert ("plan/main.onnx" in page.site.asked) == planned
    assert (info["device"], info["threads"]) == ("wasm", 2)
    assert (info["latentShape"], info["width"], info["height"]) == ([8, 8, 8], 64, 64)
    assert info["phases"] == ["download", "check", "compile"]
    (latents,) = sampling.starting_latents([11], artist.latent_shape)
    for sampler in sampling.SAMPLERS:
        (wanted,) = artist.generate(["fox mosaic style"], [11], sampler=sampler)
        made = page.draw(prompt="fox mosaic style", seed=0, latents=latents.flatten().tolist(), sampler=sampler)
        calls = 26 if sampler == "pndm" else 25
        assert made["steps"] == list(range(1, calls + 1))
        record_property(sampler, apart(made, wanted))
        assert apart(made, wanted) <= 1, sampler


@pytest.mark.browser
def test_pictures_are_those_of_the_fixtures(drawing: Page) -> None:
    """From seeds, so the noise is torch's; with and without guidance; a prompt that is not ASCII."""
    for row in json.loads((fixtures.FOLDER / "pipeline.json").read_text(encoding="utf-8"))["rows"]:
        wanted = np.frombuffer(base64.b64decode(row.pop("rgb")), np.uint8).reshape(row["height"], row["width"], 3)
        assert apart(drawing.draw(**row), wanted) <= 1, row
    twice = [drawing.draw(prompt="red apple", seed=5, steps=4, preview=show) for show in (False, True)]
    assert (twice[0]["pixels"] == twice[1]["pixels"]).all(), "a preview changes the picture"
    assert not twice[0]["previews"] and set(twice[1]["previews"]) == {64 * 64 * 4}


@pytest.mark.browser
def test_a_fixed_batch_in_fp16_and_v_prediction(page: Page, tiny_sd2: Path, tmp_path: Path) -> None:
    from edgesafe.benchmarks import runtimes
    from edgesafe.export import ExportConfig, run

    export = run(ExportConfig(str(tiny_sd2), "onnx", "fp16", tmp_path / "tiny", static=True))
    page.site.folders["tiny"] = export
    page.site.absent.add("plan/plan.json")
    artist = runtimes.load(str(export), "onnxruntime", 1)
    assert "fault" not in page.load("tiny/")
    for sampler, guidance in (("ddim", 4.0), ("dpm++", 1.0)):
        (wanted,) = artist.generate(["red apple"], [3], steps=5, guidance=guidance, sampler=sampler)
        assert apart(page.draw(prompt="red apple", seed=3, steps=5, guidance=guidance, sampler=sampler), wanted) <= 1


@pytest.mark.browser
def test_the_second_load_needs_no_network(page: Page, student: Path) -> None:
    page.load()
    fetched = {path for path in page.site.asked if path.startswith("model/")}
    assert "model/unet/model.onnx" in fetched and not any("vae_encoder" in path for path in fetched)
    page.open()
    page.site.asked.clear()
    page.context.route(re.compile("/(model|plan)/"), lambda route: route.abort())
    info = page.load()
    assert info["phases"] == ["check", "compile"] and not any(path.startswith(("model/", "plan/")) for path in page.site.asked)
    for guidance in (4.0, 1.0):
        assert page.draw(prompt="red apple", seed=0, steps=1, guidance=guidance)["pixels"].shape == (64, 64, 4)


@pytest.mark.browser
def test_a_damaged_file_is_refused_and_a_damaged_copy_fetched_anew(page: Page, student: Path) -> None:
    good = (student / "unet" / "model.onnx").read_bytes()
    page.site.replaced["model/unet/model.onnx"] = bytes([good[0] ^ 1]) + good[1:]
    refused = page.load()
    assert refused["fault"] == "hash" and "unet/model.onnx is damaged or was changed" in refused["message"]
    page.site.replaced["model/unet/model.onnx"] = good + b"x"
    assert "more than" in page.load()["message"]
    page.site.replaced["model/unet/model.onnx"] = good[:-1]
    assert page.load()["fault"] == "hash"
    del page.site.replaced["model/unet/model.onnx"]
    assert page.fetch()["fault"] == "stopped"
    damage = """async (url) => {
      for (const name of await caches.keys()) await (await caches.open(name)).put(url, new Response("damaged"));
    }"""
    page.page.evaluate(damage, page.site.url + "model/vae_decoder/model.onnx")
    page.site.asked.clear()
    assert page.fetch()["fault"] == "stopped"
    assert page.site.asked.count("model/vae_decoder/model.onnx") == 1
    page.page.evaluate(damage, page.site.url + "model/vae_decoder/model.onnx")
    page.site.replaced["model/vae_decoder/model.onnx"] = b"damaged"
    assert page.load()["fault"] == "hash"


@pytest.mark.browser
def test_a_plan_that_is_damaged_or_of_another_model_is_refused(page: Page, cut: Path) -> None:
    graph = (cut / "main.onnx").read_bytes()
    page.site.replaced["plan/main.onnx"] = graph[:-1] + bytes([graph[-1] ^ 1])
    refused = page.load()
    assert refused["fault"] == "hash" and "plan/main.onnx is damaged or was changed" in refused["message"]
    record = json.loads((cut / "plan.json").read_text())
    wrongs = {"was made for another model": {"of": "0" * 64}, "has schema version 2": {"schema_version": 2}, "not an object": {"files": 1}}
    for said, wrong in wrongs.items():
        page.site.replaced["plan/plan.json"] = json.dumps(record | wrong).encode()
        refused = page.load()
        assert refused["fault"] == "manifest" and said in refused["message"], refused


@pytest.mark.browser
def test_a_model_that_changed_takes_the_place_of_the_old_one(page: Page, student: Path) -> None:
    page.fetch()
    before = page.page.evaluate("caches.keys()")
    page.site.replaced["model/manifest.json"] = (student / "manifest.json").read_bytes() + b"\n"
    page.fetch()
    after = page.page.evaluate("caches.keys()")
    assert len(before) == len(after) == 1 and before != after
    assert after[0] == "edgesafe-model-" + hashlib.sha256(page.site.replaced["model/manifest.json"]).hexdigest()


@pytest.mark.browser
def test_what_cannot_be_loaded_says_why(page: Page, student: Path) -> None:
    manifest = json.loads((student / "manifest.json").read_text())

    def refused(**changes: Any) -> str:
        page.site.replaced["model/manifest.json"] = json.dumps(manifest | changes).encode()
        answer = page.load()
        assert answer.get("fault") == "manifest", answer
        return answer["message"]

    assert "schema version 2" in refused(schema_version=2)
    assert "This is a run, not an export" in refused(kind="run")
    assert "An export for coreml" in refused(target={"name": "coreml"})
    facts = manifest["files"]["unet/model.onnx"]
    for name in ("../secret", "/etc/passwd", "unet/../../x", "a\\b", "%2e%2e/x", "https://example.org/x", "", "unet//x", "x?y", ".git/x"):
        assert "leads out of the folder" in refused(files=manifest["files"] | {name: facts})
    lacking = {name: one for name, one in manifest["files"].items() if name != "unet/model.onnx"}
    assert "has no unet/model.onnx" in refused(files=lacking)
    assert not any("secret" in path or "passwd" in path for path in page.site.asked)
    page.site.replaced["model/manifest.json"] = b"<!doctype html>"
    assert "manifest.json is not JSON" in page.load()["message"]
    del page.site.replaced["model/manifest.json"]
    page.site.absent.add("model/unet/model.onnx")
    answer = page.load()
    assert answer["fault"] == "download" and "the server says 404" in answer["message"]


@pytest.mark.browser
def test_a_worker_that_cannot_start_says_why(page: Page, harness: Path) -> None:
    (script,) = harness.glob("assets/worker-*.js")
    page.site.absent.add(f"assets/{script.name}")
    answer = page.load()
    assert answer["fault"] == "download" and "The script that draws cannot be downloaded" in answer["message"]
    page.site.absent.clear()
    page.site.replaced[f"assets/{script.name}"] = b"onmessage = () => { throw new Error('odd') }"
    answer = page.load()
    assert answer["fault"] == "unsupported" and "What draws has ended (Uncaught Error: odd)" in answer["message"]


@pytest.mark.browser
def test_requests_that_cannot_be_drawn_say_why_and_the_model_goes_on(drawing: Page) -> None:
    for wrong, said in (
        ({"steps": 0}, "0 steps"),
        ({"steps": 1000}, "Take fewer"),
        ({"guidance": -1}, "Guidance -1"),
        ({"seed": -1}, "Seed -1"),
        ({"seed": 0.5}, "Seed 0.5"),
        ({"sampler": "euler"}, 'Sampler "euler" is not known; known: ddim, pndm, dpm++'),
        ({"latents": [1.0]}, "1 latents, but this model has 512"),
        ({"prompt": 3}, "not a text"),
    ):
        answer = drawing.draw(**{"prompt": "red apple", "seed": 0, **wrong})
        assert answer.get("fault") == "request" and said in answer["message"], answer
    assert "pixels" in drawing.draw(prompt="red apple", seed=0, steps=1)


@pytest.mark.browser
def test_stop_ends_a_picture_within_a_step_and_the_next_one_is_drawn(drawing: Page) -> None:
    answer = drawing.page.evaluate(
        """async () => {
      const control = new AbortController(), steps = [];
      const request = { prompt: "red apple", seed: 0, steps: 200, guidance: 4, sampler: "ddim" };
      const first = model.generate(request, (s) => { steps.push(s.step); if (s.step === 3) control.abort(); }, control.signal);
      const second = await model.generate(request).catch((error) => error.fault);
      try { await first; } catch (error) { return { fault: error.fault, steps: steps.length, second }; }
    }"""
    )
    assert answer["fault"] == "stopped" and 3 <= answer["steps"] <= 5 and answer["second"] == "request"
    assert drawing.draw(prompt="red apple", seed=0, steps=2)["steps"] == [1, 2]
    stopped = drawing.page.evaluate("Model.load({base: location.href}, undefined, AbortSignal.abort()).catch((error) => error.fault)")
    assert stopped == "stopped"


@pytest.mark.browser
def test_times_are_those_of_the_protocol(drawing: Page) -> None:
    times = """async ([part, runs, limit]) => {
      const seen = [];
      const made = await model.time(part, { steps: 3, guidance: 4, sampler: "ddim" }, runs, 1, limit, (n) => seen.push(n));
      return { made, seen };
    }"""
    for part in ("picture", "unet_call", "text_encoder", "vae_decoder"):
        answer = drawing.page.evaluate(times, [part, 4, 60_000])
        assert len(answer["made"]) == 4 and min(answer["made"]) > 0 and answer["seen"] == [1, 2, 3, 4]
    assert len(drawing.page.evaluate(times, ["unet_call", 30, 0])["made"]) == 3, "past the limit, but not before the third"


@pytest.mark.browser
def test_a_page_that_is_not_isolated_has_a_thread_for_each_row(page: Page) -> None:
    page.site.isolated = False
    page.open()
    made = []
    for asked, had in ((4, 2), (1, 1)):
        assert page.load(threads=asked)["threads"] == had
        made.append(page.draw(prompt="red apple", seed=0, steps=3)["pixels"])
    assert (made[0] == made[1]).all()


def test_the_site_takes_nothing_from_another_host() -> None:
    for path in (WEB / "site").rglob("*"):
        if path.suffix in (".html", ".css"):
            assert "http://" not in path.read_text().replace("http://www.w3.org", "") and 'src="https:' not in path.read_text(), path

def test_the_script_that_builds_it_parses() -> None:
    script = WEB.parents[1] / "scripts" / "web"
    assert script.stat().st_mode & 0o111 and "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
