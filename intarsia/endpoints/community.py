"""``community``: POST /api/v6/images/inpaint for community models."""

from __future__ import annotations

from intarsia.endpoints.endpoint import Endpoint

__all__ = ["COMMUNITY"]

COMMUNITY = Endpoint(
    name="community",
    path="/api/v6/images/inpaint",
    title="Inpaint with a community model",
    documents=("000",),
    required=("model_id", "init_image", "mask_image"),
    defaults={
        "prompt": "",
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "samples": 1,
        "steps": 31,
        "guidance_scale": 7.5,
        "strength": 0.7,
        "scheduler": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        "algorithm_type": "none",
        "clip_skip": 2,
        "safety_checker": False,
        "safety_checker_type": "sensitive_content_text",
        "enhance_prompt": True,
        "tomesd": False,
        "base64": False,
        "temp": False,
        "instant_response": False,
    },
)
