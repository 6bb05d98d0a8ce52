"""InpaintRequest: what it takes, and the sentence for what it does not."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest

import intarsia
from intarsia import Extend, InpaintRequest, IpAdapter, Lora, RequestError
from intarsia.engine.field_names import SYNONYMS
from intarsia.engine.request_fields import RequestFields

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
    ("seed", -2, "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("seed", 2**64, "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("seed", 7.5, "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("seed", True, "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("seed", "seven", "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("seed", "", "an integer between 0 and 18446744073709551615, or -1 for a random one"),
    ("mask_blur", float("nan"), "a finite number between 0 and 64"),
    ("mask_padding", -1, "one of auto, whole, or an integer between 0 and 1024"),
    ("mask_padding", "some", "one of auto, whole, or an integer between 0 and 1024"),
    ("mask_padding", True, "one of auto, whole, or an integer between 0 and 1024"),
    ("mask_dilate", -257, "an integer between -256 and 256"),
    ("mask_min_area", -1, "an integer between 0 and 268435456, or per cent of the image, for example 0.5%"),
    ("mask_min_area", "120%", "per cent of the image"),
    ("mask_min_area", "5", "per cent of the image"),
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


INK_AND_WASH = (Lora(id="ink", strength=-1), Lora(id="wash", strength=0.5))
LOOSE = {
    "steps": ("20", 20),
    "samples": (2.0, 2),
    "width": (" 512 ", 512),
    "mask_dilate": ("4.0", 4),
    "mask_padding": ("64", 64),
    "mask_min_area": ("64", 64),
    "mask_fill_holes": ("yes", True),
    "extend": ({"left": "64", "top": 8.0}, Extend(left=64, top=8)),
    "guidance_scale": ("75e-1", 7.5),
    "strength": (1, 1.0),
    "mask_blur": ("0", 0.0),
    "karras_sigmas": ("no", False),
    "invert_mask": ("Yes", True),
    "fit_output": (1, True),
    "safety_checker": ("off", False),
    "token_merging": ("yes", True),
    "seed": ("-1", None),
    "ip_adapter": ({"id": "look", "scale": "0.5"}, IpAdapter(id="look", scale=0.5)),
    "loras": ([{"id": "ink", "strength": "-1"}, "wash:0.5"], INK_AND_WASH),
    "prompt": ("20", "20"),
}


@pytest.mark.parametrize("field", LOOSE)
def test_json_and_tables_may_have_numbers_and_flags_as_text(field):
    written, read = LOOSE[field]
    value = getattr(InpaintRequest.parse({field: written}), field)
    assert (value, type(value)) == (read, type(read))


RIGHT_AS_TEXT = [
    ("mask_min_area", "5"),
    ("samples", "2"),
    ("samples", 2.0),
    ("guidance_scale", "7.5"),
    ("karras_sigmas", "yes"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), [row for row in WRONG if row[:2] not in RIGHT_AS_TEXT])
def test_what_is_wrong_in_any_form_is_refused_in_the_same_words(field, value, allowed):
    with pytest.raises(RequestError, match=f"^{field} must be ") as caught:
        InpaintRequest.parse({field: value})
    assert allowed in str(caught.value)


def test_sides_to_extend_as_text():
    assert InpaintRequest(extend=" left = 256, top=64,overlap=0").extend == Extend(left=256, top=64, overlap=0)
    assert InpaintRequest(extend=Extend(right=1)).required_images == ("init_image",)
    assert InpaintRequest().required_images == ("init_image", "mask_image")


@pytest.mark.parametrize(
    ("value", "field", "allowed"),
    [
        ("left", "extend", "sides and pixels, for example left=256,top=64"),
        ("left=1,left=2", "extend", "sides and pixels"),
        ("", "extend", "sides and pixels"),
        ("left=0", "extend", "above 0 on at least one side"),
        ({}, "extend", "above 0 on at least one side"),
        ("left=2049", "extend.left", "between 0 and 2048"),
        ("top=-1", "extend.top", "between 0 and 2048"),
        ({"left": 1.5}, "extend.left", "an integer between 0 and 2048"),
        ({"left": 8, "overlap": 257}, "extend.overlap", "between 0 and 256"),
        ("middle=3", "extend.middle", "middle is no key of extend, which has left, top, right, bottom, overlap"),
        (64, "extend", "sides and pixels, for example left=256,top=64, or an object of left, top, right, bottom"),
    ],
)
def test_what_no_image_is_extended_by(value, field, allowed):
    with pytest.raises(RequestError) as caught:
        InpaintRequest(extend=value)
    assert caught.value.field == field
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"loras": [{"idd": "x"}]}, "loras.0 needs id, which is not in {'idd': 'x'}"),
        ({"loras": [{"id": "x", "weight": 1}]}, "weight is no key of loras.0, which has id, strength"),
        ({"loras": [5]}, "loras.0 must be ID or ID:STRENGTH, for example ink:0.8, or an object of id, strength, not 5"),
        ({"ip_adapter": {"idd": "x"}}, "ip_adapter needs id, which is not in {'idd': 'x'}"),
        ({"ip_adapter": {"id": "x", "weight": 1}}, "weight is no key of ip_adapter, which has id, scale, image"),
        ({"ip_adapter": 5}, "ip_adapter must be the ID of an IP adapter, or an object of id, scale, image, not 5"),
    ],
)
def test_what_is_wrong_inside_of_a_field_is_said_in_a_sentence(fields, sentence):
    with pytest.raises(RequestError) as caught:
        InpaintRequest(**fields)
    assert str(caught.value) == sentence


def test_no_mask_padding_is_the_whole_image():
    assert InpaintRequest().mask_padding == "auto"
    assert InpaintRequest(mask_padding=None) == InpaintRequest.parse({"mask_padding": "whole"})


def test_token_merging_in_loose_form():
    assert InpaintRequest.parse({"token_merging": "0.5"}).token_merging == 0.5
    with pytest.raises(RequestError, match="token_merging must be"):
        InpaintRequest.parse({"token_merging": "0.9"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cfg_scale", "it is guidance_scale here"),
        ("sampler_name", "it is scheduler here"),
        ("num_inference_steps", "it is steps here"),
        ("image", "it is init_image here"),
        ("mask", "it is mask_image here"),
        ("denoising_strength", "it is strength here"),
        ("Seeds", "it is seed here"),
        ("W", "use width"),
        ("generator", "seed takes a number"),
        ("mask_bluur", "did you mean mask_blur?"),
        ("Strength", "did you mean strength?"),
        ("xyz", "known fields: algorithm_type, clip_skip, "),
    ],
)
def test_an_unknown_field_is_answered_with_what_was_probably_meant(name, hint):
    with pytest.raises(RequestError) as caught:
        InpaintRequest(**{name: 1})
    assert str(caught.value).startswith(f"{name} is not a field of a request: {hint}")


def test_names_of_other_tools_name_fields_and_are_none():
    names = [name for others in SYNONYMS.values() for name in others]
    assert set(SYNONYMS) <= set(InpaintRequest.model_fields)
    assert not set(names) & set(InpaintRequest.model_fields)
    assert len(names) == len(set(names))


def test_types_of_keyword_arguments_are_those_of_the_fields():
    declared = get_type_hints(RequestFields, localns=vars(intarsia.engine.request))
    assert declared.keys() == InpaintRequest.model_fields.keys()


@pytest.mark.slow
def test_a_type_checker_sees_a_wrong_argument(tmp_path):
    """The constructor and the one-line call, field by field; what is right in it is no error."""
    api = pytest.importorskip("mypy.api", reason="needs mypy: pip install -e '.[dev]'")
    (tmp_path / "snippet.py").write_text(
        "import pathlib\nimport intarsia\n"
        'intarsia.InpaintRequest(steps="20")\n'
        "intarsia.InpaintRequest(cfg_scale=3)\n"
        'intarsia.InpaintRequest(steps=20, model=pathlib.Path("a"), seed="7", loras=["ink:0.5", {"id": "wash"}])\n'
        'intarsia.inpaint("a.png", "b.png", "a cat", steps="20")\n'
        'intarsia.inpaint("a.png", "b.png", "a cat", steps=20).images[0].save("c.png")\n'
    )
    (tmp_path / "mypy.ini").write_text("[mypy]\n")  # of an empty file mypy says that it has no section
    settings = ["--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    settings += ["--config-file", str(tmp_path / "mypy.ini")]
    found, trouble, _ = api.run([*settings, "--ignore-missing-imports", str(tmp_path / "snippet.py")])
    errors = [line for line in found.splitlines() if ": error: " in line]
    assert trouble == ""
    assert [line.split(":")[1] for line in errors] == ["3", "4", "6"], found


@pytest.mark.parametrize("function", ["inpaint", "compare"])
def test_arguments_of_an_engine_are_refused_by_name(function, image_and_mask):
    with pytest.raises(RequestError, match=rf"^device is an argument of intarsia\.Engine, not of {function}: open one"):
        getattr(intarsia, function)(*image_and_mask, device="cpu")


def test_one_line_keeps_its_engine_and_opens_another_after_it_was_closed(image_and_mask, monkeypatch):
    from intarsia import api

    opened = []

    def engine() -> intarsia.Engine:
        opened.append(intarsia.Engine("null"))
        return opened[-1]

    monkeypatch.setattr(api, "Engine", engine)
    monkeypatch.setattr(api, "_kept", api._KeptEngine())
    image, mask = image_and_mask
    results = [intarsia.inpaint(image, mask, "a cat", seed=7, steps=4) for _ in range(2)]
    assert [result.meta["prompt"] for result in results] == ["a cat", "a cat"]
    assert results[0].images[0].tobytes() == results[1].images[0].tobytes()
    assert len(opened) == 1
    opened[0].close()
    assert intarsia.inpaint(image, mask).plan.prompt.prompt == ""
    assert len(opened) == 2
    with pytest.raises(RequestError, match="init_image is given by the argument image"):
        intarsia.inpaint(image, mask, init_image=image)
    with pytest.raises(RequestError, match="it is guidance_scale here"):
        intarsia.inpaint(image, mask, cfg_scale=3)
    opened[1].close()
