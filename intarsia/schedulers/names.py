"""Scheduler names and aliases: the documented ones, and those of solvers from outside the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches

from intarsia.errors import RequestError, shown
from intarsia.extensions import Extensions, folded
from intarsia.schedulers.solvers import SOLVERS, Solver
from intarsia.schedulers.spacing_names import absence_of, is_spacing, spacing_of, split_spacing
from intarsia.schedulers.spellings import Sampler, key_of, spelled

NAMES: tuple[str, ...] = tuple(SOLVERS)
"""The documented names, in the documents' order."""

ALIASES: dict[str, str] = {
    **{alias: name for name, solver in SOLVERS.items() for alias in solver.aliases},
    **{name.removesuffix("Scheduler").lower(): name for name in NAMES},
}
"""Short names of the documented schedulers."""

_DOCUMENTED: dict[str, str] = {**ALIASES, **{name.lower(): name for name in NAMES}}
# diffusers' class names are known without "Scheduler" too, and so is every name without its blanks and marks.
_KEYS: dict[str, str] = {
    **{key_of(name.removesuffix("Scheduler")): name for name in NAMES},
    **{key_of(name): full_name for name, full_name in _DOCUMENTED.items()},
}


def _refusal(name: str, sentence: str) -> RequestError:
    return RequestError("scheduler", name, message=sentence)


_OUTSIDE = Extensions("intarsia.schedulers", "scheduler", taken=lambda: _DOCUMENTED, error=_refusal)


def register(name: str, solver: Solver) -> None:
    """Make a solver from outside the package known in this process, as ``name`` and its aliases.

    An installed distribution needs no call: an entry point of the group ``intarsia.schedulers`` that names a
    :class:`Solver` is found in every process.

    Raises:
        RequestError: not a solver, or a name or alias that is taken.
    """
    _check_solver(name, solver)
    for alias in solver.aliases:
        owner = _DOCUMENTED.get(folded(alias))
        if owner is not None:
            raise _refusal(name, f"alias {alias} of scheduler {name} is one of {owner}")
    _OUTSIDE.register(name, solver)


def resolve(name: str) -> str:
    """The full name that a name or an alias means, whatever its case.

    Raises:
        RequestError: ``name`` is unknown; the message lists all names that there are.
    """
    sampler = resolve_sampler(name)
    for setting in ("spacing", "algorithm_type"):
        value = getattr(sampler, setting)
        if value is not None:
            raise _refusal(name, f"{name} is {sampler.scheduler} with {setting} {value}: give them apart")
    return sampler.scheduler


def resolve_sampler(name: str) -> Sampler:
    """The scheduler that a name means and the settings in it, as other programs write them: ``DPM++ 2M SDE Karras``.

    Raises:
        RequestError: ``name`` is unknown; the message says which is near, and lists all names that there are.
    """
    if isinstance(name, str):
        key = folded(name)
        full_name = _DOCUMENTED.get(key) or _resolve_outside(key)
        sampler = Sampler(scheduler=full_name) if full_name is not None else _spelled(name)
        if sampler is not None:
            return sampler
    raise _unknown(name)


def _spelled(name: str) -> Sampler | None:
    """The sampler that a name of another program means; RequestError where its spacing is none of the scheduler's."""
    key = key_of(name)
    sampler = None if is_spacing(key) else spelled(key, _KEYS)
    if sampler is None or sampler.spacing is None:
        return sampler
    try:
        spacing = spacing_of(sampler.spacing, sampler.scheduler, solver_of(sampler.scheduler))
    except RequestError as exc:
        raise _refusal(name, f"scheduler {shown(name)} is {sampler.scheduler} with a spacing, and {exc}") from exc
    return replace(sampler, spacing=spacing)


def _unknown(name: object) -> RequestError:
    """The error for a name that is none; with what was probably meant."""
    known = (*NAMES, *_OUTSIDE.names())
    allowed = f"one of {', '.join(known)}"
    if not isinstance(name, str):
        return RequestError("scheduler", name, allowed)

    key = key_of(name)
    if is_spacing(key):
        hint = absence_of(key) or "spacing takes it"
        hint = f"that is a spacing of noise levels, not a sampler: {hint}"
        return _refusal(name, f"scheduler must be {allowed}, not {shown(name)}; {hint}")

    plain, _ = split_spacing(key)
    near = get_close_matches(plain, [*_KEYS, *map(key_of, known)], n=1, cutoff=0.7)
    if not near:
        return RequestError("scheduler", name, allowed)
    meant = _KEYS.get(near[0]) or next(each for each in known if key_of(each) == near[0])
    return _refusal(name, f"scheduler must be {allowed}, not {shown(name)}; did you mean {meant}?")


def resolve_documented(name: str) -> Sampler:
    """As :func:`resolve_sampler`, for requests in a documented form: solvers from outside are unknown there."""
    if isinstance(name, str):
        known = _DOCUMENTED.get(folded(name))
        sampler = Sampler(scheduler=known) if known is not None else _spelled(name)
        if sampler is not None:
            return sampler
    raise RequestError("scheduler", name, f"one of {', '.join(NAMES)}")


def solver_of(name: str) -> Solver:
    """The solver of a full name.

    Raises:
        RequestError: one from outside the package that cannot be loaded.
    """
    if name in SOLVERS:
        return SOLVERS[name]
    solver = _OUTSIDE.load(name)
    return _check_solver(name, solver)


def outside_names() -> tuple[str, ...]:
    """Full names of solvers from outside the package; none of them is imported."""
    return _OUTSIDE.names()


def _resolve_outside(wanted: str) -> str | None:
    names = _OUTSIDE.names()
    for name in names:
        if folded(name) == wanted:
            return name

    owners = [name for name, solver in _loadable(names) if wanted in map(folded, solver.aliases)]
    if len(owners) > 1:
        claimants = " and ".join(owners)
        raise _refusal(wanted, f"alias {wanted} is claimed by the schedulers {claimants}: use a full name")
    return owners[0] if owners else None


def _loadable(names: tuple[str, ...]) -> Iterator[tuple[str, Solver]]:
    """Those that can be loaded; the others are refused when they are asked for by name."""
    for name in names:
        try:
            yield name, solver_of(name)
        except RequestError:
            continue


def _check_solver(name: str, solver: object) -> Solver:
    if isinstance(solver, Solver):
        return solver
    found = f"a {type(solver).__name__}"
    raise _refusal(name, f"scheduler {name}{_OUTSIDE.origin(name)} must be an intarsia.schedulers.Solver, not {found}")
