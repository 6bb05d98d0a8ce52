"""The documented schedulers as data: which solver, on which grid, and what it is like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from intarsia.schedulers.ddim import ddim
from intarsia.schedulers.ddim_inverse import ddim_inverse
from intarsia.schedulers.ddpm import ddpm
from intarsia.schedulers.deis import deis
from intarsia.schedulers.dpm_multistep import dpm_multistep
from intarsia.schedulers.dpm_singlestep import dpm_singlestep
from intarsia.schedulers.euler import euler, euler_ancestral
from intarsia.schedulers.heun import heun
from intarsia.schedulers.ipndm import ipndm
from intarsia.schedulers.karras_ve import karras_ve
from intarsia.schedulers.kdpm2 import kdpm2, kdpm2_ancestral
from intarsia.schedulers.lcm import lcm
from intarsia.schedulers.lms import lms
from intarsia.schedulers.pndm import pndm
from intarsia.schedulers.rows import Problem, Rows
from intarsia.schedulers.score_sde_ve import score_sde_ve
from intarsia.schedulers.spacing import Grid
from intarsia.schedulers.unipc import unipc

SIGMAS = Grid()
SIGMAS_TO_ANY = Grid(choices=("spacing", "final"))
LOG_SNR = Grid(whole=True, open_end=True, full_range=True, choices=("spacing", "final"))
# diffusers' singlestep solver spreads its steps evenly whatever a configuration says.
LOG_SNR_EVEN = Grid(whole=True, open_end=True, full_range=True, choices=("final",))
TRAINED = Grid(spacing="leading", whole=True)
TRAINED_ALPHA = Grid(spacing="leading", whole=True, final="alpha")
SIGMAS_HALF = Grid(round_karras=True)
LOG_RHO = Grid(whole=True, open_end=True, full_range=True, final="sigma_min")
# The spacing of diffusers' IPNDM, 1 - i/N of the way, on the trained timesteps.
TRAINED_EVEN = Grid(spacing="trailing", whole=True, choices=())
DISTILLED = Grid(spacing="distilled", whole=True, choices=())
EDM = Grid(full_range=True, curve="karras", choices=())
GEOMETRIC = Grid(full_range=True, curve="exponential", choices=())


@dataclass(frozen=True)
class Solver:
    """A scheduler name's meaning.

    Attributes:
        rows: lays out the coefficients.
        grid: the levels it visits.
        curves: the Karras and exponential spacings mean something for it.
        stochastic: rows use fresh noise (for the DPM solvers: in their ``sde-`` forms only).
        evaluations: of the network, for N steps.
        algorithms: it is one of the solvers that ``algorithm_type`` chooses the form of.
        note: what whoever uses it should be told.
    """

    rows: Callable[[Problem], Rows]
    grid: Grid
    curves: bool = True
    stochastic: bool = False
    evaluations: str = "N"
    algorithms: bool = False
    note: str = ""


SOLVERS: dict[str, Solver] = {
    "DDPMScheduler": Solver(ddpm, TRAINED, curves=False, stochastic=True),
    "DDIMScheduler": Solver(ddim, TRAINED_ALPHA, curves=False),
    "PNDMScheduler": Solver(pndm, TRAINED_ALPHA, curves=False, evaluations="N+1"),
    "LMSDiscreteScheduler": Solver(lms, SIGMAS),
    "EulerDiscreteScheduler": Solver(euler, SIGMAS_TO_ANY),
    "EulerAncestralDiscreteScheduler": Solver(euler_ancestral, SIGMAS, stochastic=True),
    "DPMSolverMultistepScheduler": Solver(dpm_multistep, LOG_SNR, algorithms=True),
    "HeunDiscreteScheduler": Solver(heun, SIGMAS, evaluations="2N-1"),
    "KDPM2DiscreteScheduler": Solver(kdpm2, SIGMAS_HALF, evaluations="2N-1"),
    "DPMSolverSinglestepScheduler": Solver(dpm_singlestep, LOG_SNR_EVEN, algorithms=True),
    "KDPM2AncestralDiscreteScheduler": Solver(kdpm2_ancestral, SIGMAS_HALF, stochastic=True, evaluations="2N-1"),
    "UniPCMultistepScheduler": Solver(unipc, LOG_SNR),
    "DDIMInverseScheduler": Solver(
        ddim_inverse,
        TRAINED_ALPHA,
        curves=False,
        evaluations="2N",
        note="DDIMInverseScheduler inverts the image to the starting noise level and denoises it from there "
        "with DDIM: twice the evaluations, and no random noise",
    ),
    "DEISMultistepScheduler": Solver(deis, LOG_RHO),
    "IPNDMScheduler": Solver(ipndm, TRAINED_EVEN, curves=False),
    "KarrasVeScheduler": Solver(karras_ve, EDM, stochastic=True, evaluations="2N-1"),
    "ScoreSdeVeScheduler": Solver(score_sde_ve, GEOMETRIC, stochastic=True, evaluations="2N"),
    "LCMScheduler": Solver(
        lcm,
        DISTILLED,
        curves=False,
        stochastic=True,
        note="LCMScheduler gives poor pictures with a model that is not distilled for it",
    ),
}
