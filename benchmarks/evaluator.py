"""The Core ML evaluator beside torch eager: one UNet call on the same inputs, alternately in one run.

python -m edgesafe.benchmarks.evaluator MODEL FOLDER     FOLDER: what `edgesafe export --target coreml` or `edgesafe.export.write` wrote
"""

import statistics
import time
from pathlib import Path

import click
import torch


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--calls", default=5, show_default=True, type=click.IntRange(1))
def main(source: str, folder: Path, calls: int) -> None:
    """Print the median seconds of both in fp32, their ratio, and how far apart their outputs are in dB."""
    from diffusers import UNet2DConditionModel

    from edgesafe import mil, model, widen

    place = Path(model.resolve(source)) / "unet"
    unet = widen.read(UNet2DConditionModel, place, sorted(place.glob("*.safetensors")), torch.float32)
    program = mil.load(folder / "Unet.mlpackage")
    torch.manual_seed(0)
    inputs = {name: torch.randn(port.shape) for name, port in program.inputs.items()}
    inputs["timestep"] = torch.full(program.inputs["timestep"].shape, 500.0)
    states = inputs["encoder_hidden_states"].squeeze(2).transpose(1, 2)

    def eager() -> torch.Tensor:
        with torch.no_grad():
            return unet(inputs["sample"], inputs["timestep"], states).sample

    runs = {"torch eager": eager, "evaluator": lambda: program(**inputs)["noise_pred"]}
    reference, got = (run() for run in runs.values())  # the first call dequantises, and warms up
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(calls):
        for name in list(runs) if i % 2 == 0 else list(runs)[::-1]:
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    eager_s, evaluator_s = (statistics.median(row) for row in times.values())
    rmse = float((reference - got).square().mean().sqrt())
    db = 20 * torch.log10(reference.abs().max() / rmse)
    click.echo(f"torch eager {eager_s:.3f} s, evaluator {evaluator_s:.3f} s, ratio {evaluator_s / eager_s:.2f}; {float(db):.1f} dB apart")


if __name__ == "__main__":
    main()
