"""`edgesafe export`: a run or a model as files for a device."""

from pathlib import Path

import click


@click.command()
@click.argument("source", required=False)
@click.option("--target", metavar="NAME", default="onnx", show_default=True, help="onnx, or coreml for Apple's devices.")
@click.option("--precision", metavar="fp32|fp16", help="Of weights and arithmetic. Default: fp32 for onnx, fp16 for coreml.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Default: the run's name with the target and precision.")
@click.option("--force", is_flag=True, help="Replace the folder if it exists.")
@click.option("--height", metavar="PIXELS", type=int, help="Fixed for coreml; for onnx the size of the parity check. Default: the model's.")
@click.option("--width", metavar="PIXELS", type=int, help="As --height.")
@click.option("--batch", metavar="1|2", type=int, help="coreml: the UNet's fixed batch. Default: 2, with and without the prompt at once.")
@click.option("--deployment", metavar="iOS16|iOS17|iOS18", help="coreml: the oldest system that must run it. Default: iOS17.")
@click.option("--vae-encoder", is_flag=True, help="coreml: write VAEEncoder too; drawing from text does not need it.")
def export(**options: object) -> None:
    """Write SOURCE for a device, and compare it with torch.

    SOURCE is a run, a diffusers pipeline folder, emoji:teacher, emoji:student or a Hugging Face id. Default: the newest finished run.
    """
    from edgesafe.export import ExportConfig, run

    run(ExportConfig(**options))
