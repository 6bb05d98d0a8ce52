"""InpaintRequest: what it takes, and the sentence for what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from intarsia import InpaintRequest, RequestError

WRONG = [
    ("samples", 0, "an integer between 1 and 4"),
    ("samples", 5, "an integer between 1 and 4"),
    ("samples", "2", "an integer between 1 and 4"),
    ("samples", True, "an integer between 1 and 4"),
    ("samples", 2.0, "an integer between 1 and 4"),
    ("width", 63, "an integer between 64 and 2048"),
    ("height", 2049, "an integer between 64 and 2048"),
    ("steps", 0, "an integer between 1 and 150"),
    ("steps", 10**6, "an integer between 1 and 150"),
    ("guidance_scale", -0.5, "a finite number between 0 and 20"),
    ("guidance_scale", 20.5, "a finite number between 0 and 20"),
    ("guidance_scale", float("nan"), "a finite number between 0 and 20"),
    ("guidance_scale", float("inf"), "a finite number between 0 and 20"),
    ("guidance_scale", "7.5", "a finite number between 0 and 20"),
    ("strength", -0.1, "a finite number between 0 and 1"),
    ("strength", 3, "a finite number between 0 and 1"),
    ("strength", True, "a finite number between 0 and 1"),
    ("clip_skip", 9, "an integer between 1 and 8"),
    ("seed", -2, "an integer between 0 and 18446744073709551615"),
    ("seed", 2**64, "an integer between 0 and 18446744073709551615"),
    ("seed", 7.5, "an integer between 0 and 18446744073709551615"),
    ("seed", True, "an integer between 0 and 18446744073709551615"),
    ("seed", "seven", "an integer between 0 and 18446744073709551615"),
    ("seed", "", "an integer between 0 and 18446744073709551615"),
    ("mask_blur", float("nan"), "a finite number between 0 and 64"),
    ("masked_content", "nothing", "one of original, fill, noise, blank"),
    ("safety_action", "hide", "one of sensitive_content_text, blur, pixelate, black"),
    ("prompt", None, "a string"),
    ("prompt", 7, "a string"),
    ("karras_sigmas", "yes", "true or false"),
    ("token_merging", 0.9, "between 0 and 0.75"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), WRONG)
def test_wrong_values_name_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(RequestError) as caught:
        InpaintRequest(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field} must be ")
    assert allowed in message
    assert repr(value) in message
    assert "\n" not in message
    assert caught.value.field == field


def test_unknown_fields_are_refused_with_the_known_ones():
    with pytest.raises(RequestError, match=r"stepz is not a field .*steps"):
        InpaintRequest(stepz=3)


def test_megabytes_of_text_do_not_end_up_in_the_message():
    with pytest.raises(RequestError) as caught:
        InpaintRequest(samples="x" * 10_000_000)
    assert len(str(caught.value)) < 400


def test_numpy_scalars_and_integers_for_floats():
    request = InpaintRequest(samples=np.int64(3), guidance_scale=4, strength=np.float64(0.5), seed=0)
    assert (request.samples, request.guidance_scale, request.strength, request.seed) == (3, 4.0, 0.5, 0)


def test_loras_name_the_part_that_is_wrong():
    with pytest.raises(RequestError, match=r"loras\.0\.strength"):
        InpaintRequest(loras=[{"id": "ink", "strength": 9}])


def test_a_body_that_is_not_an_object():
    with pytest.raises(RequestError, match="request must be a JSON object"):
        InpaintRequest.parse([1, 2])  # type: ignore[arg-type]
