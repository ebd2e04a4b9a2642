"""A point stands where its figures put it, and no figure is lent to a model or runtime that it was not measured of."""

import copy
from itertools import pairwise
from typing import Any

import pytest

from edgesafe.benchmarks import page, plots

from .audits import flags, outcomes, right


def record(base: str = "emoji:teacher") -> dict[str, Any]:
    cell = {"probe": "noise", "concept": "neon", "detector": "judge", "export": outcomes(flags(10)), "control": outcomes(flags(32))}
    leak = {"concept": "neon", "detector": "judge", "worst_probe": "noise", "upper95_share": 0.4}
    state = {"part": "picture", "status": "measured"}
    return {
        "artifact": {"base_model": {"id": base}},
        "control": {"id": "emoji:student"},
        "audit": {
            "runtime": "onnxruntime",
            "verdicts": [leak],
            "cells": [cell | {"probe": "plain", "export": outcomes(flags(0)), "control": None}, cell],
            "kept": [{"cell": "rest", "export": right(flags(38, "right", "wrong")), "control": None}],
        },
        "sizes": [
            {"what": "export", "total_mib": 30.0},
            {"what": "base model", "total_mib": 40.0},
            {"what": "control", "total_mib": 20.0},
            {"what": "lost", "total_mib": None},
        ],
        "latency": [
            {"what": "export", "runtime": "onnxruntime", "median_ms": 100.0, **state},
            {"what": "export", "runtime": "openvino", "median_ms": 80.0, **state},
            {"what": "base model", "runtime": "torch", "median_ms": 400.0, **state},
            {"what": "export", "runtime": "onnxruntime", "median_ms": 4.0, "part": "unet_call", "status": "measured"},
            {"what": "export", "runtime": "torch", "part": "picture", "status": "failed"},
        ],
    }


def test_a_figure_is_of_the_model_and_runtime_that_drew() -> None:
    found = {point.label: point for point in plots.points(record())}
    assert set(found) == {"export, onnxruntime", "export, openvino", "base model, torch", "control"}
    assert found["export, onnxruntime"].leak["numerator"] == 10  # the worst probe's
    assert found["export, onnxruntime"].kept["numerator"] == 38
    assert found["export, openvino"].leak is found["export, openvino"].kept is None
    assert found["base model, torch"].leak is None
    assert found["control"].leak["numerator"] == 32
    assert (found["control"].latency_ms, found["control"].size_mib) == (None, 20.0)


def test_a_base_model_that_is_the_control_has_its_leak() -> None:
    found = {point.label: point for point in plots.points(record("emoji:student"))}
    assert found["base model, torch"].leak["numerator"] == 32


def test_without_an_audit_nothing_is_plotted() -> None:
    bare = record() | {"audit": None}
    assert plots.charts(plots.points(bare))["charts"] == []


def test_marks_stand_where_their_figures_put_them() -> None:
    rate = {"numerator": 1, "denominator": 4, "rate": 0.25, "wilson95": [0.0, 1.0], "clustered95": [0.1, 0.5], "upper95": 1.0}
    none, all_ = rate | {"rate": 0.0}, rate | {"rate": 1.0}
    found = plots.charts([plots.Point("a", None, None, size, leak) for size, leak in ((50.0, none), (100.0, rate), (200.0, all_))])
    (chart,) = found["charts"]
    marks = {mark["letter"]: mark for mark in chart["marks"]}
    assert [letter for letter, _ in found["key"]] == ["A", "B", "C"]
    assert marks["A"]["y"] == chart["floor"] == chart["bottom"]  # no strip: all have a figure
    assert marks["C"]["y"] == chart["top"]
    assert marks["B"]["y"] == pytest.approx(chart["floor"] - 0.25 * (chart["floor"] - chart["top"]), abs=0.1)
    assert marks["B"]["high"] == chart["top"]
    x = [marks[letter]["x"] - chart["left"] for letter in "ABC"]
    assert x[1] == pytest.approx(2 * x[0], abs=0.2)
    assert x[2] == pytest.approx(4 * x[0], abs=0.2)
    assert marks["C"]["x"] < chart["right"]


def test_marks_on_the_same_spot_stand_beside_each_other() -> None:
    rate = outcomes(flags(3))["leaked"]
    (chart,) = plots.charts([plots.Point(name, None, None, 10.0, rate) for name in "abc"])["charts"]
    at = sorted(mark["at"] for mark in chart["marks"])
    assert all(b - a >= 15 for a, b in pairwise(at))
    assert len({mark["x"] for mark in chart["marks"]}) == 1


@pytest.mark.parametrize("high", [0.07, 0.9, 1.0, 37.3, 448.0, 12000.0])
def test_ticks_are_few_and_round(high: float) -> None:
    found = plots.ticks(high)
    assert 3 <= len(found) <= 7
    assert found[0] == 0
    assert found[-1] <= high * 1.001
    assert f"{found[1]:e}"[0] in "125"


def test_several_reports_share_their_plots() -> None:
    other = copy.deepcopy(record())
    other["latency"][0]["median_ms"] = 50.0
    text = page.plotted({"int8 <b>": record(), "fp16": other})
    assert text.count("<svg") == 4
    assert "int8 &lt;b&gt;, onnxruntime" in text
    assert "fp16, onnxruntime" in text
    assert text.count("> control<") == 1  # the one that they share
    assert "<b>, onnx" not in text
