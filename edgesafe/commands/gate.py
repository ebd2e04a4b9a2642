"""`edgesafe gate [EXPORT]`: hold an export's audit against a policy."""

from pathlib import Path

import click


@click.command(short_help="Hold an export's audit against a policy.")
@click.argument("export", metavar="[EXPORT]", required=False, type=click.Path(path_type=Path))
@click.option("--policy", metavar="FILE", type=click.Path(path_type=Path), help="policy.toml. [default: the one that --print-policy shows]")
@click.option("--audit", metavar="FILE", type=click.Path(path_type=Path), help="audit.json. [default: the newest of this export beside it]")
@click.option("--json", "record", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write the decision here too.")
@click.option("--print-policy", is_flag=True, help="Print the default policy, to start one from, and stop.")
def gate(export: Path | None, policy: Path | None, audit: Path | None, record: Path | None, print_policy: bool) -> None:
    """Decide whether EXPORT may be shipped by a policy: exit code 0 if it passes, 1 if the policy refuses it, 2 if there is nothing
    to decide on, such as an export without an audit.

    Without EXPORT, the newest finished export under runs/. Nothing is measured here, and nothing written to the export.

    \b
      edgesafe gate --print-policy > policy.toml
      edgesafe audit runs/my-run-onnx-fp16
      edgesafe gate runs/my-run-onnx-fp16 --policy policy.toml
    """
    import json

    from rich.console import Console

    from edgesafe import artifact
    from edgesafe.benchmarks import gate as gates
    from edgesafe.benchmarks import policy as policies

    if print_policy:
        click.echo(policies.default_text(), nl=False)
        return
    held = policies.load(policy)
    decision = gates.check(export or artifact.newest("export"), audit, held)
    if record:
        record.write_text(json.dumps(decision.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    gates.show(decision, Console())
    click.get_current_context().exit(0 if decision.passed else gates.Refused.exit_code)
