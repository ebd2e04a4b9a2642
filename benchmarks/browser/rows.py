"""The device in a report: its name, its rows among those of this computer's runtimes, and its pictures held against theirs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from edgesafe.errors import EdgeSafeError
from edgesafe.metrics.pixels import difference
from edgesafe.metrics.spread import summary

from .. import looking
from ..audit import Audit
from ..gallery import Order, Progress
from ..leakage import Cell, kept, leakage
from ..looking import Looked
from .session import Session

WORDS = {"wasm": "WASM", "webgpu": "WebGPU"}
BROWSERS = (  # in this order: each says that it is some of the later ones, too
    ("Edge", r"\bEdg(?:A|iOS)?/(\d+)"),
    ("Opera", r"\bOPR/(\d+)"),
    ("Samsung Internet", r"\bSamsungBrowser/(\d+)"),
    ("Firefox", r"\b(?:Firefox|FxiOS)/(\d+)"),
    ("Chrome", r"\b(?:Headless)?(?:Chrome|CriOS)/(\d+)"),
    ("Safari", r"\bVersion/(\d+)[\d.]*(?: Mobile/\w+)? Safari/"),
)
SYSTEMS = (
    ("Android", r"\bAndroid\b"),
    ("iPhone", r"\biPhone\b"),
    ("iPad", r"\biPad\b"),
    ("Windows", r"\bWindows\b"),
    ("macOS", r"\bMac OS X\b"),
    ("ChromeOS", r"\bCrOS\b"),
    ("Linux", r"\bLinux\b"),
)
COARSE = "this browser's clock steps by {:g} ms, too coarse for it"


def browser(user_agent: str) -> str:
    """ "Chrome 141"; "a browser" where it does not say so."""
    return next((f"{name} {found[1]}" for name, pattern in BROWSERS if (found := re.search(pattern, user_agent))), "a browser")


def system(user_agent: str) -> str:
    return next((name for name, pattern in SYSTEMS if re.search(pattern, user_agent)), "device")


def label(device: Mapping[str, Any], name: str | None) -> str:
    """As a runtime's name: "Pixel 8, Chrome 141, WASM with 4 threads" """
    who = name or device["model"] or system(device["user_agent"])
    threads = device["threads"]
    how = WORDS[device["backend"]] + (f" with {threads} thread{'s' if threads != 1 else ''}" if device["backend"] == "wasm" else "")
    return f"{who}, {browser(device['user_agent'])}, {how}"


def timed(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Rows for the report's cold_starts and latency."""
    device, times = session.device or {}, session.times()
    facts = {"what": "export", "runtime": label(device, session.name), "threads": device["threads"]}
    cold, measured = times["cold"], {"status": "measured", "reason": None}
    figures = {key: round(cold[key], 1) for key in ("load_ms", "first_picture_ms")}
    total = round(cold["load_ms"] + cold["first_picture_ms"], 1)
    latency = []
    for part in session.work.parts:
        row = facts | {"part": part.part, "batch": 2 if part.part == "unet_call" and session.work.drawing.guidance != 1 else 1}
        posted = times["latency"][part.part]
        figure = summary(posted["samples_ms"]) if "samples_ms" in posted else {"median_ms": None}
        if reason := posted.get("reason") or (None if figure["median_ms"] else COARSE.format(device["clock_ms"])):
            latency.append(row | {"status": "failed", "reason": reason})
        else:
            latency.append(row | measured | {"warm_up": posted["warm_up"]} | figure)
    return {"cold_starts": [facts | measured | {"libraries_ms": None} | figures | {"total_ms": total}], "latency": latency}


def facts(session: Session) -> dict[str, Any]:
    """The report's "device", before its pictures were held against others."""
    device, cold = session.device or {}, session.times()["cold"]
    told = {key: device[key] for key in ("user_agent", "backend", "threads", "cores", "memory_gib", "adapter", "isolated", "clock_ms")}
    kept = {key: cold[key] for key in ("download_ms", "download_bytes", "held_mib")}
    return {"name": label(device, session.name), **told, **kept, "pictures": len(session.asked), "beside": None}


def beside(audit: Audit, runtime: str, progress: Progress) -> dict[str, Any]:
    """The same questions drawn by `runtime` here: how far the pictures lie apart, and under "rates" what the detectors see in both."""
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for (probe, title), order in audit.orders.items():
        theirs = audit.looks.get((probe, title, "export"))
        if theirs is None:
            continue
        here = audit.gallery.draw(replace(order, runtime=runtime), progress)
        pairs.append((audit.gallery.draw(order), here))
        ours = looking.look(audit.detectors, here, order.cell, audit.exhibit.concepts)
        rows += _rates(order, theirs, ours)
    if not pairs:
        raise EdgeSafeError("no picture was asked for")
    a, b = (torch.from_numpy(np.concatenate(column)).permute(0, 3, 1, 2).float() / 255 for column in zip(*pairs, strict=True))
    return {"rates": rows, **difference(a, b)}


def _rates(order: Order, theirs: Looked, ours: Looked) -> list[dict[str, Any]]:
    """Of what was erased how often it leaked, of all else how often it is right, as each detector sees it."""
    found = []
    for detector in (name for name in theirs.readings if name in ours.readings):
        device, desktop = (_rate(order.cell, looked.readings[detector]) for looked in (theirs, ours))
        if device is not None and desktop is not None:
            same = sum(a.label == b.label for a, b in zip(theirs.readings[detector], ours.readings[detector], strict=True))
            what = {"probe": order.probe.name, "cell": order.cell.title, "detector": detector}
            counted = "leaked" if order.cell.role == "erased" else "right"
            both = {"device": device, "desktop": desktop, "seen_alike": same, "agrees": agrees(device, desktop)}
            found.append(what | {"rate": counted} | both)
    return found


def agrees(device: Mapping[str, Any], desktop: Mapping[str, Any]) -> bool:
    """Whether the desktop's rate lies in the device's 95 % interval: the widest of those that it has."""
    low = min(device["wilson95"][0], device["clustered95"][0])
    return bool(low <= desktop["rate"] <= device["upper95"])


def _rate(cell: Cell, readings: Sequence[Any]) -> dict[str, Any] | None:
    return leakage(cell, readings)["leaked"] if cell.role == "erased" else kept(cell.questions, readings)["right"]
