"""`edgesafe export`: a run or a model as files for a device."""

from pathlib import Path

import click

GROUPS = {  # heading of --help -> parameters, in this order
    "Options": ("target", "precision", "out", "force", "height", "width"),
    "Fewer bits (one of three; coreml: any, onnx and openvino: --quantize)": ("palettize", "quantize", "mixed", "keep_erased"),
    "Core ML (--target coreml)": ("batch", "deployment", "vae_encoder", "chunked", "attention", "own_scheduler"),
    "ONNX and OpenVINO (--target onnx, openvino)": ("static",),
    "The check at the end": ("parity_steps", "gate_db", "allow_loss"),
}


class Grouped(click.Command):
    """Lists its options under the headings of GROUPS."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = {
            parameter.name: row
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (row := parameter.get_help_record(ctx))
        }
        listed = {name for names in GROUPS.values() for name in names}
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([rows[name] for name in names])
        formatter.write_dl([row for name, row in rows.items() if name not in listed])


@click.command(cls=Grouped)
@click.argument("source", required=False)
@click.option("--target", metavar="NAME", default="onnx", show_default=True, help="onnx, openvino, or coreml for Apple's devices.")
@click.option("--precision", metavar="fp32|fp16", help="Of weights and arithmetic. Default: fp32 for onnx, fp16 for coreml.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Default: the run's name, target, precision, compression.")
@click.option("--force", is_flag=True, help="Replace the folder if it exists.")
@click.option("--height", metavar="PIXELS", type=int, help="Fixed for coreml and --static, else of the check. Default: the model's.")
@click.option("--width", metavar="PIXELS", type=int, help="As --height; need not be equal to it.")
@click.option("--palettize", metavar="8|6|4", type=int, help="Bits of an index into a palette of 256, 64 or 16 values a tensor.")
@click.option("--quantize", metavar="int8|int4", help="Whole numbers with a scale. onnx and openvino int8: activations too, so faster.")
@click.option("--mixed", metavar="NdB|NMiB", help="Palettes of as few bits a layer as keep the UNet at 40dB, or within 300MiB.")
@click.option(
    "--keep-erased/--no-keep-erased", default=True, show_default=True, help="Keep layers wider whose erasure rounding would undo."
)
@click.option("--batch", metavar="1|2", type=int, help="The UNet's fixed batch. Default: 2, with and without the prompt at once.")
@click.option("--deployment", metavar="iOS16|iOS17|iOS18", help="The oldest system that must run it. Default: iOS17.")
@click.option("--vae-encoder", is_flag=True, help="Write VAEEncoder too; drawing from text does not need it.")
@click.option("--chunked", is_flag=True, help="Write the UNet as two files, each small enough for an iPhone's memory.")
@click.option(
    "--attention", metavar="FORM", default="original", show_default=True, help="split-einsum: for the Neural Engine before iOS 18."
)
@click.option("--own-scheduler", is_flag=True, help="The app samples itself: allows models that Apple's schedulers cannot sample.")
@click.option("--static", is_flag=True, help="Fix --batch, --height and --width in the files, for runtimes that want them so.")
@click.option(
    "--parity-steps", metavar="N", type=int, default=25, show_default=True, help="Sampling steps drawn and compared; fewer: sooner."
)
@click.option("--gate", "gate_db", metavar="DB", type=float, default=35.0, show_default=True, help="Lowest PSNR of any part against torch.")
@click.option("--allow-loss", metavar="REASON", help="Keep an export below the gate; the reason is written into its manifest.")
def export(**options: object) -> None:
    """Write SOURCE for a device, and compare it with torch.

    SOURCE is a run, a diffusers pipeline folder, emoji:teacher, emoji:student or a Hugging Face id. Default: the newest finished run.

    \b
      edgesafe export                                        ONNX of the newest run, as Optimum and diffusers read it
      edgesafe export --target coreml --palettize 6          for Apple's ml-stable-diffusion, the UNet in 6 bits
      edgesafe export --target onnx --quantize int8          for processors without fp16
      edgesafe export --target coreml --mixed 40dB --chunked for an iPhone
    """
    from edgesafe.export import ExportConfig, run

    run(ExportConfig(**options))
