"""What one browser was given and what it has done. Everything is on the disk before it is acknowledged, so a reload, a lost connection
and a stopped server all go on where they were.

    <root>/<key>/device.json        what the browser said of itself
    <root>/<key>/times.json         cold start and latencies; gone once a report holds them, so that no report shows old times
    <root>/<key>/pictures/*.png     by prompt and seed

The key is of everything that a time or a picture depends on: manifest, drawing, pages, device. So another device begins anew.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgesafe import artifact

from ..leakage import Question
from . import records
from .records import Rejected
from .work import Work, key

DEVICE, TIMES, PICTURES = "device.json", "times.json", "pictures"
VOLATILE = ("clock_ms",)  # what the same browser may tell otherwise the next time


class Session:
    """The server's thread writes, the main thread waits; one lock for both."""

    def __init__(self, root: Path, work: Work, pages_sha256: str, name: str | None = None) -> None:
        self.root, self.work, self.pages_sha256, self.name = root, work, pages_sha256, name
        self.asked = {key(question): question for question in work.questions}
        self.device: dict[str, Any] | None = None
        self.doing: tuple[str, float | None] = ("waiting", None)
        self.faults: list[str] = []
        self.finished = threading.Event()
        self._lock = threading.RLock()

    def hello(self, device: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what is left to do for this device."""
        device = {name: records.printable(value) if isinstance(value, str) else value for name, value in device.items()}
        with self._lock:
            self.device = device
            (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
            artifact.write_whole(self.folder / DEVICE, json.dumps(device, indent=1) + "\n")
            left = self.left()
            self._check_finished(left)
            return left

    @property
    def folder(self) -> Path:
        if self.device is None:
            raise Rejected(409, "This page has not said which browser it is. Reload it")
        facts = {name: value for name, value in self.device.items() if name not in VOLATILE}
        given = [self.work.manifest_sha256, self.work.settings, self.work.threads, self.work.backend, self.pages_sha256, self.name, facts]
        return self.root / hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:24]

    def left(self) -> dict[str, Any]:
        with self._lock:
            times, there = self.times(), {path.stem for path in (self.folder / PICTURES).glob("*.png")}
            missing = [{"id": k, "prompt": q.prompt, "seed": q.seed} for k, q in self.asked.items() if k not in there]
            parts = [part.part for part in self.work.parts if part.part not in times["latency"]]
            return {"cold": times["cold"] is None, "parts": parts, "pictures": missing}

    def times(self) -> dict[str, Any]:
        """{"cold": record or None, "latency": {part: record}}"""
        path = self.folder / TIMES
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cold": None, "latency": {}}

    def put_cold(self, record: Mapping[str, Any]) -> int:
        return self._put(lambda times: times | {"cold": record})

    def put_latency(self, part: str, record: Mapping[str, Any]) -> int:
        known = {given.part: given for given in self.work.parts}
        if part not in known:
            raise Rejected(404, f"latency: no part {part!r} was asked for; known: {', '.join(known)}")
        if (n := len(record.get("samples_ms", ()))) > known[part].runs:
            raise Rejected(422, f"latency of {part}: {n} runs, and {known[part].runs} were asked for")
        return self._put(lambda times: times | {"latency": times["latency"] | {part: record}})

    def put_picture(self, name: str, body: bytes) -> int:
        if name not in self.asked:
            raise Rejected(404, f"picture: nobody asked for {records.printable(name)[:40]!r}")
        data = records.picture(body, self.work.width, self.work.height)
        with self._lock:
            place = self.folder / PICTURES / f"{name}.png"
            part = place.with_suffix(".part")
            part.write_bytes(data)
            part.replace(place)
            return self._check_finished(self.left())

    def put_progress(self, record: Mapping[str, Any]) -> None:
        self.doing = (record["doing"], record["share"])

    def put_fault(self, record: Mapping[str, Any]) -> None:
        with self._lock:
            self.faults.append(records.printable(record["message"]))

    def pictures(self, questions: tuple[Question, ...]) -> np.ndarray:
        """uint8 (N, H, W, 3)"""
        found = []
        for question in questions:
            with Image.open(self.folder / PICTURES / f"{key(question)}.png") as image:
                found.append(np.asarray(image.convert("RGB")))
        return np.stack(found)

    def reported(self) -> None:
        """A report holds the times now; the next one shall take its own."""
        (self.folder / TIMES).unlink(missing_ok=True)

    @property
    def total(self) -> int:
        return 1 + len(self.work.parts) + len(self.asked)

    def _put(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
        with self._lock:
            artifact.write_whole(self.folder / TIMES, json.dumps(change(self.times())) + "\n")
            return self._check_finished(self.left())

    def _check_finished(self, left: Mapping[str, Any]) -> int:
        """How many things are left to do."""
        n = int(left["cold"]) + len(left["parts"]) + len(left["pictures"])
        if n == 0:
            self.finished.set()
        return n
