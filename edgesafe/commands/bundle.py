"""`edgesafe bundle [EXPORT]`: a folder to ship: an export that passed the gate, with its audit, its policy and a model card."""

from pathlib import Path

import click


@click.command(short_help="Pack an export that passes the gate, with its audit and a model card.")
@click.argument("export", metavar="[EXPORT]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder. [default: bundles/<export>, or bundles/<export>-web]",
)
@click.option("--policy", metavar="FILE", type=click.Path(path_type=Path), help="policy.toml. [default: as `edgesafe gate` has it]")
@click.option("--audit", metavar="FILE", type=click.Path(path_type=Path), help="audit.json. [default: the newest of this export beside it]")
@click.option("--license", "licence", metavar="ID", help="Licence of the weights, such as openrail++. [emoji model: apache-2.0]")
@click.option("--notice", "notices", metavar="FILE", multiple=True, type=click.Path(path_type=Path), help="Licence text to put in.")
@click.option("--app", metavar="NAME", help="An app to put it into. web: a sticker maker for browsers.")
@click.option("--max-mib", metavar="MIB", type=float, help="Refuse an export that is larger than the app's people should fetch. [web: 500]")
@click.option("--force", is_flag=True, help="Replace the bundle if it exists.")
def bundle(
    export: Path | None,
    out: Path | None,
    policy: Path | None,
    audit: Path | None,
    licence: str | None,
    notices: tuple[Path, ...],
    app: str | None,
    max_mib: float | None,
    force: bool,
) -> None:
    """Pack EXPORT for an app: the exported files as they are, checked again, with audit.json, the policy as applied, the decision,
    a model card (README.md) and licence notices. An export that the gate refuses is refused here, with exit code 1.

    Without EXPORT, the newest finished export under runs/. The exported files are hard links where the disk allows it.

    \b
      edgesafe bundle runs/my-run-onnx-fp16 --policy policy.toml --out my-app/model
      edgesafe generate my-app/model "red apple"

    --app web writes a site instead, with that folder as its model/: the person's own device draws, offline after the first load, and
    what was erased and how it was measured is a tap away. It takes an export for onnx. To try it, and to show it to others, serve it:

    \b
      edgesafe bundle runs/my-run-onnx-fp16 --app web --out my-site
      python -m http.server 8000 --bind 127.0.0.1 --directory my-site
    """
    from rich.console import Console

    from edgesafe.benchmarks.bundle import BundleConfig, run

    click.echo(run(BundleConfig(export, out, policy, audit, licence, notices, app, max_mib, force), Console(stderr=True)))
