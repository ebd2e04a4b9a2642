"""The gate: an export, the audit that cites it and a policy -> a decision, rule by rule. It measures nothing itself.

`check` raises EdgeSafeError where there is nothing to decide on: no export, no erased concept, no audit of this very manifest, an audit
that was changed. `require` raises Refused, too, where a rule does not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesafe import artifact
from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError

from . import evidence, rules
from .policy import Policy
from .rules import Case, Rule


class Refused(EdgeSafeError):
    """The policy's answer, and not a fault in what was given."""

    exit_code = 1


@dataclass(frozen=True)
class Decision:
    export: Path
    manifest_sha256: str
    audit: Path
    audit_sha256: str
    policy: str
    rules: tuple[Rule, ...]
    sentences: tuple[str, ...]  # the audit's verdicts
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.passed is False)

    def to_dict(self) -> dict[str, Any]:
        given = {"export": self.export.name, "manifest_sha256": self.manifest_sha256, "audit_sha256": self.audit_sha256}
        judged = {"policy": self.policy, "passed": self.passed, "rules": [rule.to_dict() for rule in self.rules]}
        return given | judged | {"sentences": list(self.sentences), "notes": list(self.notes)}

    def verdict(self) -> str:
        """The last line."""
        demanded = sum(rule.passed is not None for rule in self.rules)
        if self.passed:
            return f"PASSED: {self.export} keeps all {demanded} limits of {self.policy}. It says nothing of what was not asked"
        words = "; ".join(f"{_title(rule)}: {rule.found}, not {rule.limit}" for rule in self.failed)
        return f"REFUSED: {self.export} breaks {len(self.failed)} of {demanded} limits of {self.policy}: {words}"


def check(export: Path, audit: Path | None, policy: Policy) -> Decision:
    """audit: the file; None: the newest beside the export that cites its manifest."""
    export = Path(export)
    manifest = _erased(export)
    digest = artifact.sha256(export / artifact.MANIFEST)
    path, older = evidence.find(export, digest, audit)
    record = evidence.read(path)
    missing = [row["name"] for row in manifest.concepts if row["name"] not in {r["name"] for r in record["artifact"]["concepts"]}]
    if missing:
        said = f"{_quoted(missing)} was erased from {export}, and this audit does not know it"
        raise EdgeSafeError(f"{path}: {said}. Audit it again: edgesafe audit {export}")
    case = Case(manifest, record, policy, evidence.age_days(record))
    found = (*rules.all_rules(case), _recount(path, record, policy.recount))
    cautions = [f"“{row['concept']}”: {caution}" for row in record["verdicts"] for caution in row["cautions"]]
    notes = (*_notes(case, older), *dict.fromkeys(cautions))
    sentences = tuple(row["sentence"] for row in record["verdicts"])
    return Decision(export, digest, path, artifact.sha256(path), policy.source, found, sentences, notes)


def require(export: Path, audit: Path | None, policy: Policy) -> Decision:
    decision = check(export, audit, policy)
    if not decision.passed:
        raise Refused(f"{decision.verdict()}. `edgesafe gate {export}` shows every rule")
    return decision


def show(decision: Decision, console: Console) -> None:
    """A table of the rules, what else is to be known, and the verdict as the last line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "rule", "limit", "found", "by"):
        table.add_column(column, overflow="fold")
    marks = {True: ("passed", "green"), False: ("failed", "bold red"), None: ("shown", "dim")}
    for rule in decision.rules:
        table.add_row(*(Text(*cell) for cell in (marks[rule.passed], (_title(rule),), (rule.limit,), (rule.found,), (rule.why,))))
    console.print(f"{decision.export} by {decision.audit}, held against {decision.policy}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for line in (*decision.sentences, *(f"Note: {note}" for note in decision.notes), decision.verdict()):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _erased(export: Path) -> Manifest:
    manifest = artifact.read(export)
    if manifest.kind != "export":
        raise EdgeSafeError(f"{export}: a {manifest.kind}, not an export. The gate is for files that ship: edgesafe export {export}")
    if not manifest.concepts:
        raise EdgeSafeError(f"{export}: no concept was erased from it, so there is nothing to decide on. Erase one: edgesafe train --erase")
    return manifest


def _recount(path: Path, record: dict[str, Any], demanded: bool) -> Rule:
    try:
        doubts = evidence.recount(path, record)
    except EdgeSafeError as error:
        why = f"{error}. Give the audit's own folder with --audit" if demanded else str(error)
        return Rule("counted again", None, "the same" if demanded else rules.NOTHING, "not counted", False if demanded else None, why)
    more = f"; and {len(doubts) - 1} more" if len(doubts) > 1 else ""
    found, why = ("another count", doubts[0] + more) if doubts else ("the same", record["pictures"])
    return Rule("counted again", None, "the same", found, not doubts, why)  # a wrong count is never only a note


def _notes(case: Case, older: Sequence[Path]) -> list[str]:
    found = []
    if older:
        found.append(f"{len(older)} older audits of this export lie beside it; the newest counts: {', '.join(map(str, older))}")
    names = {row["name"] for row in case.manifest.concepts}
    if unused := [name for name in case.policy.concepts if name not in names]:
        found.append(f"the policy has limits for {_quoted(unused)}, and what was erased from this export is {_quoted(sorted(names))}")
    return found


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _title(rule: Rule) -> str:
    return f"{rule.name}, “{rule.concept}”" if rule.concept else rule.name
