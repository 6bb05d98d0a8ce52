"""``pony``: POST /api/v6/images/inpaint for Pony models."""

from __future__ import annotations

from intarsia.endpoints.endpoint import Endpoint
from intarsia.endpoints.number_fields import Whole

__all__ = ["PONY"]

PONY = Endpoint(
    name="pony",
    path="/api/v6/images/inpaint",
    title="Inpaint with a Pony model",
    documents=("002", "003"),
    required=("model_id", "init_image", "mask_image"),
    defaults={
        "prompt": "",
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "samples": 1,
        "steps": 21,
        "guidance_scale": 7.5,
        "strength": 0.7,
        "scheduler": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        "algorithm_type": "sde-dpmsolver++",
        "clip_skip": 2,
        "safety_checker": True,
        "safety_checker_type": "sensitive_content_text",
        "enhance_prompt": False,
        "tomesd": False,
        "base64": False,
        "temp": False,
        "instant_response": False,
    },
    limits={"width": Whole(512, 1024, 8), "height": Whole(512, 1024, 8), "clip_skip": Whole(1, 4)},
)
