"""How long a cold start and each part of a warm run take, and the memory at its peak. `child.call` runs these in fresh processes.

Nothing heavy is imported at the top: the import is part of what is measured.
"""

import time
from collections.abc import Callable
from typing import Any

PICTURES, CALLS = 10, 30  # timed runs of a picture; of one component
LIMIT_S, AT_LEAST = 30.0, 3  # a large model's runs stop at the limit, but not before the third
PROMPT, SEED = "red apple", 0


def cold(source: str, runtime: str, steps: int, guidance: float, sampler: str, threads: int, spawned_s: float) -> dict[str, Any]:
    """From the start of the process to the first picture, at batch 1."""
    from . import memory, runtimes

    cls = runtimes.check(runtime)
    cls.import_libraries()
    imported, base_mib = time.time(), memory.peak_mib()
    model = cls.open(source, threads)
    opened = time.time()
    model.pixels([PROMPT], [SEED], steps=steps, guidance=guidance, sampler=sampler)
    drawn = time.time()
    return {
        "libraries_ms": round(1e3 * (imported - spawned_s), 1),
        "load_ms": round(1e3 * (opened - imported), 1),
        "first_picture_ms": round(1e3 * (drawn - opened), 1),
        "total_ms": round(1e3 * (drawn - spawned_s), 1),
        "import_only_peak_mib": round(base_mib, 1),
        "peak_mib": round(memory.peak_mib(), 1),
    }


def warm(source: str, runtime: str, steps: int, guidance: float, sampler: str, threads: int, spawned_s: float) -> dict[str, Any]:
    """Milliseconds of each timed run: whole pictures at batch 1, and each component alone; the UNet at the batch that guidance asks for."""
    import torch

    from edgesafe import sampling

    from . import runtimes

    torch.set_num_threads(threads)
    model = runtimes.check(runtime).open(source, threads)
    given = model.conditions([PROMPT])
    rows = 1 if guidance == 1 else 2
    latents = sampling.starting_latents([SEED], model.latent_shape)
    scheduler = sampling.scheduler(sampler, model.scheduler_config)
    scheduler.set_timesteps(steps)
    batch, both, t = torch.cat([latents] * rows), [torch.cat([x] * rows) for x in given], scheduler.timesteps[0]
    with torch.no_grad():
        return {
            "picture": timed(lambda: model.pixels([PROMPT], [SEED], steps=steps, guidance=guidance, sampler=sampler), PICTURES, 2),
            "unet_call": timed(lambda: model.unet_call(batch, t, *both), CALLS, 5),
            "text_encoder": timed(lambda: model.encode([PROMPT]), CALLS, 3),
            "vae_decoder": timed(lambda: model.decode(latents), CALLS, 3),
        }


def timed(run: Callable[[], Any], n: int, warm_up: int, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Up to `n` runs after the warm-up: {"warm_up", "samples_ms"}."""
    begun = time.perf_counter()
    warmed = 0
    while warmed < warm_up and (warmed == 0 or time.perf_counter() - begun < limit_s):
        run()
        warmed += 1
    begun = time.perf_counter()
    samples: list[float] = []
    while len(samples) < n and (len(samples) < AT_LEAST or time.perf_counter() - begun < limit_s):
        start = time.perf_counter()
        run()
        samples.append(1e3 * (time.perf_counter() - start))
    return {"warm_up": warmed, "samples_ms": samples}
