"""The documented schedulers as data: solver, grid, aliases and properties of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from intarsia.schedulers.ddim import ddim
from intarsia.schedulers.ddim_inverse import ddim_inverse
from intarsia.schedulers.ddpm import ddpm
from intarsia.schedulers.deis import deis
from intarsia.schedulers.dpm_multistep import dpm_multistep
from intarsia.schedulers.dpm_singlestep import dpm_singlestep
from intarsia.schedulers.dpm_steps import TYPES as DPM_TYPES
from intarsia.schedulers.euler import euler, euler_ancestral
from intarsia.schedulers.heun import heun
from intarsia.schedulers.ipndm import ipndm
from intarsia.schedulers.karras_ve import karras_ve
from intarsia.schedulers.kdpm2 import kdpm2, kdpm2_ancestral
from intarsia.schedulers.lcm import lcm
from intarsia.schedulers.lms import lms
from intarsia.schedulers.noise_schedule import FINAL_SIGMAS, FinalSigma
from intarsia.schedulers.pndm import pndm
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.score_sde_ve import score_sde_ve
from intarsia.schedulers.spacing import Grid
from intarsia.schedulers.unipc import TYPES as UNIPC_TYPES
from intarsia.schedulers.unipc import unipc

ORDERS = (1, 2, 3)

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
DISTILLED_ALONE = "LCMScheduler gives poor images unless the model, or a LoRA, is distilled for it"
"""The note of a sampler of consistency models."""

DISTILLED = Grid(spacing="distilled", whole=True, choices=())
EDM = Grid(full_range=True, curve="karras", choices=())
GEOMETRIC = Grid(full_range=True, curve="exponential", choices=())


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A scheduler name's meaning.

    Attributes:
        rows: lays out the coefficients of a run.
        grid: the levels it visits.
        aliases: short names, in lower case.
        curves: the Karras and exponential spacings mean something for it.
        stochastic: rows use fresh noise (for the DPM solvers: in their ``sde-`` forms only).
        evaluations: of the network, for N steps.
        algorithms: it is one of the solvers that ``algorithm_type`` chooses the form of.
        orders: values of ``solver_order`` that it takes.
        types: those of ``solver_type``.
        finals: those of ``final_sigmas_type``: levels that its last step can end at.
        takes_eta: ``eta`` adds fresh noise.
        note: a sentence that goes into every result; may be empty.
    """

    rows: Callable[[SamplingRun], Rows]
    grid: Grid
    aliases: tuple[str, ...] = ()
    curves: bool = True
    stochastic: bool = False
    evaluations: str = "N"
    algorithms: bool = False
    orders: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    finals: tuple[FinalSigma, ...] = FINAL_SIGMAS
    takes_eta: bool = False
    note: str = ""


SOLVERS: dict[str, Solver] = {
    "DDPMScheduler": Solver(rows=ddpm, grid=TRAINED, aliases=("ddpm",), curves=False, stochastic=True),
    "DDIMScheduler": Solver(rows=ddim, grid=TRAINED_ALPHA, aliases=("ddim",), curves=False, takes_eta=True),
    "PNDMScheduler": Solver(rows=pndm, grid=TRAINED_ALPHA, aliases=("pndm", "plms"), curves=False, evaluations="N+1"),
    "LMSDiscreteScheduler": Solver(rows=lms, grid=SIGMAS, aliases=("lms", "k_lms", "lmsdiscrete")),
    "EulerDiscreteScheduler": Solver(rows=euler, grid=SIGMAS_TO_ANY, aliases=("euler", "k_euler", "eulerdiscrete")),
    "EulerAncestralDiscreteScheduler": Solver(
        rows=euler_ancestral,
        grid=SIGMAS,
        aliases=("euler a", "euler_a", "euler ancestral", "k_euler_a", "k_euler_ancestral"),
        stochastic=True,
    ),
    "DPMSolverMultistepScheduler": Solver(
        rows=dpm_multistep,
        grid=LOG_SNR,
        aliases=("dpm++ 2m", "dpm++", "dpmpp_2m", "dpmsolver", "dpmsolver++", "dpm multistep"),
        algorithms=True,
        orders=ORDERS,
        types=DPM_TYPES,
    ),
    "HeunDiscreteScheduler": Solver(rows=heun, grid=SIGMAS, aliases=("heun", "k_heun"), evaluations="2N-1"),
    "KDPM2DiscreteScheduler": Solver(
        rows=kdpm2, grid=SIGMAS_HALF, aliases=("dpm2", "kdpm2", "k_dpm_2"), evaluations="2N-1"
    ),
    "DPMSolverSinglestepScheduler": Solver(
        rows=dpm_singlestep,
        grid=LOG_SNR_EVEN,
        aliases=("dpm++ 2s", "dpmpp_2s", "dpm singlestep", "dpmsolversinglestep"),
        algorithms=True,
        orders=ORDERS,
        types=DPM_TYPES,
    ),
    "KDPM2AncestralDiscreteScheduler": Solver(
        rows=kdpm2_ancestral,
        grid=SIGMAS_HALF,
        aliases=("dpm2 a", "dpm2_a", "kdpm2 a", "k_dpm_2_a", "kdpm2 ancestral"),
        stochastic=True,
        evaluations="2N-1",
    ),
    "UniPCMultistepScheduler": Solver(
        rows=unipc, grid=LOG_SNR, aliases=("unipc", "uni_pc"), orders=ORDERS, types=UNIPC_TYPES
    ),
    "DDIMInverseScheduler": Solver(
        rows=ddim_inverse,
        grid=TRAINED_ALPHA,
        aliases=("ddim inverse", "ddim_inverse"),
        curves=False,
        evaluations="2N",
        note="DDIMInverseScheduler inverts the image to the starting noise level and denoises it from there "
        "with DDIM: twice the evaluations, and no random noise",
    ),
    "DEISMultistepScheduler": Solver(
        rows=deis, grid=LOG_RHO, aliases=("deis",), orders=ORDERS, types=("logrho",), finals=("sigma_min",)
    ),
    "IPNDMScheduler": Solver(rows=ipndm, grid=TRAINED_EVEN, aliases=("ipndm",), curves=False),
    "KarrasVeScheduler": Solver(
        rows=karras_ve,
        grid=EDM,
        aliases=("karras ve", "karras_ve", "karrasve", "edm"),
        stochastic=True,
        evaluations="2N-1",
    ),
    "ScoreSdeVeScheduler": Solver(
        rows=score_sde_ve,
        grid=GEOMETRIC,
        aliases=("score sde ve", "sde_ve", "score_sde_ve", "sde ve"),
        stochastic=True,
        evaluations="2N",
    ),
    "LCMScheduler": Solver(
        rows=lcm,
        grid=DISTILLED,
        aliases=("lcm",),
        curves=False,
        stochastic=True,
        finals=(),
        note=DISTILLED_ALONE,
    ),
}
