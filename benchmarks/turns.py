"""Two models that draw in turn, each warm in a process of its own: times in pairs, so that a busy machine slows down both alike.

    parent -> child    {"source": ..., "runtime": ..., ...}, then one line for each run: the part's name
    child -> parent    {"load_ms": ...} once it is open, then {"ms": ...} for each run; {"peak_mib": ...} when asked for "memory"

Nothing heavy is imported at the top: what the child imports is its own memory.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgesafe.errors import EdgeSafeError

from .child import MARK, CellFailed, environment, last_words

if TYPE_CHECKING:
    from .runtimes.runtime import Runtime

PARTS = ("picture", "unet_call", "text_encoder", "vae_decoder")
PROMPT, SEED = "red apple", 0


class Player:
    """`with Player(source, "onnxruntime", threads=2) as player: player.play("picture")` -> ms.

    Raises: CellFailed with the child's last words.

    `drawing`: steps, guidance and sampler; `size_px`: of the UNet call and the VAE, the model's own by default.
    """

    def __init__(self, source: str, runtime: str, threads: int, drawing: dict[str, Any] | None = None, size_px: int | None = None) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        command = [sys.executable, "-m", __spec__.name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment(threads)
        )
        spec = {"source": source, "runtime": runtime, "threads": threads, "drawing": drawing or {}, "size_px": size_px}
        self.to: Any = self.process.stdin
        self.back: Any = self.process.stdout
        try:
            self.opened = self._ask(json.dumps(spec))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def play(self, part: str) -> float:
        return self._ask(part)["ms"]

    def memory(self) -> dict[str, float]:
        """{"import_only_peak_mib", "peak_mib"} until now."""
        return self._ask("memory")

    def _ask(self, line: str) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # the child's last words say more
            self.to.write(line + "\n")
            self.to.flush()
        while answer := self.back.readline():
            if answer.startswith(MARK):
                return json.loads(answer.removeprefix(MARK))
        code = self.process.wait()
        self.log.seek(0)
        if code == -signal.SIGKILL:
            raise CellFailed("the measuring process was killed by signal 9 (out of memory?)")
        raise CellFailed(last_words(self.log.read(), code))

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.to.close()
        try:
            self.process.wait(timeout=10 if error is None else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.back.close()
        self.log.close()


def in_turn(
    players: tuple[Player, Player], part: str, n: int, warm_up: int, limit_s: float, at_least: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of n runs of each, in pairs whose first changes place; fewer when the limit is over."""
    for _ in range(warm_up):
        for player in players:
            player.play(part)
    begun = time.perf_counter()
    made: tuple[list[float], list[float]] = ([], [])
    while len(made[0]) < n and (len(made[0]) < at_least or time.perf_counter() - begun < limit_s):
        for i in (0, 1) if len(made[0]) % 2 == 0 else (1, 0):
            made[i].append(players[i].play(part))
    return made


def runs(model: Any, drawing: dict[str, Any], size_px: int | None) -> dict[str, Callable[[], Any]]:
    """Part -> what is timed. The UNet has the batch that guidance asks for, and in the steps of a picture a new timestep each time."""
    import torch

    from edgesafe import sampling

    options = {"steps": sampling.DEFAULT_STEPS, "guidance": sampling.DEFAULT_GUIDANCE, "sampler": sampling.DEFAULT_SAMPLER} | drawing
    channels, height, width = model.latent_shape
    if size_px:
        height = width = size_px // 8
    latents = sampling.starting_latents([SEED], (channels, height, width))
    guided = options["guidance"] != 1
    rows = 2 if guided else 1
    steps = model.scheduler(options["sampler"])
    steps.set_timesteps(options["steps"])
    times = list(steps.timesteps)
    state: dict[str, Any] = {"i": 0}

    def unet_call() -> Any:
        if "given" not in state:
            text, empty = model.conditions([PROMPT]), model.conditions([""])
            state["given"] = [torch.cat([a, b]) if guided else a for a, b in zip(text, empty, strict=True)]
        state["i"] += 1
        return model.unet_call(torch.cat([latents] * rows), times[state["i"] % len(times)], *state["given"])

    return {
        "picture": lambda: model.pixels([PROMPT], [SEED], **options),
        "unet_call": unet_call,
        "text_encoder": lambda: model.encode([PROMPT]),
        "vae_decoder": lambda: model.decode(latents),
    }


def class_of(runtime: str) -> "type[Runtime]":
    """A runtime's or a peer's."""
    from . import runtimes

    if runtime in runtimes.RUNTIMES:
        return runtimes.RUNTIMES[runtime]
    from .peers import PEERS

    return PEERS[runtime]


def main() -> None:
    from . import memory

    def answer(**facts: Any) -> None:
        print(MARK + json.dumps(facts, allow_nan=False), flush=True)

    spec = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(spec["threads"])
    cls = class_of(spec["runtime"])
    cls.import_libraries()
    imported_mib, begun = memory.peak_mib(), time.perf_counter()
    if reason := cls.why_not(spec["source"]):
        raise EdgeSafeError(reason)
    model = cls.open(spec["source"], spec["threads"])
    parts = runs(model, spec["drawing"], spec["size_px"])
    answer(load_ms=round(1e3 * (time.perf_counter() - begun), 1))
    for line in sys.stdin:
        part = line.strip()
        if part == "memory":
            answer(import_only_peak_mib=round(imported_mib, 1), peak_mib=round(memory.peak_mib(), 1))
            continue
        start = time.perf_counter()
        with torch.no_grad():
            parts[part]()
        answer(ms=1e3 * (time.perf_counter() - start))


if __name__ == "__main__":
    main()
