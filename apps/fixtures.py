"""`python -m edgesafe.apps.fixtures`: what Python gives, as JSON that the tests of every app read.

    tokenizer.json    1,000 strings and the ids that CLIPTokenizerFast gives with the emoji model's files, not padded
    random.json       torch.randn of a CPU generator, by seed and shape
    schedulers.json   timesteps, and the latents after each step on given predictions, of diffusers' schedulers
    pipeline.json     pictures that onnxruntime draws with the emoji student, exported to ONNX

Predictions and latents are noise of `random.json`'s kind, named by their seeds, so that they need no room here.
"""

import base64
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from edgesafe import model, sampling

FOLDER = Path(__file__).parent / "fixtures"
STUDENT = "emoji:student"
SEEDS = (0, 1, 7, 42, 2**31, 2**32 - 1, 2**40 + 5)
SHAPES = ((3,), (15,), (16,), (4, 5), (2, 3, 7), (8, 8, 8))
DIGITS = 7  # significant ones: what fp32 holds
SIZE = 6  # latents' values in schedulers.json; odd places in the noise, so small
STEPS = {"ddim": (1, 3, 25, 50), "pndm": (1, 2, 4, 25), "dpm++": (1, 2, 14, 25)}
CONFIGS: dict[str, dict[str, Any]] = {
    "emoji": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1},
    "v": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "prediction_type": "v_prediction"},
    "linear": {"beta_schedule": "linear", "timestep_spacing": "linspace", "set_alpha_to_one": True},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
}
PICTURES = (  # prompt, seed, steps, guidance, sampler
    ("shark neon style", 0, 6, 4.0, "ddim"),
    ("Two red  Äpfel, don't!", 2**32 + 3, 5, 1.0, "pndm"),
    ("red apple", 1, 6, 7.5, "dpm++"),
)


def tokenizer() -> dict[str, Any]:
    """[string, its ids as one string of numbers to the base 36]; "folder" is where the repository has vocab.json and merges.txt."""
    import numpy as np
    from transformers import CLIPTokenizerFast

    from edgesafe.export import tokens

    folder = model.load(STUDENT).folder / "tokenizer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    texts = tokens.strings()
    rows = theirs(texts, truncation=True, max_length=77).input_ids
    made = [[text, " ".join(np.base_repr(one, 36).lower() for one in row)] for text, row in zip(texts, rows, strict=True)]
    return {"folder": "edgesafe/emoji/student/tokenizer", "length": 77, "pad": theirs.pad_token_id, "rows": made}


def random() -> dict[str, Any]:
    """The first and last 20 values of each."""
    rows = []
    for seed in SEEDS:
        for shape in SHAPES:
            values = noise(seed, shape).flatten()
            ends = values if len(values) <= 40 else [*values[:20], *values[-20:]]
            rows.append({"seed": seed, "shape": list(shape), "ends": rounded(ends)})
    return {"rows": rows}


def schedulers() -> dict[str, Any]:
    """Latents of seed 0, and the prediction of step i (from 0) of seed i + 1."""
    rows = []
    for name, config in CONFIGS.items():
        for sampler, counts in STEPS.items():
            for steps in counts:
                rows.append({"config": name, "sampler": sampler, "steps": steps} | _steps(sampler, config, steps))
    return {"configs": CONFIGS, "size": SIZE, "rows": rows}


def _steps(sampler: str, config: dict[str, Any], steps: int) -> dict[str, Any]:
    scheduler = sampling.scheduler(sampler, config)
    scheduler.set_timesteps(steps)
    latents, seen = noise(0, (SIZE,)), []
    for i, t in enumerate(scheduler.timesteps):
        latents = scheduler.step(noise(i + 1, (SIZE,)), t, latents, return_dict=False)[0]
        seen.append(rounded(latents))
    kept = seen if len(seen) <= 6 else [*seen[:5], seen[-1]]
    return {"timesteps": [int(t) for t in scheduler.timesteps], "latents": kept}


def pipeline(export: Path | None = None) -> dict[str, Any]:
    """`export`: the student as ONNX in fp32; made in a temporary folder if None. Pictures as base64 of rows of RGB bytes."""
    from edgesafe.benchmarks import runtimes

    if export is None:
        from edgesafe.export import ExportConfig, run

        with tempfile.TemporaryDirectory() as folder:
            return pipeline(run(ExportConfig(STUDENT, "onnx", "fp32", Path(folder) / "student")))
    artist, rows = runtimes.load(str(export), "onnxruntime", 1), []
    for prompt, seed, steps, guidance, sampler in PICTURES:
        settings: dict[str, Any] = {"steps": steps, "guidance": guidance, "sampler": sampler}
        (picture,) = artist.generate([prompt], [seed], **settings)
        size = {"height": picture.shape[0], "width": picture.shape[1]}
        rows.append({"prompt": prompt, "seed": seed, **settings, **size, "rgb": base64.b64encode(picture.tobytes()).decode()})
    return {"model": STUDENT, "rows": rows}


def noise(seed: int, shape: tuple[int, ...]) -> Any:
    return sampling.starting_latents([seed], shape)[0]  # type: ignore[arg-type] # any number of dimensions


def rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.{DIGITS}g}") for value in values]


MAKERS = {"tokenizer.json": tokenizer, "random.json": random, "schedulers.json": schedulers, "pipeline.json": pipeline}


def text(made: dict[str, Any]) -> str:
    """One line a row."""
    lines = []
    for key, value in made.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            inner = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in value)
            lines.append(f'"{key}": [\n{inner}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value, ensure_ascii=False, separators=(",", ":"))}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        path = FOLDER / name
        path.write_text(text(make()), encoding="utf-8")
        print(path, path.stat().st_size, file=sys.stderr)


if __name__ == "__main__":
    main()
