"""What the documents say, field by field and endpoint by endpoint; written from them, not from the code.

A row is (value, what the plan then has) or (value, ``Wrong(exact message)``).
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from intarsia.schedulers import NAMES


def encoded_image(size: tuple[int, int] = (96, 64), value: int | None = None) -> str:
    """A PNG as base64."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) if value is None else np.uint8(value)
    image = Image.fromarray(pixels) if value is None else Image.new("L", size, int(pixels))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


IMAGE, MASK = encoded_image(), encoded_image(value=255)
MINIMAL = {
    "key": "sk-0123456789",
    "model_id": "nothing",
    "prompt": "a cat",
    "init_image": IMAGE,
    "mask_image": MASK,
    "safety_checker": "no",
}


@dataclass(frozen=True)
class Wrong:
    """The exact message of the error."""

    message: str


NO_CHECKER = Wrong(
    "safety_checker: no checker is installed for nothing; install one (a [safety.<id>] entry in weights.toml, and "
    'safety = "<id>" in the entry of nothing), or turn safety_checker off'
)
DPM = "DPMSolverMultistepScheduler"
COMMON_DEFAULTS = {
    "negative_prompt": "", "width": 512, "height": 512, "samples": 1, "guidance_scale": 7.5, "strength": 0.7,
    "use_karras_sigmas": True, "clip_skip": 2, "safety_checker_type": "sensitive_content_text", "vae": "model",
    "lora_model": (), "lora_strength": (), "embeddings_model": (),
    "base64": False, "temp": False, "instant_response": False, "webhook": None, "track_id": None,
}  # fmt: skip
REQUIRED = {name: Wrong(f"{name} is required") for name in ("model_id", "init_image", "mask_image")}
DEFAULTS = {
    "community": {
        **COMMON_DEFAULTS, **REQUIRED, "prompt": "", "steps": 31, "scheduler": DPM, "algorithm_type": "",
        "safety_checker": False, "enhance_prompt": True, "tomesd": 0.0,
    },
    "enterprise-pony": {
        **COMMON_DEFAULTS, **REQUIRED, "prompt": "", "steps": 30, "scheduler": DPM, "algorithm_type": "",
        "safety_checker": NO_CHECKER, "enhance_prompt": True, "tomesd": 0.4,
    },
    "pony": {
        **COMMON_DEFAULTS, **REQUIRED, "prompt": "", "steps": 21, "scheduler": DPM, "algorithm_type": "sde-dpmsolver++",
        "safety_checker": NO_CHECKER, "enhance_prompt": False, "tomesd": 0.0,
    },
    # Steps and scheduler of the model that MINIMAL names, which declares none for realtime: the library's own.
    "realtime": {
        **COMMON_DEFAULTS, **REQUIRED, "model_id": "quick", "prompt": Wrong("prompt is required"), "steps": 21,
        "scheduler": DPM, "algorithm_type": "", "safety_checker": False, "enhance_prompt": False, "tomesd": 0.0,
    },
}  # fmt: skip


def whole(name: str, low: int, high: int, *, best: int, above: Any = None) -> list[tuple[Any, Any]]:
    """Rows for an integer of low … high."""
    between = f"between {low} and {high}"
    text = f"an integer {between}"
    rows = [
        (best, best), (str(best), best), (f" {best} ", best), (float(best), best), (f"{best}.0", best),
        (f"+{best}", best), (low, low), (str(low), low),
        (low - 1, Wrong(f"{name} must be {between}, not {low - 1}")),
        (str(low - 1), Wrong(f"{name} must be {between}, not '{low - 1}'")),
        (f"{best}.5", Wrong(f"{name} must be {text}, not '{best}.5'")),
        (best + 0.5, Wrong(f"{name} must be {text}, not {best + 0.5}")),
        ("nan", Wrong(f"{name} must be {text}, not 'nan'")),
        (float("nan"), Wrong(f"{name} must be {text}, not nan")),
        (float("inf"), Wrong(f"{name} must be {text}, not inf")),
        ("1e999", Wrong(f"{name} must be {text}, not '1e999'")),
        (1e300, Wrong(f"{name} must be {between}, not 1e+300")),
        (10**400, Wrong(f"{name} must be {between}, not 1{'0' * 118}…")),
        ("many", Wrong(f"{name} must be {text}, not 'many'")),
        (True, Wrong(f"{name} must be {text}, not True")),
        ([best], Wrong(f"{name} must be {text}, not [{best}]")),
        ({}, Wrong(f"{name} must be {text}, not {{}}")),
    ]  # fmt: skip
    if high < 2**60:  # else the plan cannot be distinguished from its neighbors by a test's eye
        rows += [(high, high), (high + 1, Wrong(f"{name} must be {between}, not {high + 1}"))]
    return rows


def number(name: str, low: float, high: float, *, best: float) -> list[tuple[Any, Any]]:
    """Rows for a number of low … high."""
    between = f"between {low} and {high}"
    text = f"a finite number {between}"
    return [
        (best, best), (str(best), best), (f" {best}\n", best), (low, low), (high, high), (str(high), high),
        (f"{best * 10:g}e-1", best),
        (high + 0.5, Wrong(f"{name} must be {between}, not {high + 0.5}")),
        (str(low - 0.5), Wrong(f"{name} must be {between}, not '{low - 0.5}'")),
        ("", Wrong(f"{name} must be {text}, not ''")),
        ("7,5", Wrong(f"{name} must be {text}, not '7,5'")),
        ("nan", Wrong(f"{name} must be {text}, not 'nan'")),
        ("Infinity", Wrong(f"{name} must be {text}, not 'Infinity'")),
        ("1e999", Wrong(f"{name} must be {text}, not '1e999'")),
        (float("inf"), Wrong(f"{name} must be {text}, not inf")),
        (float("nan"), Wrong(f"{name} must be {text}, not nan")),
        (10**400, Wrong(f"{name} must be {text}, not 1{'0' * 118}…")),
        (False, Wrong(f"{name} must be {text}, not False")),
        ([best], Wrong(f"{name} must be {text}, not [{best}]")),
    ]  # fmt: skip


def flag(name: str, yes: Any = True, no: Any = False) -> list[tuple[Any, Any]]:
    """Rows for a flag."""
    allowed = "yes or no (or true, false, 1, 0)"
    on = [True, "yes", "YES", " Yes ", "true", "True", "on", "y", "1", 1, 1.0]
    off = [False, "no", "No", "false", "off", "n", "0", 0, 0.0, -0.0]
    wrong = ["", "maybe", 2, -1, 0.5, float("nan"), [], {}, "yes\0", "null"]
    return [
        *((form, yes) for form in on),
        *((form, no) for form in off),
        *((form, Wrong(f"{name} must be {allowed}, not {form!r}")) for form in wrong),
    ]


def text(name: str, longest: int) -> list[tuple[Any, Any]]:
    """Rows for a text."""
    return [
        ("a red circle", "a red circle"), ("", ""), ("  kept  ", "  kept  "), ("grüße, 猫 🐈", "grüße, 猫 🐈"),
        (7, "7"), ("x" * longest, "x" * longest),
        ("x" * (longest + 1), Wrong(f"{name} must be at most {longest} characters, not {longest + 1}")),
        ("x" * 10_000_000, Wrong(f"{name} must be at most {longest} characters, not 10000000")),
        ("half \ud83d", Wrong(f"{name} must be valid Unicode, not 'half \\ud83d'")),
        (True, Wrong(f"{name} must be a string, not True")),
        (1.5, Wrong(f"{name} must be a string, not 1.5")),
        (["a"], Wrong(f"{name} must be a string, not ['a']")),
    ]  # fmt: skip


FORMS = "a URL, a data URI or base64 text"
ALGORITHMS = "none, dpmsolver, dpmsolver++, sde-dpmsolver, sde-dpmsolver++, dpmsolver+++"
ACTIONS = "sensitive_content_text, blur, pixelate, black"
LINE = "a number, true, false or text of at most 4096 characters"
SEED = f"an integer between 0 and {2**64 - 1}, or -1 for a random one"
URL = "an http or https URL of at most 4096 characters"
STRENGTHS = "between 0.1 and 1: a number, comma-separated numbers or a list"


def image_cases(name: str) -> list[tuple[Any, Any]]:
    short = f"{name}: 'photo.png' is not a URL, data URI or base64 (paths are not read here) of an image"
    required = Wrong(f"{name} is required")
    good = encoded_image(value=255)
    return [
        (good, (96, 64)), (f"data:image/png;base64,{good}", (96, 64)), (f"data:image/png;base64, {good}", (96, 64)),
        ("", required), ("  ", required),
        ("photo.png", Wrong(short)),
        ("http://127.0.0.1:9/a.png?token=secret", Wrong(
            f"{name}: Unable to fetch image from provided URL: its host is not public (private, local or reserved "
            "address); allow it with allow_private_urls (http://127.0.0.1:9/a.png)")),
        (7, Wrong(f"{name} must be {FORMS}, not 7")),
        ([good[:5]], Wrong(f"{name} must be {FORMS}, not {[good[:5]]!r}")),
    ]  # fmt: skip


KNOWN = "intarsia-tiny, intarsia-tiny-base, intarsia-tiny-lcm, nothing, quick"
ROWS = {
    "key": [(value, None) for value in ("sk-1", "", 7, ["x"], {"a": 1}, True)],
    "model_id": [
        ("nothing", "nothing"), ("NOTHING", "nothing"), ("quick", "quick"), (" nothing ", "nothing"),
        ("nope", Wrong(f"Model not found: nope; the registry has: {KNOWN}")),
        (7, Wrong(f"Model not found: 7; the registry has: {KNOWN}")),
        ("x" * 201, Wrong("model_id must be at most 200 characters, not 201")),
        (["nothing"], Wrong("model_id must be a string, not ['nothing']")),
    ],
    "prompt": text("prompt", 10_000),
    "negative_prompt": text("negative_prompt", 10_000),
    "init_image": image_cases("init_image"),
    "mask_image": image_cases("mask_image"),
    "samples": whole("samples", 1, 4, best=3),
    "steps": [*whole("steps", 1, 150, best=21)[:6], *whole("steps", 1, 150, best=21)[8:]],
    "num_inference_steps": [
        (30, 30), ("41", 41), (21.0, 21), (150, 150),
        (151, Wrong("num_inference_steps must be between 1 and 150, not 151")),
        ("21.5", Wrong("num_inference_steps must be an integer between 1 and 150, not '21.5'")),
    ],
    "guidance_scale": number("guidance_scale", 1, 20, best=7.5),
    "strength": [
        *number("strength", 0, 1, best=0.7), (-0.0, 0.0), ("-0", 0.0), (0.5, 0.5),
        (3, Wrong("strength must be between 0 and 1, not 3")),
    ],
    "scheduler": [
        *((name, name) for name in NAMES),
        ("eulerdiscretescheduler", "EulerDiscreteScheduler"), (" euler a ", "EulerAncestralDiscreteScheduler"),
        ("unipc", "UniPCMultistepScheduler"), ("DPM++ 2M", DPM),
        *((value, Wrong(f"scheduler must be one of {', '.join(NAMES)}, not {value!r}"))
          for value in ("nope", "", 7, True, ["euler"])),
    ],
    "use_karras_sigmas": flag("use_karras_sigmas"),
    "algorithm_type": [
        ("none", ""), ("no", ""), ("", ""), ("None", ""), ("dpmsolver+++", "sde-dpmsolver++"),
        ("sde-dpmsolver++", "sde-dpmsolver++"), ("dpmsolver++", "dpmsolver++"), (" DPMSolver++ ", "dpmsolver++"),
        *((value, Wrong(f"algorithm_type must be one of {ALGORITHMS}, not {value!r}"))
          for value in ("dpmsolver++++", 2, True, ["none"])),
    ],
    "safety_checker": flag("safety_checker", yes=NO_CHECKER, no=False),
    "safety_checker_type": [
        ("blur", "blur"), ("pixelate", "pixelate"), ("black", "black"), ("BLACK ", "black"),
        ("sensitive_content_text", "sensitive_content_text"), ("Sensitive content-text", "sensitive_content_text"),
        *((value, Wrong(f"safety_checker_type must be one of {ACTIONS}, not {value!r}"))
          for value in ("hide", "", 7, True, ["blur"])),
    ],
    "enhance_prompt": flag("enhance_prompt"),
    "tomesd": flag("tomesd", yes=0.4, no=0.0),
    "seed": [
        *((form, 7) for form in (7, "7", " 7 ", 7.0, "7.0", "+7")), (0, 0), ("0", 0), ("-0", 0), (-0.0, 0),
        *((seed, seed) for seed in (2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)), (str(2**64 - 1), 2**64 - 1),
        *((value, Wrong(f"seed must be {SEED}, not {value!r}"))
          for value in (2**64, str(2**64), -2, "-2", 7.5, "7.5", "nan", float("nan"), True, [7], {}, "\uff17", "1_0")),
    ],
    "vae": [
        ("", "model"), (" ", "model"), ("mine", Wrong("VAE not found: mine; the registry has: intarsia-tiny-vae")),
        (7, Wrong("VAE not found: 7; the registry has: intarsia-tiny-vae")),
        (True, Wrong("vae must be a string, not True")),
    ],
    "lora_model": [
        ("", ()), ([], ()),
        ("ink", Wrong("LoRA not found: ink; the registry has: pastel, shade, stripes")),
        (["ink", "pen"], Wrong("LoRA not found: ink; the registry has: pastel, shade, stripes")),
        *((value, Wrong(f"lora_model must be comma-separated names or a list of names, not {value!r}"))
          for value in ("a,,b", "a,", ["a", ""], ["a", 3], 7, True, {"a": 1})),
    ],
    "embeddings_model": [
        ("", ()), ([], ()),
        ("ink", Wrong("embedding not found: ink; the registry has: tiny-sun")),
        ("tiny-sun", Wrong("embedding tiny-sun fits the families tiny-inpaint, tiny, not sd15-inpaint of nothing")),
        *((value, Wrong(f"embeddings_model must be comma-separated names or a list of names, not {value!r}"))
          for value in ("a,,b", ["a", 3], 7, True)),
    ],
    "lora_strength": [
        (0.7, ()), ("0.7", ()), ("", ()), ([0.7], ()), (1, ()), ([], ()),
        *((value, Wrong(f"lora_strength must be {STRENGTHS}, not {value!r}"))
          for value in (0, 1.5, "0.05", "a", "0.5,,0.5", [0.5, None], True, "nan", {"a": 1})),
        ("0.7,0.5", Wrong("lora_strength has 2 values for 0 names in lora_model; give one for all, or one for each")),
    ],
    "ip_adapter_id": [
        ("", None), ("ip-adapter_sd15", Wrong("ip_adapter_image is required with ip_adapter_id")),
        (True, Wrong("ip_adapter_id must be a string, not True")),
    ],
    "ip_adapter_scale": [
        (0.5, None), ("0.5", None), ("", None), (2, Wrong("ip_adapter_scale must be between 0 and 1, not 2")),
        ("nan", Wrong("ip_adapter_scale must be a finite number between 0 and 1, not 'nan'")),
    ],
    "ip_adapter_image": [
        ("", None), (IMAGE, Wrong("ip_adapter_id is required with ip_adapter_image")),
        (7, Wrong(f"ip_adapter_image must be {FORMS}, not 7")),
    ],
    "base64": flag("base64"),
    "temp": flag("temp"),
    "instant_response": flag("instant_response"),
    "webhook": [
        ("https://example.com/done?id=1", "https://example.com/done?id=1"), (" http://a:80 ", "http://a:80"),
        ("", None),
        *((value, Wrong(f"webhook must be {URL}, not {value!r}"))
          for value in ("example.com", "ftp://a", "http://", "http://a b", 7, True, ["http://a"])),
        # What may be secret is not quoted: user, path, query.
        *((value, Wrong(f"webhook must be {URL}, not {quoted!r}"))
          for value, quoted in (
              ("ftp://user:secret@a.com/b?token=c", "ftp://a.com…"), ("example.com/hooks/secret", "example.com…"),
              ("http:///secret", "http://…"), ("u:p@secret@a.com", "a.com…"),
              ("example.com?secret", "example.com…"), ("s" * 5000, "s" * 60 + "…"),
              ("htp:/example.com/hooks/secret", "htp:/example.com…"), ("secret@example.com", "example.com…"))),
    ],
    "track_id": [
        *((value, value) for value in ("order-7", "", 7, 7.5, True, False, 0, -3, "7", "x" * 4096, 2**64)),
        *((value, Wrong(f"track_id must be {LINE}, not {value!r}"))
          for value in ([1], {"a": 1}, float("inf"))),
    ],
}  # fmt: skip
OWN_ROWS = {
    "community": {"width": whole("width", 64, 1024, best=500), "height": whole("height", 64, 1024, best=333),
                  "clip_skip": whole("clip_skip", 1, 8, best=3)},
    "pony": {
        name: [
            (512, 512), ("512", 512), (768.0, 768), (1024, 1024), ("1024.0", 1024), (520, 520),
            (500, Wrong(f"{name} must be between 512 and 1024, not 500")),
            ("511", Wrong(f"{name} must be between 512 and 1024, not '511'")),
            (1032, Wrong(f"{name} must be between 512 and 1024, not 1032")),
            (513, Wrong(f"{name} must be divisible by 8, not 513")),
            ("600.5", Wrong(f"{name} must be an integer between 512 and 1024, not '600.5'")),
            ("", Wrong(f"{name} must be an integer between 512 and 1024, not ''")),
        ]
        for name in ("width", "height")
    } | {"clip_skip": whole("clip_skip", 1, 4, best=3)},
}  # fmt: skip
OWN_ROWS["enterprise-pony"] = OWN_ROWS["community"]
# Only its document has no limits of guidance: 0 … 1 is without, as in diffusers.
OWN_ROWS["realtime"] = OWN_ROWS["community"] | {
    "guidance_scale": [
        *number("guidance_scale", 0, 20, best=7.5)[:2],
        (20, 20.0),
        ("20", 20.0),
        (1, 1.0),
        ("1", 1.0),
        (1.5, 1.5),
        *((value, 1.0) for value in (0, "0", 0.0, 0.5, "0.999", "-0")),
        (-0.5, Wrong("guidance_scale must be between 0 and 20, not -0.5")),
        ("nan", Wrong("guidance_scale must be a finite number between 0 and 20, not 'nan'")),
    ]
}
# Realtime's model may be left out.
REQUIRED_BLANK = {name: [("", Wrong("model_id is required"))] for name in ("community", "enterprise-pony", "pony")}


def rows_of(endpoint: str, field: str) -> list[tuple[Any, Any]]:
    rows = OWN_ROWS[endpoint].get(field) or ROWS[field]
    if field == "model_id":
        rows = [*rows, *REQUIRED_BLANK.get(endpoint, [("", "quick")])]
    if field == "prompt" and endpoint == "realtime":
        rows = [("", Wrong("prompt is required")), *(row for row in rows if row[0] != "")]
    default = DEFAULTS[endpoint].get("steps" if field == "num_inference_steps" else field)
    # A drawn seed cannot be in a table: test_a_seed_is_drawn.
    return rows if field == "seed" else [(None, default), *rows]


FIELDS = sorted(set(ROWS) | set(OWN_ROWS["community"]))
