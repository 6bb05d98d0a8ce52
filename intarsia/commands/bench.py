"""``intarsia bench``: measure, or count what there is to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intarsia.commands.options import AsJson
from intarsia.errors import BackendError

__all__ = ["bench"]


def bench(
    cases: Annotated[
        list[str] | None, typer.Argument(help="S1 … S5, mixed, cold, resolution, lora, cpu, onnx, tables.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the JSON records.")] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Count parameters, FLOPs and operations; no GPU.")] = False,
    short: Annotated[bool, typer.Option("--short", help="Few runs of small cases: minutes on a CPU.")] = False,
    peers: Annotated[str | None, typer.Option("--peers", help="eager, tomesd, compile, onnx; comma-separated.")] = None,
    budget: Annotated[float, typer.Option("--budget", min=1, help="Seconds for everything.")] = 540.0,
    as_json: AsJson = False,
) -> None:
    """Measure intarsia beside its peers; on a GPU, all cases within --budget.

    The cases are in the repository's folder benchmarks, not in the installed package; --floor needs neither.
    """
    if floor:
        _print_floor(as_json)
        return
    try:
        from benchmarks.run import Options, run
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith("benchmarks"):
            raise BackendError(f"intarsia bench needs the package {exc.name}: pip install 'intarsia[torch]'") from exc
        raise BackendError(
            "the cases are not part of the installed package; in a clone of the repository: python -m benchmarks.run"
        ) from exc
    chosen = tuple(name.strip() for name in peers.split(",")) if peers else None
    failed = run(Options(cases=tuple(cases or ()), out=out, short=short, peers=chosen, budget=budget))
    raise typer.Exit(1 if failed else 0)


def _print_floor(as_json: bool) -> None:
    """The roofline on stdout."""
    import json

    try:
        from intarsia.backends.torch import floors
    except ModuleNotFoundError as exc:
        raise BackendError(f"--floor needs the package {exc.name}: pip install 'intarsia[torch]'") from exc
    rows = list(floors.floors())
    ours, theirs = floors.step("sd15-inpaint", 512), floors.diffusers_forward(512)
    network = floors.forward("sd15-inpaint", 512)
    if as_json:
        made = [
            {"work": row.work, "tflop": row.tflop, "expected": row.expected, "ms": row.milliseconds,
             "operations": row.count.total} for row in rows
        ]  # fmt: skip
        operations = {"step": dict(ours.operations), "network": dict(network.operations)}
        operations |= {"diffusers network": dict(theirs.operations)} if theirs else {}
        typer.echo(json.dumps({"rows": made, "operations": operations}, indent=2))
        return
    for family in ("sd15-inpaint", "sdxl"):
        typer.echo(f"{family}: {floors.parameters(family) / 1e6:,.1f} M parameters")
    typer.echo(f"\n{'':46} {'TFLOP':>8} {'expected':>8} {f'ms at {floors.RATE / 1e12:.0f}':>10} {'operations':>10}")
    for row in rows:
        numbers = f"{row.tflop:8.3f} {row.expected:8.3f} {row.milliseconds:10.2f} {row.count.total:10d}"
        typer.echo(f"{row.work:46} {numbers}")
    shown = str(theirs.total) if theirs else "not installed"
    typer.echo(f"\nOperations of an SD1.5 evaluation, 512²: network {network.total}, diffusers' {shown}; whole step")
    typer.echo(f"{ours.total} (goal: at most {floors.GOAL}):")
    for name, often in sorted(ours.operations.items(), key=lambda item: -item[1]):
        typer.echo(f"  {often:4d}  {name}")
