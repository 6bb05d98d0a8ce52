"""What a user is told about each scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia.schedulers.names import NAMES, aliases, resolve
from intarsia.schedulers.solvers import SOLVERS, Solver


@dataclass(frozen=True)
class SchedulerInfo:
    """One documented scheduler.

    Attributes:
        name: the documented name.
        aliases: short names that mean the same.
        evaluations: of the network, for N steps at full strength.
        stochastic: ``yes``, ``no``, or when: whether fresh noise is drawn while it runs.
        karras: what ``use_karras_sigmas`` does.
        note: what whoever uses it should know; may be empty.
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
    solver = SOLVERS[name]
    stochastic = "yes" if solver.stochastic else "no"
    if solver.algorithms:
        stochastic = "with algorithm_type sde-…"
    return SchedulerInfo(name, aliases(name), solver.evaluations, stochastic, _karras(solver), solver.note)


def catalogue() -> tuple[SchedulerInfo, ...]:
    """All documented schedulers, in the documents' order."""
    return tuple(info(name) for name in NAMES)


def _karras(solver: Solver) -> str:
    if not solver.curves:
        return "not applied"
    if solver.grid.curve == "karras":
        return "its levels are Karras's either way"
    return "spaces the noise levels"
