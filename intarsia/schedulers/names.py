"""The documented scheduler names, and the shorter ones that people use for them."""

from __future__ import annotations

from intarsia.errors import RequestError

NAMES: tuple[str, ...] = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DDIMInverseScheduler",
    "DEISMultistepScheduler",
    "IPNDMScheduler",
    "KarrasVeScheduler",
    "ScoreSdeVeScheduler",
    "LCMScheduler",
)

_SHORT: dict[str, tuple[str, ...]] = {
    "DDPMScheduler": ("ddpm",),
    "DDIMScheduler": ("ddim",),
    "PNDMScheduler": ("pndm", "plms"),
    "LMSDiscreteScheduler": ("lms", "k_lms", "lmsdiscrete"),
    "EulerDiscreteScheduler": ("euler", "k_euler", "eulerdiscrete"),
    "EulerAncestralDiscreteScheduler": ("euler a", "euler_a", "euler ancestral", "k_euler_a", "k_euler_ancestral"),
    "DPMSolverMultistepScheduler": ("dpm++ 2m", "dpm++", "dpmpp_2m", "dpmsolver", "dpmsolver++", "dpm multistep"),
    "HeunDiscreteScheduler": ("heun", "k_heun"),
    "KDPM2DiscreteScheduler": ("dpm2", "kdpm2", "k_dpm_2"),
    "DPMSolverSinglestepScheduler": ("dpm++ 2s", "dpmpp_2s", "dpm singlestep", "dpmsolversinglestep"),
    "KDPM2AncestralDiscreteScheduler": ("dpm2 a", "dpm2_a", "kdpm2 a", "k_dpm_2_a", "kdpm2 ancestral"),
    "UniPCMultistepScheduler": ("unipc", "uni_pc"),
    "DDIMInverseScheduler": ("ddim inverse", "ddim_inverse"),
    "DEISMultistepScheduler": ("deis",),
    "IPNDMScheduler": ("ipndm",),
    "KarrasVeScheduler": ("karras ve", "karras_ve", "karrasve", "edm"),
    "ScoreSdeVeScheduler": ("score sde ve", "sde_ve", "score_sde_ve", "sde ve"),
    "LCMScheduler": ("lcm",),
}

ALIASES: dict[str, str] = {
    **{short: name for name, shorts in _SHORT.items() for short in shorts},
    **{name.removesuffix("Scheduler").lower(): name for name in NAMES},
}


def resolve(name: str) -> str:
    """The documented name that ``name`` means, whatever its case.

    Raises:
        RequestError: ``name`` is unknown; the message lists the documented names.
    """
    if isinstance(name, str):
        wanted = " ".join(name.split()).lower()
        for known in NAMES:
            if wanted == known.lower():
                return known
        if wanted in ALIASES:
            return ALIASES[wanted]
    raise RequestError("scheduler", name, f"one of {', '.join(NAMES)}")


def aliases(name: str) -> tuple[str, ...]:
    """The short names of a documented one."""
    return _SHORT[name]
