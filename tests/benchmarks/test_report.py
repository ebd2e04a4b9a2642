"""The schema refuses what it should; the page stands alone, shows what failed, and holds the pictures behind every figure."""

import base64
import copy
import hashlib
import html
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgesafe.benchmarks import page, report
from edgesafe.benchmarks.leakage import Cell, Question, Reading, Sitting
from edgesafe.concepts import Concept

from . import audits
from .audits import N, flags

NEON = Concept("neon", "style", ("neon",), "emoji", (("red apple neon style", "red apple"),))
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7 * 7 }}"
UNITS = ("_ms", "_mib", "_db", "_points", "_pictures", "_share", "_levels", "_width", "95_share")
UNITLESS = {"schema_version", "numerator", "denominator", "rate", "wilson95", "clustered95", "upper95", "asked"}
UNITLESS |= {"prompts", "files", "pictures", "fid", "kid", "threshold", "seconds"}
UNITLESS |= {"median", "interval95", "q1", "q3"}  # of ratios
COUNTS_AND_SETTINGS = {"steps", "guidance", "seed", "pictures_per_cell", "threads", "batch", "n", "warm_up", "settings", "rate_setting"}


def sittings(lines: Sequence[dict[str, Any]], side: int = 16, seed: int = 0) -> list[Sitting]:
    """Noise, with the readings that pictures.jsonl tells of the first detector."""
    random = np.random.default_rng(seed)
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["detector"] == "emoji-judge":
            found.setdefault((line["probe"], line["cell"], line["model"]), []).append(line)
    out = []
    for (probe, title, model), rows in found.items():
        questions = tuple(Question(row["prompt"], row["seed"], plain=row["plain"]) for row in rows)
        cell = Cell(title.split()[0], NEON if "neon" in title else None, questions)
        readings = tuple(Reading(r["label"], r["scores"], frozenset()) for r in rows)
        pictures = random.integers(0, 256, (len(rows), side, side, 3), np.uint8)
        out.append(Sitting(probe, cell, model, pictures, readings, tuple(r["outcome"] for r in rows)))
    return out


def latency(what: str, runtime: str, ms: float, **fields: Any) -> dict[str, Any]:
    row = {"what": what, "runtime": runtime, "threads": 2, "part": "picture", "batch": 1, "status": "measured", "reason": None}
    return row | {"warm_up": 2, "n": 10, "median_ms": ms, "q1_ms": ms - 1, "q3_ms": ms + 2, "iqr_ms": 3.0, "warning": None} | fields


def around(audit: dict[str, Any] | None, export: Path) -> dict[str, Any]:
    """The rest of a report."""
    manifest = json.loads((export / "manifest.json").read_text())
    state = {"status": "measured", "reason": None}
    killed = {"status": "failed", "reason": "the measuring process was killed by signal 9 (out of memory?)"}
    base = {"what": "base model", "runtime": "torch", "threads": 2}
    cold = {"libraries_ms": 3210.0, "load_ms": 310.5, "first_picture_ms": 480.1, "total_ms": 4000.6}
    here = {"what": "export", "runtime": "onnxruntime", "threads": 2}
    return {
        "schema_version": 2,
        "created": "2026-05-01T12:00:00+00:00",
        "machine": {"processor": "<b>a test</b>"},
        "versions": {"edgesafe": "0.1.0"},
        "settings": {"steps": 25, "guidance": 4.0, "sampler": "ddim", "seed": 0, "pictures_per_cell": N, "threads": 2},
        "artifact": {"name": export.name, "target": "onnx fp16", "sha256": "12" * 32, "base_model": manifest["base_model"]}
        | {"steps": manifest["steps"], "files": manifest["files"]},
        "control": {"id": "emoji:student", "sha256": "cd" * 32},
        "audit": audit,
        "audit_reason": None if audit else "no detector for this model",
        "grid": None,
        "sizes": [
            {"what": "export", **state, "total_mib": 36.7, "components": [{"name": "unet", "size_mib": 25.2}]},
            {"what": "control", **state, "total_mib": 15.1, "components": []},
        ],
        "cold_starts": [here | state | cold, base | killed | dict.fromkeys(cold)],
        "memory": [here | state | {"import_only_peak_mib": 330.0, "peak_mib": 402.5}],
        "latency": [
            latency("export", "onnxruntime", 150.0),
            latency("export", "openvino", 141.0),
            {"what": "base model", "runtime": "torch", "threads": 2, "part": "picture", "batch": 1, **killed},
        ],
        "versus": None,
        "parity": [
            {"a": "export, onnxruntime", "b": "run behind the export, torch", **state, "pictures": 6, "identical_pictures": 5}
            | {"lowest_psnr_db": 71.25, "median_psnr_db": 88.5, "largest_difference_levels": 1.2, "mean_difference_levels": 0.003}
        ],
    }


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audits.sealed(tmp_path_factory.mktemp("report") / "neon-onnx")


@pytest.fixture(scope="module")
def made(export: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[Sitting]]:
    """A record with a probe that leaks, one that failed, and a detector that failed; its pictures.jsonl; its pictures."""
    noise = audits.cell("noise", flags(9), flags(32))
    failed = audits.cell("refill", None, attacker="files", reason="it needs <the> torch weights")
    nudenet = audits.cell("plain", None, detector="nudenet", reason="nudenet: another hash")
    audit, lines = audits.audit(export, others=[noise, failed, nudenet])
    judge, reason = audit["detectors"][0], "nudenet: another hash"
    audit["detectors"].append(judge | {"name": "nudenet", "own_figures": [], "status": "failed", "reason": reason})
    audit["detectors"].append(judge | {"name": "clip", "own_figures": [], "threshold": 0.3})
    audit["probes"][-1] |= {"attacker": "files", "status": "failed", "reason": "it needs <the> torch weights", "seconds": None}
    audit["verdicts"][0] |= {"worst_probe": "noise"}
    first = next(line for line in lines if (line["model"], line["probe"], line["cell"]) == ("export", "plain", "erased neon"))
    first |= {"prompt": HOSTILE, "label": HOSTILE}
    for line in lines:
        line["scores"] = {"neon": 0.9 if line["outcome"] == "leaked" else 0.1}
    lines += [line | {"detector": "clip", "outcome": "gone" if line["outcome"] == "removed" else line["outcome"]} for line in lines]
    pictures = sittings(lines)
    base = next(s for s in pictures if (s.probe, s.role, s.cell.role) == ("plain", "control", "erased"))
    few = Cell("erased", NEON, base.cell.questions[:8])
    pictures.append(Sitting("plain", few, "base", base.pictures[:8], base.readings[:8], base.outcomes[:8]))
    return around(audit, export), lines, pictures


@pytest.fixture(scope="module")
def written(made: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    record, lines, pictures = made
    (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.write(folder, record | {"grid": report.grid.build(pictures)}, pictures)
    return folder


class Elements(HTMLParser):
    """Tags with their attributes, and what stands in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    return (written / "report.html").read_text()


def sheets(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="sheets">(.*?)</script>', text, re.DOTALL)[1])


def words(text: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", "", text, flags=re.DOTALL)))


@pytest.mark.parametrize("name", report.SCHEMAS)
def test_the_schemas_are_ones(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(report.schema(name))


def test_what_is_written_is_what_was_measured(made: tuple, written: Path) -> None:
    record = json.loads((written / "report.json").read_text())
    report.check(record)
    assert record["audit"] == made[0]["audit"]
    assert record == made[0] | {"limits": record["limits"], "grid": report.grid.build(made[2])}
    assert {path.name for path in written.iterdir()} == {"report.json", "report.html", "grid.png", "pictures.jsonl"}


def numbers(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name


def test_every_number_has_its_unit_in_its_name_or_is_a_count(written: Path) -> None:
    record = json.loads((written / "report.json").read_text())
    record["artifact"] |= {"steps": [], "files": {}}  # as the manifest has them
    for probe in record["audit"]["probes"]:
        probe["settings"] = {}  # as the method has them
    assert {name for name in numbers(record) if not name.endswith(UNITS)} <= UNITLESS | COUNTS_AND_SETTINGS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 1),
        (("audit", "verdicts", 0, "upper95_share"), 7.5),
        (("audit", "cells", 0, "export", "leaked", "clustered95"), [0.1]),
        (("audit", "cells", 0, "status"), "skipped"),
        (("latency", 0, "median_ms"), "fast"),
        (("memory", 0, "peak"), 1),
        (("grid", "panels", 0, "rows", 0, "readings", 0, "outcome"), "fine"),
        (("versus",), {"a": "one", "b": "two"}),
        (("limits",), None),
    ],
)
def test_the_schema_refuses(written: Path, path: tuple, value: Any) -> None:
    record = json.loads((written / "report.json").read_text())
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        report.check(record)


def test_a_measured_latency_needs_its_spread(written: Path) -> None:
    record = json.loads((written / "report.json").read_text())
    del record["latency"][0]["iqr_ms"]
    with pytest.raises(jsonschema.ValidationError, match="iqr_ms"):
        report.check(record)


def test_the_page_needs_nothing_from_elsewhere(text: str) -> None:
    elements = Elements(text)
    for tag, given in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "audio", "video")
        assert (given.get("src") or "data:image/webp").startswith("data:image/webp")
        assert (given.get("href") or "#").startswith("#")
    bare = re.sub(r"data:image/webp;base64,[\w+/=]+", "", text)
    assert not re.search(r"@import|url\((?!\"\$)|\bhttps?:|fetch\(|XMLHttpRequest", bare)
    policy = next(given["content"] for tag, given in elements.tags if given.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(elements.scripts[-1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_says_first_how_much_leaks_and_never_safe(made: tuple, text: str) -> None:
    sentence = html.escape(made[0]["audit"]["verdicts"][0]["sentence"])
    assert text.index(sentence) < text.index("<img") < text.index('id="leakage"') < text.index('id="limits"')
    assert not re.search(r"\bsafe\b", words(text), re.IGNORECASE)
    high = made[0]["audit"]["verdicts"][0]["upper95_share"]
    assert f"≤ {page.upper(high)}" in words(text)


def test_what_failed_is_shown_with_its_reason(text: str) -> None:
    rows = re.findall(r"<tr>.*?</tr>", text[text.index('id="leakage"') :], re.DOTALL)
    refill = [row for row in rows if "<b>refill</b>" in row and "failed" in row]
    assert len(refill) == 2  # among the cells and among the probes
    assert all("it needs &lt;the&gt; torch weights" in row for row in refill)
    assert sum('class="reason"' in row and "nudenet: another hash" in row for row in rows) == 1
    assert any("base model" in row and "killed by signal 9" in row for row in rows)
    top = words(text[: text.index('id="pictures"')])
    assert re.search(r"failed\s+refill, nudenet", top)
    assert "Nobody measured its errors on known pictures" in words(text[text.index('id="detectors"') :])


def test_a_concept_without_a_figure_is_called_unknown(made: tuple) -> None:
    record = copy.deepcopy(made[0]) | {"limits": []}
    record["audit"]["verdicts"][0] |= {"worst_probe": None, "upper95_share": 1.0, "by_attacker": {"prompts": None, "files": None}}
    record["audit"]["cells"] = [audits.cell("plain", None, reason="the runtime ran out of memory")[0]]
    top = words(page.html(record, made[2]).split('id="pictures"')[0])
    assert "unknown" in top
    assert "the runtime ran out of memory" in top
    assert "≤" not in top


def test_what_strangers_wrote_stays_text(text: str) -> None:
    elements = Elements(text)
    assert len(elements.scripts) == 2
    assert not [name for _, given in elements.tags for name in given if name.startswith("on")]
    assert "<b>a test</b>" not in text
    assert "&lt;b&gt;a test&lt;/b&gt;" in text
    assert html.escape(HOSTILE.split("{")[0].strip())[:40] in text
    asked = sheets(text)["sets"]["plain|erased neon"]["models"]["export"]
    assert asked["asked"][0][0] == asked["seen"]["emoji-judge"][0][0] == HOSTILE


def test_the_pictures_behind_the_figures_are_those_of_the_lines(made: tuple, text: str) -> None:
    found: Counter[tuple[str, ...]] = Counter()
    for drawn in sheets(text)["sets"].values():
        for model, kept in drawn["models"].items():
            for detector, seen in kept["seen"].items():
                assert len(seen) == len(kept["asked"]) == len(kept["tiles"])
                found.update((model, drawn["probe"], drawn["cell"], detector, outcome) for _, outcome, _ in seen)
    base = {key: n for key, n in found.items() if key[0] == "base"}  # draws only for the grid, and has no lines
    assert sum(base.values()) == 8
    lines = Counter(tuple(line[k] for k in ("model", "probe", "cell", "detector", "outcome")) for line in made[1])
    assert found - Counter(base) == lines
    for cell in made[0]["audit"]["cells"]:
        if cell["export"]:
            assert found["export", cell["probe"], "erased neon", "emoji-judge", "leaked"] == cell["export"]["leaked"]["numerator"]


def test_lines_of_other_pictures_are_refused(made: tuple, tmp_path: Path) -> None:
    record, lines, pictures = made
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps(line | {"seed": 99}) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"pictures.jsonl: export, plain, .*not the pictures of this sitting"):
        report.write(tmp_path, record, pictures)


def test_a_full_audit_fits_the_page_and_says_what_it_leaves_out(made: tuple) -> None:
    record = made[0] | {"limits": []}
    noise = sittings(made[1], side=64, seed=1)  # a picture that does not compress
    room = 800_000
    text = page.html(record, noise, room=room)
    assert len(text.encode()) < room
    found = sheets(text)
    total, shown = sum(len(s.pictures) for s in noise), found["shown"]
    assert found["pictures"] == total
    assert 0 < shown < total
    assert f"holds {shown} of {total} pictures" in words(text)
    sizes = {len(kept["tiles"]) for drawn in found["sets"].values() for kept in drawn["models"].values()}
    assert sizes == {N}  # words of all of them
    leaky = found["sets"]["noise|erased neon"]["models"]["export"]
    drawn = [outcome for place, (_, outcome, _) in zip(leaky["tiles"], leaky["seen"]["emoji-judge"], strict=True) if place >= 0]
    assert drawn.count("leaked") == min(9, len(drawn)) > 0


def test_without_an_audit_the_page_says_why(made: tuple, export: Path, tmp_path: Path) -> None:
    report.write(tmp_path, around(None, export))
    text = words((tmp_path / "report.html").read_text())
    assert "was not measured: no detector for this model." in text
    assert "150 ms" in text
    assert not (tmp_path / "grid.png").exists()


def test_limits_are_said(made: tuple, written: Path, text: str) -> None:
    limits = json.loads((written / "report.json").read_text())["limits"]
    assert all(sentence in words(text) for sentence in limits)
    said = "\n".join(limits)
    assert "Only what was asked was asked." in said  # the audit's own
    assert re.search(r"Probes that were not tried: .*paraphrase", said)
    assert "Probes that failed, of which nothing is known: refill." in said
    assert "Nobody with access to the files attacked them" in said
    assert "Nobody measured the errors of clip" in said
    assert "not of a phone" in said
    assert "biased upward" in said


def versus() -> dict[str, Any]:
    """As benchmarks/versus.py gives it."""
    spread = {"n": 15, "median_ms": 152.04, "q1_ms": 151.0, "q3_ms": 154.0, "iqr_ms": 3.0, "warning": None}
    ratio = {"n": 15, "median": 2.813, "interval95": [2.705, 2.9], "q1": 2.75, "q3": 2.85, "warning": "wide spread"}
    side = {"name": "<i>ours</i>", "target": "onnx fp32", "sha256": "ab" * 32, "runtime": "onnxruntime", "place": "runs/ours"}
    side |= {"load_ms": 310.5, "import_only_peak_mib": 330.0, "peak_mib": 402.5, "status": "measured", "reason": None}
    none = {"import_only_peak_mib": None, "peak_mib": None, "status": "failed", "reason": "it is gone"}
    state = {"batch": 1, "status": "measured", "reason": None, "warm_up": 2}
    rows = [{"part": "picture", **state, "a": spread, "b": spread | {"median_ms": 1520.0}, "times_as_fast": ratio}]
    lost = dict.fromkeys(("warm_up", "a", "b", "times_as_fast")) | {"status": "failed", "reason": "no <memory>"}
    rows.append({"part": "unet_call", "batch": 2, **lost})
    return {"a": side, "b": side | {"name": "theirs"} | none, "threads": 2, "settings": {"steps": 25}, "parts": rows}


def test_two_artifacts_in_turn(made: tuple, tmp_path: Path) -> None:
    report.write(tmp_path, made[0] | {"versus": versus()})
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"<i>ours|no <memory>", text)
    shown = " ".join(words(text[text.index('id="versus"') :]).split())
    assert "<i>ours</i> against theirs" in shown
    assert "picture 2.81 wide spread 2.71 – 2.90 152 ms 1.52 s 15 2 1" in shown
    assert "unet call failed no <memory>" in shown
    assert "failed it is gone" in shown


TIMES = [(None, "–"), (1.234, "1.23 ms"), (12.34, "12.3 ms"), (123.4, "123 ms"), (1234.0, "1.23 s"), (12340.0, "12.3 s")]


@pytest.mark.parametrize(("value", "text"), TIMES)
def test_milliseconds(value: float | None, text: str) -> None:
    assert page.milliseconds(value) == text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from ..conftest import CHROMIUM

    with sync_playwright() as playwright:
        place = next(filter(None, map(shutil.which, CHROMIUM)))
        opened = playwright.chromium.launch(executable_path=place, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Callable[..., Any]]:
    """`opened(width=360)`: the page. Whatever it complains of or loads besides itself fails the test."""
    complaints: list[str] = []

    def open_at(width: int = 1200, **options: Any) -> Any:
        tab = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(f"a prompt became a script: {dialog.message}"))
        own = (f"file://{written}/report.html", "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
        tab.goto(f"file://{written}/report.html")
        return tab

    yield open_at
    assert not complaints


@pytest.mark.browser
def test_in_a_browser_a_figure_opens_its_pictures_and_a_head_sorts_its_table(opened: Callable[..., Any]) -> None:
    tab = opened()
    tab.locator('.verdict button.pick[data-model="export"]').click()
    assert tab.locator("#drill .card").count() == 9
    assert set(tab.locator("#drill .card").evaluate_all("cards => cards.map(card => card.dataset.outcome)")) == {"leaked"}
    tab.get_by_role("button", name=f"all {N}").click()
    assert tab.locator("#drill .card").count() == N
    assert tab.locator("#drill-count").inner_text() == f"{N} of {N} pictures."
    tab.locator("#drill-detectors select").select_option("clip")
    assert tab.get_by_role("button", name=f"gone {N - 9}").count() == 1
    tab.locator("#drill-order").select_option("score")
    outcomes = tab.locator("#drill .card").evaluate_all("cards => cards.map(card => card.dataset.outcome)")
    assert outcomes == ["leaked"] * 9 + ["gone"] * (N - 9)
    tab.keyboard.press("Escape")
    assert not tab.locator("#drill").is_visible()

    tab.locator('#leakage button.pick[data-set="plain|erased neon"][data-model="export"]').first.click()
    tab.get_by_role("button", name=f"all {N}").click()
    assert tab.get_by_text(HOSTILE).count() >= 1
    assert tab.locator("#drill img, #drill script").count() == 0
    tab.keyboard.press("Escape")

    table = tab.locator("#speed table").first

    def medians() -> list[str]:
        return re.findall(r"15\d ms|14\d ms|failed", " ".join(table.locator("tbody tr").all_inner_texts()))

    table.get_by_role("button", name="median").click()
    assert medians() == ["150 ms", "141 ms", "failed"]
    table.get_by_role("button", name="median").click()
    assert medians() == ["141 ms", "150 ms", "failed"]  # what failed stays last


@pytest.mark.browser
def test_in_a_browser_the_page_fits_a_phone_in_the_dark(opened: Callable[..., Any]) -> None:
    tab = opened(width=360, color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.locator(".verdict button.pick").first.click()
    assert tab.evaluate("document.getElementById('drill').scrollWidth") <= 360
    assert sum(map(int, re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor")))) < 200


@pytest.mark.browser
def test_without_a_script_the_page_says_all_its_figures(opened: Callable[..., Any]) -> None:
    tab = opened(java_script_enabled=False)
    assert "≤" in tab.locator(".verdict .figure").inner_text()
    assert tab.locator("#leakage").get_by_text("9/40").count() >= 1
    assert tab.locator("button.pick").count() == 0
