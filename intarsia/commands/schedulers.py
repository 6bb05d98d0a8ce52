"""``intarsia schedulers``: the documented samplers, and their tables."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.command import group
from intarsia.commands.options import NUMBER, WHOLE, AsJson
from intarsia.commands.streams import print_report
from intarsia.counted import counted
from intarsia.errors import BackendError, OutputError

if TYPE_CHECKING:
    from intarsia.schedulers import SchedulerInfo, Table

__all__ = ["schedulers"]

_BRIEFLY = {
    "with algorithm_type sde-…": "sde",
    "not applied": "no",
    "its levels are Karras's either way": "always",
    "spaces the noise levels": "yes",
}

schedulers = group("The documented schedulers and their tables.", invoke_without_command=True)


@schedulers.callback()
def list_schedulers(context: typer.Context, as_json: AsJson = False) -> None:
    """List names, aliases, evaluations, whether they draw noise, and what Karras sigmas do."""
    if context.invoked_subcommand is None:
        _print_list(as_json)


@schedulers.command("list")
def list_by_name(as_json: AsJson = False) -> None:
    """The same list, as intarsia schedulers prints it alone."""
    _print_list(as_json)


def _print_list(as_json: bool) -> None:
    from dataclasses import asdict

    from intarsia.schedulers import catalogue

    if as_json:
        print_report({"schedulers": [asdict(each) for each in catalogue()]})
        return
    typer.echo(_as_list(catalogue()))


@schedulers.command("show")
def show_scheduler(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Documented name or alias.")],
    steps: Annotated[int, typer.Option("--steps", "-s", help="1 to 1000.", **WHOLE)] = 21,
    karras: Annotated[bool, typer.Option("--karras/--no-karras", help="Karras's spacing of noise levels.")] = False,
    strength: Annotated[float, typer.Option(help="Above 0, to 1: the share of the steps that is run.", **NUMBER)] = 1.0,
    algorithm_type: Annotated[
        str | None,
        typer.Option("--algorithm-type", metavar="NAME", help="Form of the DPM solvers, for example sde-dpmsolver++."),
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="NAME", help="leading, trailing, linspace, karras or exponential.")
    ] = None,
    solver_order: Annotated[int | None, typer.Option(help="1 to 3, of DPM++, UniPC and DEIS.", **WHOLE)] = None,
    solver_type: Annotated[
        str | None, typer.Option(metavar="NAME", help="midpoint or heun of DPM++, bh1 or bh2 of UniPC.")
    ] = None,
    final_sigmas_type: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the last step ends: zero or sigma_min.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Fresh noise in DDIM, 0 to 1.", **NUMBER)] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw sigmas and coefficients into this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a scheduler's table, a row for each evaluation of the network.

    With --json it is what --table of intarsia inpaint takes.
    """
    from intarsia.schedulers import resolve_sampler, table, table_to_json
    from intarsia.schedulers.chosen_settings import chosen_settings

    sampler = resolve_sampler(name)
    asked = {
        "spacing": spacing or sampler.spacing,
        "solver_order": solver_order,
        "solver_type": solver_type or sampler.solver_type,
        "final_sigmas_type": final_sigmas_type,
        "eta": eta,
    }
    settings = chosen_settings(sampler.scheduler, asked)
    algorithm_type = algorithm_type or sampler.algorithm_type
    rows = table(sampler.scheduler, steps, karras=karras, strength=strength, algorithm_type=algorithm_type, **settings)
    if plot is not None:
        _plot(rows, plot)
    typer.echo(json.dumps(table_to_json(rows)) if as_json else _as_text(rows))


def _as_list(catalogue: tuple[SchedulerInfo, ...]) -> str:
    """A scheduler a line, and what is to be said of some of them, at 80 columns whatever the terminal has."""
    layout = "{:<32} {:<15} {:<12} {:<6} {}"
    lines = [layout.format("name", "short name", "evaluations", "noise", "Karras")]
    for each in catalogue:
        short = each.aliases[0] if each.aliases else ""
        noise, karras = _BRIEFLY.get(each.stochastic, each.stochastic), _BRIEFLY.get(each.karras, each.karras)
        lines.append(layout.format(each.name, short, each.evaluations, noise, karras))

    explained = [
        "",
        "evaluations: of the network for N steps. noise: fresh noise is drawn while it runs; sde: with "
        "--algorithm-type sde-dpmsolver++. Karras: whether --karras-sigmas spaces its noise levels. "
        "Other usual names are taken too: DPM++ 2M SDE Karras, dpmpp_2m, UniPCMultistep.",
        *(_note(each) for each in catalogue if each.note),
    ]
    for text in explained:
        lines += textwrap.wrap(text, 79, subsequent_indent="  ", break_on_hyphens=False) or [""]
    return "\n".join(lines)


def _note(each: SchedulerInfo) -> str:
    return each.note if each.name in each.note else f"{each.name}: {each.note}"


def _as_text(table: Table) -> str:
    """Fixed columns: row, timestep, sigma, scale, noise, and the new sample's coefficients."""
    counts = (
        counted(table.steps, "step"),
        counted(len(table), "evaluation"),
        counted(table.state_slots, "state slot"),
    )
    lines = [", ".join((table.name, *counts))]
    lines += [f"note: {note}" for note in table.notes]

    names = [*(f"state{slot}" for slot in range(table.state_slots)), "output", "noise"]
    columns = " ".join(f"{name:>11}" for name in names)
    lines += ["new sample (state0) =", f"{'row':>4} {'timestep':>10} {'sigma':>11} {'input':>9} {columns}"]

    for row in range(len(table)):
        timestep, sigma, scale = table.timesteps[row], table.sigmas[row], table.input_scale[row]
        coefficients = " ".join(f"{value:11.6f}" for value in table.matrix[row, 0])
        lines.append(f"{row:4d} {timestep:10.4f} {sigma:11.6f} {scale:9.6f} {coefficients}")
    return "\n".join(lines)


def _plot(table: Table, path: Path) -> None:
    """Sigmas by evaluation, and what the new sample is made of."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise BackendError("--plot needs the package matplotlib: pip install 'intarsia[plot]'") from exc

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.semilogy(range(len(table) + 1), [max(float(sigma), 1e-3) for sigma in table.sigmas], marker=".")
    above.set(title=f"{table.name}, {counted(table.steps, 'step')}", ylabel="sigma (0 drawn at 0.001)")

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
