"""Settings that a caller chooses beside a scheduler, checked against what that scheduler takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intarsia.errors import RequestError, shown
from intarsia.schedulers.names import solver_of
from intarsia.schedulers.solvers import Solver
from intarsia.schedulers.spacing_names import spacing_of

__all__ = ["SETTINGS", "chosen_settings", "settings_of"]

SETTINGS = ("spacing", "eta", "solver_order", "solver_type", "final_sigmas_type")
"""What a request may choose; no scheduler takes all of it."""


def settings_of(solver: Solver) -> tuple[str, ...]:
    """The names of :data:`SETTINGS` that a solver takes; spacing is every solver's."""
    takes = {
        "spacing": True,
        "eta": solver.takes_eta,
        "solver_order": bool(solver.orders),
        "solver_type": bool(solver.types),
        "final_sigmas_type": bool(solver.finals),
    }
    return tuple(name for name in SETTINGS if takes[name])


def chosen_settings(scheduler: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``chosen`` that are not None, in the spelling of :func:`intarsia.schedulers.table`.

    That function passes over what a solver does not take, as a model's configuration is for any; what a caller asks
    for is refused here instead.

    Args:
        scheduler: a full name.
        chosen: names of :data:`SETTINGS` → values.

    Raises:
        RequestError: the scheduler takes no such setting, or not this value; the message says what it takes.
    """
    solver = solver_of(scheduler)
    given = {name: value for name, value in chosen.items() if value is not None}

    taken = settings_of(solver)
    for name, value in given.items():
        if name not in taken:
            message = f"{name} {shown(value)} means nothing for {scheduler}, which takes {_listed(taken)}"
            raise RequestError(name, value, message=message)

    if "spacing" in given:
        given["spacing"] = spacing_of(given["spacing"], scheduler, solver)
    allowed: dict[str, tuple[object, ...]] = {
        "solver_order": solver.orders,
        "solver_type": solver.types,
        "final_sigmas_type": solver.finals,
    }
    for name, values in allowed.items():
        if name in given and given[name] not in values:
            raise RequestError(name, given[name], f"{_choice(values)} for {scheduler}")
    return given


def _choice(values: tuple[object, ...]) -> str:
    text = ", ".join(map(str, values))
    return f"one of {text}" if len(values) > 1 else text


def _listed(names: tuple[str, ...]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
