"""``enterprise-pony``: POST /api/v1/enterprise/pony/inpaint."""

from __future__ import annotations

from intarsia.endpoints.endpoint import Endpoint

__all__ = ["ENTERPRISE_PONY"]

ENTERPRISE_PONY = Endpoint(
    name="enterprise-pony",
    path="/api/v1/enterprise/pony/inpaint",
    title="Inpaint with a Pony model on an enterprise server",
    documents=("001",),
    required=("model_id", "init_image", "mask_image"),
    defaults={
        "prompt": "",
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "samples": 1,
        "steps": 30,
        "guidance_scale": 7.5,
        "strength": 0.7,
        "scheduler": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        "algorithm_type": "none",
        "clip_skip": 2,
        "safety_checker": True,
        "safety_checker_type": "sensitive_content_text",
        "enhance_prompt": True,
        "tomesd": True,
        "base64": False,
        "temp": False,
        "instant_response": False,
    },
)
