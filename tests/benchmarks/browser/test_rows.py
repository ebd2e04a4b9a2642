"""The device in a report: its name, its rows, and what the page and `edgesafe compare` make of them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesafe.benchmarks import report
from edgesafe.benchmarks.browser import rows
from edgesafe.metrics.bootstrap import rate

from .conftest import ANDROID, COLD, PHONE, TIMES, Stand, make_png

Start = Callable[..., Stand]
APPLE = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPHONE = f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {APPLE} Version/26.0 Mobile/15E148 Safari/604.1"
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0"
LINUX = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"


@pytest.mark.parametrize(
    ("agent", "browser", "system"),
    [
        (ANDROID, "Chrome 141", "Android"),
        (IPHONE, "Safari 26", "iPhone"),
        (WINDOWS, "Edge 141", "Windows"),
        (LINUX, "Firefox 143", "Linux"),
        ("curl/8", "a browser", "device"),
    ],
)
def test_a_user_agent_in_words(agent: str, browser: str, system: str) -> None:
    assert (rows.browser(agent), rows.system(agent)) == (browser, system)


def test_the_device_has_the_users_name_or_its_own_or_its_systems() -> None:
    assert rows.label(PHONE, "my phone") == "my phone, Chrome 141, WASM with 4 threads"
    assert rows.label(PHONE, None) == "Pixel 8, Chrome 141, WASM with 4 threads"
    assert rows.label(PHONE | {"model": None, "backend": "webgpu"}, None) == "Android, Chrome 141, WebGPU"
    assert rows.label(PHONE | {"threads": 1}, None).endswith("WASM with 1 thread")


def measured(start: Start, device: dict[str, Any] = PHONE, **latency: Any) -> Stand:
    made = start(questions=())
    visitor = made.visitor()
    visitor.open()
    visitor.post("/api/hello", device)
    visitor.post("/api/cold", COLD)
    for part in ("picture", "unet_call", "text_encoder", "vae_decoder"):
        assert visitor.post(f"/api/latency/{part}", latency.get(part, TIMES))[0] == 200
    assert made.session.finished.is_set()
    return made


def test_times_are_summed_up_as_the_desktops_are(stand: Start) -> None:
    made = rows.timed(measured(stand, unet_call={"reason": "out of memory"}, text_encoder={"warm_up": 3, "samples_ms": [0, 0, 1]}).session)
    (cold,) = made["cold_starts"]
    assert (cold["total_ms"], cold["load_ms"], cold["first_picture_ms"], cold["libraries_ms"]) == (1700.8, 900.5, 800.2, None)
    picture, unet, text, vae = made["latency"]
    assert (picture["median_ms"], picture["q1_ms"], picture["q3_ms"], picture["n"], picture["warm_up"]) == (30.0, 29.625, 30.75, 3, 2)
    assert (picture["batch"], unet["batch"], vae["batch"]) == (1, 2, 1)
    assert (unet["status"], unet["reason"]) == ("failed", "out of memory")
    assert (text["status"], text["reason"]) == ("failed", "this browser's clock steps by 0.005 ms, too coarse for it")
    assert {row["runtime"] for row in made["latency"]} == {"Pixel 8, Chrome 141, WASM with 4 threads"}


def page(stand: Start, tmp_path: Path, device: dict[str, Any] = PHONE, **facts_of_device: Any) -> tuple[dict[str, Any], str]:
    """A report without an audit."""
    session = measured(stand, device).session
    nothing: dict[str, Any] = {"audit": None, "grid": None, "versus": None, "sizes": [], "memory": [], "parity": []}
    facts = {"schema_version": report.SCHEMA_VERSION, "created": "2026-01-01T00:00:00+00:00", "machine": {}, "versions": {}}
    settings = {"steps": 2, "guidance": 4.0, "sampler": "ddim", "seed": 0, "pictures_per_cell": 2, "threads": 2}
    artifact = {"name": "tiny", "target": "onnx fp32", "sha256": "ab" * 32, "base_model": None, "steps": [], "files": {}}
    rest = {"settings": settings, "artifact": artifact, "control": {"id": None, "sha256": None}, "audit_reason": "nobody asked"}
    folder = tmp_path / "report"
    folder.mkdir(parents=True)
    report.write(folder, {**nothing, **facts, **rest, **rows.timed(session), "device": rows.facts(session) | facts_of_device})
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_the_report_names_the_device_and_what_its_times_are(stand: Start, tmp_path: Path) -> None:
    record, html = page(stand, tmp_path)
    assert "Measured in a browser" in html and "Pixel 8, Chrome 141, WASM with 4 threads" in html
    assert "120 MiB held by the page after the first picture; about 8 GiB in the device, as the browser rounds it" in html
    assert "a picture 30.0 ms, a UNet call 30.0 ms" in html and "1.70 s from a cold start to the first picture" in html
    assert "held 120 MiB after the first picture" in html, "beside this computer's memory, too"
    assert any(line.startswith("Times of Pixel 8") and "0.005 ms" in line for line in record["limits"])
    assert any("drew with 4 of the 9 cores" in line for line in record["limits"])
    assert not any("this computer's processor" in line for line in record["limits"]), "nothing was timed here"


def test_a_page_that_was_not_isolated_says_so(stand: Start, tmp_path: Path) -> None:
    record, _ = page(stand, tmp_path, PHONE | {"isolated": False, "threads": 1})
    assert any("over plain http, where a browser gives two cores at most and no WebGPU" in line for line in record["limits"])


def test_what_a_browser_does_not_tell_is_said(stand: Start, tmp_path: Path) -> None:
    _, html = page(stand, tmp_path, PHONE | {"memory_gib": None, "cores": None}, held_mib=None)
    assert "how much the page held, the browser does not tell; how much the device has, it does not tell either" in html
    assert "how many cores it has, the browser does not tell" in html
    assert "How much memory the page of Pixel 8, Chrome 141, WASM with 4 threads took, its browser does not tell." in html


def test_its_rates_stand_beside_the_desktops_with_an_answer(stand: Start, tmp_path: Path) -> None:
    def row(cell: str, hits: int, there: int) -> dict[str, Any]:
        device, desktop = (rate([True] * n + [False] * (24 - n), range(24)) for n in (hits, there))
        of = {"probe": "plain", "cell": cell, "detector": "emoji-judge", "rate": "leaked" if "erased" in cell else "right"}
        return of | {"device": device, "desktop": desktop, "seen_alike": 24 - abs(hits - there), "agrees": rows.agrees(device, desktop)}

    alike, apart = [row("erased neon", 0, 0), row("rest", 18, 20)], [row("erased neon", 1, 12)]
    assert [one["agrees"] for one in alike + apart] == [True, True, False]
    _, html = page(stand, tmp_path / "a", beside={"runtime": "onnxruntime", "rates": alike})
    assert "<b>Yes.</b> Each rate of onnxruntime lies within the browser's 95 % interval." in html
    assert "of 48 pairs, the detectors see 46 alike" in html and "0.0 % to 13.8 %" in html
    _, html = page(stand, tmp_path / "b", beside={"runtime": "onnxruntime", "rates": alike + apart})
    assert "<b>Not everywhere.</b>" in html and "lies the rate of onnxruntime for “erased neon” (plain, emoji-judge)." in html


def test_what_a_device_says_of_itself_is_text_in_the_report(stand: Start, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    record, html = page(stand, tmp_path, PHONE | {"model": evil, "user_agent": f'"><img src=x onerror=alert(1)> {evil}', "adapter": evil})
    assert evil in record["device"]["name"]
    assert evil not in html and "<img src=x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_compare_reads_a_report_with_a_device(stand: Start, tmp_path: Path) -> None:
    from edgesafe.benchmarks.compare import CompareConfig, run

    record, _ = page(stand, tmp_path)
    other = copy.deepcopy(record)
    for row in other["latency"]:
        row |= {"runtime": "Pixel 9, Chrome 141, WebGPU", **{key: 2 * row[key] for key in ("median_ms", "q1_ms", "q3_ms")}}
    for name, data in (("a", record), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    found = run(CompareConfig((tmp_path / "a.json", tmp_path / "b.json")))
    speeds = {row.what: row.differences for row in found.rows if row.section == "speed"}
    assert speeds["unet call, Pixel 8, Chrome 141, WASM with 4 threads, Pixel 9, Chrome 141, WebGPU, batch 2, 4 threads"] == ("x 2.00",)


def test_its_pictures_are_what_the_audit_sees(stand: Start) -> None:
    made = stand()
    visitor = made.visitor()
    visitor.open()
    for value, row in enumerate(visitor.post("/api/hello", PHONE)[1]["pictures"]):
        visitor.post(f"/api/picture/{row['id']}", make_png(value=value))
    assert made.session.pictures(made.session.work.questions)[:, 5, 5, 1].tolist() == [0, 1]
