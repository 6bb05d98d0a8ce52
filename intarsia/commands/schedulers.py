"""``intarsia schedulers``: the documented samplers, and their tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.command import group
from intarsia.commands.options import NUMBER, WHOLE, AsJson
from intarsia.commands.streams import print_report
from intarsia.errors import BackendError, OutputError

if TYPE_CHECKING:
    from intarsia.schedulers import Table

__all__ = ["schedulers"]

schedulers = group("The documented schedulers and their tables.", invoke_without_command=True)


@schedulers.callback()
def list_schedulers(context: typer.Context, as_json: AsJson = False) -> None:
    """List names, aliases, evaluations, whether they draw noise, and what Karras sigmas do."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from intarsia.schedulers import catalogue

    rows = [asdict(row) for row in catalogue()]
    if as_json:
        print_report({"schedulers": rows})
        return
    from rich.console import Console
    from rich.table import Table as Grid

    # In a pipe nothing may be cut or wrapped to the width of a terminal that is not there.
    console = Console(width=None if sys.stdout.isatty() else 220)
    grid = Grid(show_lines=console.width < 160)
    for title in ("name", "aliases", "evaluations", "draws noise", "Karras", "note"):
        grid.add_column(title, overflow="fold")
    for row in rows:
        short = ", ".join(row["aliases"])
        grid.add_row(row["name"], short, row["evaluations"], row["stochastic"], row["karras"], row["note"])
    console.print(grid)


@schedulers.command("show")
def show_scheduler(
    name: Annotated[str, typer.Argument(help="Documented name or alias.")],
    steps: Annotated[int, typer.Option("--steps", "-s", **WHOLE)] = 21,
    karras: Annotated[bool, typer.Option("--karras/--no-karras")] = False,
    strength: Annotated[float, typer.Option(**NUMBER)] = 1.0,
    algorithm_type: Annotated[str | None, typer.Option("--algorithm-type")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw sigmas and coefficients into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a scheduler's table, a row for each evaluation of the network."""
    from intarsia.schedulers import resolve_sampler, table

    sampler = resolve_sampler(name)
    karras, algorithm_type = karras or sampler.karras, algorithm_type or sampler.algorithm_type
    rows = table(sampler.scheduler, steps, karras=karras, strength=strength, algorithm_type=algorithm_type)
    if plot is not None:
        _plot(rows, plot)
    typer.echo(_as_json(rows) if as_json else _as_text(rows))


def _as_text(table: Table) -> str:
    """Fixed columns: row, timestep, sigma, scale, noise, and the new sample's coefficients."""
    lines = [f"{table.name}, {table.steps} steps, {len(table)} evaluations, {table.state_slots} state slots"]
    lines += [f"note: {note}" for note in table.notes]

    names = [*(f"state{slot}" for slot in range(table.state_slots)), "output", "noise"]
    columns = " ".join(f"{name:>11}" for name in names)
    lines += ["new sample (state0) =", f"{'row':>4} {'timestep':>10} {'sigma':>11} {'input':>9} {columns}"]

    for row in range(len(table)):
        timestep, sigma, scale = table.timesteps[row], table.sigmas[row], table.input_scale[row]
        coefficients = " ".join(f"{value:11.6f}" for value in table.matrix[row, 0])
        lines.append(f"{row:4d} {timestep:10.4f} {sigma:11.6f} {scale:9.6f} {coefficients}")
    return "\n".join(lines)


def _as_json(table: Table) -> str:
    """Everything, at full precision."""
    from dataclasses import fields

    import numpy as np

    values = {}
    for field in fields(table):
        value = getattr(table, field.name)
        values[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(values)


def _plot(table: Table, path: Path) -> None:
    """Sigmas by evaluation, and what the new sample is made of."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise BackendError("--plot needs the package matplotlib: pip install 'intarsia[plot]'") from exc

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.semilogy(range(len(table) + 1), [max(float(sigma), 1e-3) for sigma in table.sigmas], marker=".")
    above.set(title=f"{table.name}, {table.steps} steps", ylabel="sigma (0 drawn at 0.001)")

    names = [*(f"state {slot}" for slot in range(table.state_slots)), "output", "noise"]
    for column, name in enumerate(names):
        if table.matrix[:, 0, column].any():
            below.plot(table.matrix[:, 0, column], marker=".", label=name)
    below.set(xlabel="evaluation", ylabel="coefficient of the new sample")
    below.legend()

    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:  # ValueError: an extension that is no image format
        path.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {exc}") from exc
