"""How much noise a model was trained with at each timestep, from its scheduler configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from intarsia.errors import RequestError, WeightsError, shown
from intarsia.schedulers.tables import Array

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["leading", "trailing", "linspace"]
"""How steps are spread over the trained timesteps (Lin et al. 2024, table 2)."""
PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""What a network's output is: the noise, the velocity √ᾱ ε - √(1-ᾱ) x_0, or the image."""
FinalSigma = Literal["zero", "sigma_min"]
"""The level that the last step ends at: a clean image, or the cleanest trained one."""

BETA_SCHEDULES: tuple[BetaSchedule, ...] = get_args(BetaSchedule)
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)
FINAL_SIGMAS: tuple[FinalSigma, ...] = get_args(FinalSigma)

# Configuration keys that choose a solver or a curve rather than the noise; diffusers carries them from a
# model's configuration into whatever scheduler class is made of it.
SOLVER_KEYS = (
    "algorithm_type",
    "euler_at_final",
    "lower_order_final",
    "predict_x0",
    "solver_order",
    "solver_type",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)
# Those of all solvers; each reads another's as its own default.
SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
_KNOWN = dict.fromkeys(SOLVER_KEYS, "true, false") | {
    "algorithm_type": "a name",
    "solver_order": "1, 2, 3",
    "solver_type": ", ".join(SOLVER_TYPES),
}
MOST_TIMESTEPS = 10_000
"""Training steps of a schedule; published ones have 1,000. Every table has an array of that length."""

# Keys whose given value would make a step non-linear, or a process that is not Stable Diffusion's.
REFUSED: dict[str, tuple[object, ...]] = {
    "clip_sample": (None, False),
    "thresholding": (None, False),
    "use_beta_sigmas": (None, False),
    "use_lu_lambdas": (None, False),
    "use_flow_sigmas": (None, False),
    "use_dynamic_shifting": (None, False),
    "interpolation_type": (None, "linear"),
    "timestep_type": (None, "discrete"),
    "variance_type": (None, "fixed_small"),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "disable_corrector": (None, [], ()),
    "original_inference_steps": (None, 50),
    "timestep_scaling": (None, 10),
    "lambda_min_clipped": (None, "-Infinity", -math.inf),
}


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The variance-preserving process x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε that a network was trained on.

    The defaults are Stable Diffusion 1.5's published scheduler configuration. ``timestep_spacing`` and
    ``final_sigmas_type`` are None where the solver's own default holds; ``options`` are further solver
    settings found in a model's configuration.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    num_train_timesteps: int = 1000
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    rescale_betas_zero_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing | None = None
    final_sigmas_type: FinalSigma | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """From a model's ``scheduler_config.json``; keys that it lacks are Stable Diffusion 1.5's.

        Raises:
            WeightsError: a setting that no table can follow (``clip_sample``, thresholding, flow matching),
                named with its value.
        """
        class_name = str(config.get("_class_name", ""))[:120]
        if "FlowMatch" in class_name or class_name.startswith("EDM"):
            raise WeightsError(f"scheduler configuration: {class_name} is not a Stable Diffusion noise schedule")
        for key, allowed in REFUSED.items():
            if key in config and config[key] not in allowed:
                raise WeightsError(f"scheduler configuration: {key}={shown(config[key])} is not supported")

        given = {key: value for key, value in config.items() if value is not None}
        names = {field.name for field in fields(cls)} - {"options"}
        values = {key: value for key, value in given.items() if key in names}
        options = tuple((key, given[key]) for key in SOLVER_KEYS if key in given)

        try:
            if "trained_betas" in values:
                betas = _trained(values["trained_betas"])
                values["trained_betas"] = betas
                values["num_train_timesteps"] = len(betas)
            schedule = replace(cls(), **values, options=options)
            schedule.check()
        except (TypeError, ValueError, ArithmeticError) as exc:
            raise WeightsError(f"scheduler configuration: {shown(dict(config))}: {exc}") from exc
        return schedule

    def check(self) -> None:
        """Raise :class:`WeightsError` for values that no schedule can have."""
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("beta_schedule", BETA_SCHEDULES),
            ("prediction_type", PREDICTION_TYPES),
            ("timestep_spacing", SPACINGS),
            ("final_sigmas_type", FINAL_SIGMAS),
        )
        for key, allowed in choices:
            value = getattr(self, key)
            if value is not None and value not in allowed:
                raise _unknown(key, value, ", ".join(allowed))

        for key in ("beta_start", "beta_end"):
            value = getattr(self, key)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not 0 < float(value) <= 1:
                raise _unknown(key, value, "a number above 0 and at most 1")

        for key in ("set_alpha_to_one", "rescale_betas_zero_snr"):
            value = getattr(self, key)
            if not isinstance(value, bool):
                raise _unknown(key, value, "true, false")

        for key, least in (("num_train_timesteps", 2), ("steps_offset", 0)):
            value = getattr(self, key)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if not is_whole or not least <= value <= MOST_TIMESTEPS:
                raise _unknown(key, value, f"a whole number from {least} to {MOST_TIMESTEPS}")

        for key, value in self.options:
            if not _is_usable(key, value):
                raise _unknown(key, value, _KNOWN[key])

        betas = self.betas
        are_shares = np.isfinite(betas) & (betas > 0) & (betas <= 1)
        if len(betas) < 2 or not are_shares.all():
            raise WeightsError("scheduler configuration: betas must lie between 0 and 1")

    @cached_property
    def betas(self) -> Array:
        """Variance added at each training step, shape [num_train_timesteps]."""
        if self.trained_betas is not None:
            betas = np.array(self.trained_betas)
        else:
            betas = self._curve_of_betas()

        if self.rescale_betas_zero_snr:
            return _zero_terminal_snr(betas)
        return betas

    def _curve_of_betas(self) -> Array:
        """The betas of ``beta_schedule``."""
        count = self.num_train_timesteps

        if self.beta_schedule == "linear":
            return np.linspace(self.beta_start, self.beta_end, count)

        if self.beta_schedule == "scaled_linear":
            roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, count)
            rounded = roots.astype(np.float32)
            return np.square(rounded).astype(np.float64)

        if self.beta_schedule == "squaredcos_cap_v2":
            # Nichol & Dhariwal 2021, "Improved DDPM", eq. 17 with s = 0.008.
            s = 0.008
            time = np.arange(count + 1) / count
            alphas_cumprod = np.cos((time + s) / (1 + s) * math.pi / 2) ** 2
            betas = 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]
            capped: Array = np.minimum(betas, 0.999)
            return capped

        raise RequestError("beta_schedule", self.beta_schedule, f"one of {', '.join(BETA_SCHEDULES)}")

    @cached_property
    def alphas_cumprod(self) -> Array:
        """ᾱ_t, the share of the image's variance left at each timestep.

        Rounded to float32 where the training code rounds: near the clean end 1 - ᾱ then differs by 4e-5 of
        itself from its exact value, and the rounded levels are those that networks were trained with and that
        other programs sample with. Everything after this is float64.
        """
        alphas = np.float32(1) - self.betas.astype(np.float32)
        rounded = np.cumprod(alphas, dtype=np.float64).astype(np.float32)
        product = rounded.astype(np.float64)
        if self.rescale_betas_zero_snr:
            product[-1] = 2.0**-24  # a ratio of infinity cannot be stepped from; diffusers' choice of "almost"
        return product

    @cached_property
    def sigmas(self) -> Array:
        """Noise-to-signal ratio √((1-ᾱ)/ᾱ) at each timestep, increasing."""
        noise_share = 1 - self.alphas_cumprod
        return np.sqrt(noise_share / self.alphas_cumprod)

    @cached_property
    def log_sigmas(self) -> Array:
        """log of :attr:`sigmas`."""
        return np.log(self.sigmas)

    def timestep_of(self, sigmas: Array) -> Array:
        """Fractional timesteps whose noise-to-signal ratio is ``sigmas``, linear in log σ, clipped to the ends."""
        trained = np.arange(len(self.log_sigmas), dtype=np.float64)
        above_zero = np.maximum(sigmas, 1e-10)
        return np.interp(np.log(above_zero), self.log_sigmas, trained)

    def sigma_of(self, timesteps: Array) -> Array:
        """Noise-to-signal ratio at fractional ``timesteps``, linear between the trained ones."""
        trained = np.arange(len(self.sigmas), dtype=np.float64)
        return np.interp(timesteps, trained, self.sigmas)


def alpha_sigma(sigma: float) -> tuple[float, float]:
    """(√ᾱ, √(1-ᾱ)) at noise-to-signal ratio ``sigma``."""
    alpha = 1 / math.sqrt(1 + sigma * sigma)
    return alpha, sigma * alpha


def log_snr(sigma: float) -> float:
    """λ = log(√ᾱ/√(1-ᾱ)) = -log σ; infinite at the clean end."""
    if sigma <= 0:
        return math.inf
    return -math.log(sigma)


def _unknown(key: str, value: object, known: str) -> WeightsError:
    return WeightsError(f"scheduler configuration: {key}={shown(value)}, known: {known}")


def _trained(betas: object) -> tuple[float, ...]:
    """``trained_betas`` of a configuration."""
    if not isinstance(betas, list | tuple) or not 2 <= len(betas) <= MOST_TIMESTEPS:
        raise _unknown("trained_betas", betas, f"a list of 2 to {MOST_TIMESTEPS} numbers")

    has_other = any(isinstance(beta, bool | str) for beta in betas)
    if has_other:
        raise _unknown("trained_betas", betas, "a list of numbers")
    return tuple(float(beta) for beta in betas)


def _is_usable(key: str, value: object) -> bool:
    """Whether a solver setting of a configuration is of a kind that solvers take."""
    if key == "solver_order":
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number and value in (1, 2, 3)
    if key == "solver_type":
        return isinstance(value, str) and value in SOLVER_TYPES
    if key == "algorithm_type":
        return isinstance(value, str)
    return isinstance(value, bool)


def _zero_terminal_snr(betas: Array) -> Array:
    """Shift and scale √ᾱ so that the last step is pure noise (Lin et al. 2024, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0], root[-1]
    rescaled = (root - last) * first / (first - last)

    alphas_cumprod = rescaled**2
    alphas = alphas_cumprod[1:] / alphas_cumprod[:-1]
    return 1 - np.concatenate([alphas_cumprod[:1], alphas])
