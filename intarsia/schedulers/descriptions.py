"""What there is to know about each scheduler, as data for the command line and the documents."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia.errors import RequestError
from intarsia.schedulers.names import NAMES, outside_names, resolve, solver_of
from intarsia.schedulers.solvers import Solver


@dataclass(frozen=True, kw_only=True)
class SchedulerInfo:
    """One scheduler.

    Attributes:
        name: the full name.
        aliases: short names that mean the same.
        evaluations: of the network, for N steps at full strength.
        stochastic: ``yes``, ``no``, or when: whether fresh noise is drawn while it runs.
        karras: what ``use_karras_sigmas`` does.
        note: a warning or a hint; may be empty.
    """

    name: str
    aliases: tuple[str, ...]
    evaluations: str
    stochastic: str
    karras: str
    note: str


def info(name: str) -> SchedulerInfo:
    """What there is to know about a scheduler; RequestError where the name is unknown."""
    name = resolve(name)
    solver = solver_of(name)

    stochastic = "yes" if solver.stochastic else "no"
    if solver.algorithms:
        stochastic = "with algorithm_type sde-…"

    return SchedulerInfo(
        name=name,
        aliases=solver.aliases,
        evaluations=solver.evaluations,
        stochastic=stochastic,
        karras=_karras(solver),
        note=solver.note,
    )


def has_curves(name: str) -> bool:
    """Whether the Karras and exponential spacings mean something for the scheduler of a full name."""
    return solver_of(name).curves


def catalogue() -> tuple[SchedulerInfo, ...]:
    """All schedulers: the documented ones in the documents' order, then those from outside the package.

    One that cannot be loaded is listed with the reason as its note.
    """
    documented = map(info, NAMES)
    from_outside = map(_outside_info, outside_names())
    return (*documented, *from_outside)


def _outside_info(name: str) -> SchedulerInfo:
    try:
        return info(name)
    except RequestError as exc:
        unknown = "unknown"
        return SchedulerInfo(
            name=name,
            aliases=(),
            evaluations=unknown,
            stochastic=unknown,
            karras=unknown,
            note=str(exc),
        )


def _karras(solver: Solver) -> str:
    if not solver.curves:
        return "not applied"
    if solver.grid.curve == "karras":
        return "its levels are Karras's either way"
    return "spaces the noise levels"
