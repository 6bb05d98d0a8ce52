"""``realtime``: POST /api/v6/realtime/inpaint.

Steps and scheduler have no default here: they are the model's, ``[models.X.defaults.realtime]``.
"""

from __future__ import annotations

from intarsia.endpoints.endpoint import Endpoint
from intarsia.endpoints.number_fields import Number

__all__ = ["REALTIME"]

REALTIME = Endpoint(
    name="realtime",
    path="/api/v6/realtime/inpaint",
    title="Inpaint in real time",
    documents=("004",),
    required=("prompt", "init_image", "mask_image"),
    defaults={
        "negative_prompt": "",
        "width": 512,
        "height": 512,
        "samples": 1,
        "guidance_scale": 7.5,
        "strength": 0.7,
        "use_karras_sigmas": True,
        "algorithm_type": "none",
        "clip_skip": 2,
        "safety_checker": False,
        "safety_checker_type": "sensitive_content_text",
        "enhance_prompt": False,
        "tomesd": False,
        "base64": False,
        "temp": False,
        "instant_response": False,
    },
    # Its document has no limits; distilled models, which are the fast ones, are published with 0.
    limits={"guidance_scale": Number(0, 20)},
    realtime=True,
)
