"""The schema refuses what it should, and the page stands alone."""

import copy
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from edgesafe.benchmarks import report
from edgesafe.benchmarks.bench import BenchConfig, run

from .conftest import Painter

UNITS = ("_ms", "_mib", "_db", "_points", "_pictures", "_share", "_levels", "_width")
UNITLESS = {"schema_version", "numerator", "denominator", "rate", "wilson95", "asked", "broken_with_style"}
UNITLESS |= {"prompts", "pictures", "fid", "kid"}
COUNTS_AND_SETTINGS = {"steps", "guidance", "seed", "pictures_per_cell", "threads", "batch", "n", "warm_up"}


@pytest.fixture(scope="module")
def page(onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory, paint_with: Callable) -> tuple[dict[str, Any], str]:
    """report.json and report.html."""
    out = tmp_path_factory.mktemp("report") / "report"
    with pytest.MonkeyPatch.context() as patch:
        paint_with(patch, {"export": Painter(["neon"], leak_every=7), "emoji:student": Painter([]), "emoji:teacher": Painter([])})
        folder = run(BenchConfig(onnx_folder, out, pictures=8), {"processor": "<b>a test</b>"}, Console(quiet=True))
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report.schema())


def numbers(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name


def test_every_number_has_its_unit_in_its_name_or_is_a_count(page: tuple[dict[str, Any], str]) -> None:
    record = copy.deepcopy(page[0])
    record["artifact"] |= {"steps": [], "files": {}}  # as the manifest has them
    record["leakage"]["from_cache_pictures"] = {}  # by model
    found = {name for name in numbers(record) if not name.endswith(UNITS)}
    assert found <= UNITLESS | COUNTS_AND_SETTINGS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("verdicts", 0, "upper95_share"), 7.5),
        (("latency", 0, "median_ms"), "fast"),
        (("leakage", "concepts", 0, "export", "leaked", "wilson95"), [0.1]),
        (("memory", 0, "peak"), 1),
        (("sizes", 0, "status"), "skipped"),
    ],
)
def test_the_schema_refuses(page: tuple[dict[str, Any], str], path: tuple, value: Any) -> None:
    record = copy.deepcopy(page[0])
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        report.check(record)


def test_a_measured_latency_needs_its_spread(page: tuple[dict[str, Any], str]) -> None:
    record = copy.deepcopy(page[0])
    del record["latency"][0]["iqr_ms"]
    with pytest.raises(jsonschema.ValidationError, match="iqr_ms"):
        report.check(record)


def test_the_page_needs_nothing_from_elsewhere(page: tuple[dict[str, Any], str]) -> None:
    text = page[1]
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert set(re.findall(r'src="(.{10})', text)) == {"data:image"}
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', text))
    assert not re.search(r"<script|<link|@import|url\(", text)


def test_the_page_says_first_how_much_leaks_and_never_safe(page: tuple[dict[str, Any], str]) -> None:
    record, text = page
    assert text.index(record["verdicts"][0]["sentence"]) < text.index("<img") < text.index('id="leakage"') < text.index('id="limits"')
    words = re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.S))
    assert not re.search(r"\bsafe\b", words, re.IGNORECASE)


def test_the_page_shows_every_picture_and_escapes_what_it_is_given(page: tuple[dict[str, Any], str]) -> None:
    record, text = page
    assert [column["model"] for column in record["grid"]["columns"]] == ["base", "control", "export"]
    assert text.count("<img") == 3 * len(record["grid"]["rows"]) == 3 * 10
    assert "<b>a test</b>" not in text
    assert "&lt;b&gt;a test&lt;/b&gt;" in text


def test_limits_are_said(page: tuple[dict[str, Any], str]) -> None:
    record, text = page
    assert any("establish nothing about a Stable Diffusion model" in sentence for sentence in record["limits"])
    assert any("biased upward" in sentence for sentence in record["limits"])
    assert all(sentence in html.unescape(text) for sentence in record["limits"])


TIMES = [(None, "–"), (1.234, "1.23 ms"), (12.34, "12.3 ms"), (123.4, "123 ms"), (1234.0, "1.23 s"), (12340.0, "12.3 s")]


@pytest.mark.parametrize(("value", "text"), TIMES)
def test_milliseconds(value: float | None, text: str) -> None:
    assert report.milliseconds(value) == text
