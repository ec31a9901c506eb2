"""The command about this machine: doctor."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from sheeprl.cli.report import FAILED

MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False) -> None:
    """Examine this machine for problems of a run: versions, GPU, compiler, Ray, memory, limits, extras."""
    from sheeprl.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            advice = f"; {finding.advice}" if finding.advice else ""
            typer.echo(f"{MARKS[finding.status]}  {finding.subject.ljust(width)}  {finding.found}{advice}")
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(FAILED)
