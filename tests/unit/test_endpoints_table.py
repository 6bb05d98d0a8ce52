"""Every documented field of every endpoint: documented forms, other forms, null, absent, and wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from intarsia import Registry, RequestError, WeightsError
from intarsia.endpoints import ENDPOINTS, openapi, read, reply_schemas, request_schema
from intarsia.engine.resolve import resolve
from intarsia.images.access import Access
from tests.unit.endpoint_table import DEFAULTS, FIELDS, IMAGE, MINIMAL, NO_CHECKER, Wrong, rows_of

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")

REGISTRY = """
schema = 1
default = "nothing"
realtime = "quick"
[models.nothing]
family = "sd15-inpaint"
path = "nothing"
prompt_template = "best, {prompt}"
token_merging = 0.4
[models.quick]
family = "sd15-inpaint"
path = "nothing"
[models.quick.defaults]
scheduler = "PNDMScheduler"
steps = 50
[models.quick.defaults.realtime]
scheduler = "EulerDiscreteScheduler"
steps = 6
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "nothing").mkdir()
    (folder / "nothing" / "model_index.json").write_text("{}")
    (folder / "weights.toml").write_text(REGISTRY)
    return Registry(folder / "weights.toml")


def effective(payload: dict[str, Any], endpoint: str, registry: Registry) -> dict[str, Any]:
    """What would be done, in documented names; numbers and flags as they are in plan and reply options."""
    documented = read(payload, endpoint, registry)
    plan = resolve(documented.request, registry, Access(allow_paths=False)).plan
    width, height = plan.canvas.geometry.output
    return {
        "model_id": plan.model.id,
        "prompt": plan.prompt.asked,
        "negative_prompt": plan.prompt.negative_prompt,
        "init_image": plan.canvas.geometry.source,
        "mask_image": plan.canvas.geometry.source,
        "width": width,
        "height": height,
        "samples": len(plan.seeds),
        "steps": plan.sampler.steps,
        "num_inference_steps": plan.sampler.steps,
        "guidance_scale": plan.guidance_scale,
        "strength": plan.sampler.strength,
        "scheduler": plan.sampler.scheduler,
        "use_karras_sigmas": plan.sampler.karras,
        "algorithm_type": plan.sampler.algorithm_type,
        "clip_skip": plan.prompt.clip_skip,
        "safety_checker": plan.safety != "off",
        "safety_checker_type": plan.safety_action,
        "enhance_prompt": plan.prompt.prompt == f"best, {plan.prompt.asked}",
        "tomesd": plan.token_merging.ratio,
        "seed": plan.seeds[0],
        "vae": plan.model.vae,
        "lora_model": tuple(adapter.id for adapter in plan.model.adapters),
        "embeddings_model": tuple(name.partition(":")[0] for name in plan.prompt.embeddings),
        "lora_strength": tuple(adapter.strength for adapter in plan.model.adapters),
        "base64": documented.options.base64,
        "temp": documented.options.temp,
        "instant_response": documented.options.instant_response,
        "webhook": documented.options.webhook,
        "track_id": documented.options.track_id,
    }


def check(payload: dict[str, Any], endpoint: str, field: str, expected: Any, registry: Registry) -> None:
    case = f"{endpoint} {field} = {str(payload.get(field, 'absent'))[:80]!r}"
    if isinstance(expected, Wrong):
        with pytest.raises((RequestError, WeightsError)) as caught:
            effective(payload, endpoint, registry)
        assert str(caught.value) == expected.message, case
    else:
        found = effective(payload, endpoint, registry).get(field)
        assert found == expected, case
        assert type(found) is type(expected) or field in ("guidance_scale", "strength"), case


@pytest.mark.every(2)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("endpoint", list(ENDPOINTS))
def test_every_row_of_the_table_gives_its_value_or_its_sentence(endpoint, field, registry):
    rows = rows_of(endpoint, field)
    assert any(isinstance(expected, Wrong) for _, expected in rows) or field == "key"
    small = {} if endpoint == "pony" else {"width": 64, "height": 64}
    for value, expected in rows:
        check({**MINIMAL, **small, field: value}, endpoint, field, expected, registry)
    absent = {name: value for name, value in (MINIMAL | small).items() if name != field}
    if field != "seed":
        check(absent, endpoint, field, rows[0][1], registry)


def test_table_and_page_are_about_every_field():
    page = (Path(__file__).resolve().parents[2] / "docs" / "requests.md").read_text(encoding="utf-8")
    named = {
        name for line in page.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")[1::2]
    }
    for endpoint in ENDPOINTS.values():
        assert set(FIELDS) == set(endpoint.fields)
        assert set(FIELDS) <= named


def test_a_seed_is_drawn_for_null_blank_and_absent(registry):
    payloads = [MINIMAL, {**MINIMAL, "seed": None}, {**MINIMAL, "seed": ""}, {**MINIMAL, "seed": " "}]
    seeds = {effective(payload, "community", registry)["seed"] for payload in payloads * 2}
    assert len(seeds) == 8


def test_steps_wins_over_num_inference_steps(registry):
    payload = {**MINIMAL, "steps": "12", "num_inference_steps": 40}
    assert effective(payload, "enterprise-pony", registry)["steps"] == 12
    assert effective({**payload, "steps": None}, "enterprise-pony", registry)["steps"] == 40
    assert read(payload, "community", registry).warnings == (
        "num_inference_steps was not used: steps wins where both are given",
    )


def test_realtime_takes_the_registrys_model_and_its_defaults(registry):
    payload = {name: value for name, value in MINIMAL.items() if name != "model_id"}
    found = effective(payload, "realtime", registry)
    assert (found["model_id"], found["scheduler"], found["steps"]) == ("quick", "EulerDiscreteScheduler", 6)
    found = effective({**payload, "guidance_scale": "3", "steps": 9}, "realtime", registry)
    assert (found["guidance_scale"], found["steps"]) == (3.0, 9)


@pytest.mark.parametrize("endpoint", list(ENDPOINTS))
def test_a_models_defaults_go_before_the_documented_ones(endpoint, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("{}")
    table = f"[models.m.defaults.{endpoint}]\nsteps = 4\nguidance_scale = 3\n"
    path = tmp_path / "weights.toml"
    path.write_text(f'schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15"\npath = "m"\n{table}')
    payload = {**MINIMAL, "model_id": "m"}
    found = effective(payload, endpoint, Registry(path))
    assert (found["steps"], found["guidance_scale"]) == (4, 3.0)
    assert effective({**payload, "steps": 8}, endpoint, Registry(path))["steps"] == 8
    for wrong, sentence in [
        ("steps = 0", f"models.m.defaults.{endpoint}: steps must be between 1 and 150, not 0"),
        ("colour = 1", f"models.m.defaults.{endpoint}: colour is not a field of the endpoint {endpoint}"),
    ]:
        path.write_text(path.read_text().replace("guidance_scale = 3", wrong).replace("steps = 4\nsteps", "steps"))
        with pytest.raises(WeightsError) as caught:
            read(payload, endpoint, Registry(path))
        assert str(caught.value) == sentence
        path.write_text(path.read_text().replace(wrong, "guidance_scale = 3"))


LORAS = [
    ("ink", None, [("ink", 1.0)]),
    ("ink, pen", "0.5", [("ink", 0.5), ("pen", 0.5)]),
    (["ink", "pen"], [0.5, "0.25"], [("ink", 0.5), ("pen", 0.25)]),
    ("ink,pen", "0.5, 0.25", [("ink", 0.5), ("pen", 0.25)]),
    ("ink,pen", 1, [("ink", 1.0), ("pen", 1.0)]),
]


@pytest.mark.parametrize(("names", "strengths", "expected"), LORAS)
def test_loras_are_paired_in_order(names, strengths, expected, registry):
    request = read({**MINIMAL, "lora_model": names, "lora_strength": strengths}, "community", registry).request
    assert [(lora.id, lora.strength) for lora in request.loras] == expected


@pytest.mark.parametrize("strengths", ["0.5,0.5", [0.5, 0.5, 0.5, 0.5]])
def test_as_many_strengths_as_loras(strengths, registry):
    with pytest.raises(RequestError, match=r"lora_strength has \d values for 3 names in lora_model"):
        read({**MINIMAL, "lora_model": "a,b,c", "lora_strength": strengths}, "pony", registry)


def test_an_ip_adapter_with_its_image_reaches_the_request(registry):
    fields = {"ip_adapter_id": "ip-adapter_sd15", "ip_adapter_image": IMAGE, "ip_adapter_scale": "0.6"}
    found = read({**MINIMAL, **fields}, "community", registry).request.ip_adapter
    assert (found.id, found.scale, found.image) == ("ip-adapter_sd15", 0.6, IMAGE)
    with pytest.raises(WeightsError, match="IP adapter not found: ip-adapter_sd15; the registry has: tiny-look"):
        effective({**MINIMAL, **fields}, "community", registry)


def test_ignored_keys_are_named_and_their_values_are_not(registry):
    payload = {**MINIMAL, "upscale": "no", "stepz": "hidden", "odd\n": 1, "lora_strength": 1, "ip_adapter_scale": 1}
    warnings = read(payload, "community", registry).warnings
    assert warnings == (
        "ignored, not supported here: upscale",
        "ignored, not a field of the endpoint community: stepz, 'odd\\n'",
        "lora_strength has no effect without lora_model",
        "ip_adapter_scale has no effect without ip_adapter_id",
    )
    many = read({**MINIMAL, **{f"x{number}": 0 for number in range(1000)}}, "community", registry).warnings
    assert many[0].endswith("x9 and 990 more")
    legacy = ("multi_lingual", "self_attention", "upscale", "panorama", "full_url")
    [warning] = read({**MINIMAL, **dict.fromkeys(legacy, "yes")}, "pony", registry).warnings
    assert all(name in warning for name in legacy)


PONY = """
schema = 1
default = "plain"
[models.plain]
family = "sdxl"
path = "x"
stands_in_for = ["pony-realism", "lazymixv4-inpaint"]
[models.my-pony-v6]
family = "sdxl"
path = "x"
[models.other]
family = "sdxl"
path = "x"
aliases = ["Pony_Diffusion"]
[models.declared]
family = "sdxl"
path = "x"
[models.declared.defaults.pony]
steps = 25
"""


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [("plain", "community"), ("my_pony_v6", "pony"), ("other", "pony"), ("pony-diffusion", "pony"),
     ("declared", "pony"), ("pony_realism", "pony"), ("lazymixv4-inpaint", "community")],
)  # fmt: skip
def test_without_an_endpoint_the_model_decides(model, endpoint, tmp_path):
    (tmp_path / "weights.toml").write_text(PONY)
    found = read({**MINIMAL, "model_id": model}, None, Registry(tmp_path / "weights.toml"))
    assert found.endpoint.name == endpoint


def test_a_request_without_model_or_with_an_unknown_one_has_its_documented_error(registry):
    with pytest.raises(WeightsError, match="Model not found: nope"):
        read({**MINIMAL, "model_id": "nope"}, None, registry)
    with pytest.raises(RequestError, match="model_id is required"):
        read({**MINIMAL, "model_id": None}, None, registry)
    with pytest.raises(RequestError, match="endpoint must be one of community, enterprise-pony, pony, realtime"):
        read(MINIMAL, "txt2img", registry)


# The forms that JSON can hold; jsonschema cannot multiply NaN.
@pytest.mark.parametrize("endpoint", list(ENDPOINTS))
def test_what_is_accepted_is_valid_by_the_schema(endpoint):
    validator = jsonschema.Draft202012Validator(request_schema(ENDPOINTS[endpoint]))
    validator.check_schema(validator.schema)
    for field in FIELDS:
        for value, expected in rows_of(endpoint, field):
            if not isinstance(expected, Wrong) or expected is NO_CHECKER:
                problems = [error.message[:200] for error in validator.iter_errors({**MINIMAL, field: value})]
                assert not problems, (field, str(value)[:80])


def test_the_schemas_defaults_are_the_documented_ones():
    for name, endpoint in ENDPOINTS.items():
        declared = request_schema(endpoint)["properties"]
        defaults = {field: found["default"] for field, found in declared.items() if "default" in found}
        for field in ("width", "samples", "guidance_scale", "strength", "clip_skip"):
            assert defaults[field] == DEFAULTS[name][field]
        assert defaults["safety_checker"] is (name in ("enterprise-pony", "pony"))
        assert defaults.get("steps") == {"community": 31, "enterprise-pony": 30, "pony": 21}.get(name)


def test_schemas_and_openapi_are_valid_json_schema():
    document = json.loads(json.dumps(openapi()))
    assert set(document["paths"]) == {endpoint.path for endpoint in ENDPOINTS.values()}
    schemas = document["components"]["schemas"]
    assert len(schemas) == 4 * len(ENDPOINTS)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document["paths"])
    for name in schemas:
        assert f"#/components/schemas/{name}" in text, "every schema is used"
    assert text.count('"$ref"') == len([ref for ref in text.split('"$ref"')[1:] if ref.split('"')[1][21:] in schemas])
    for endpoint in ENDPOINTS.values():
        replies = reply_schemas(endpoint)
        assert ("webhook_status" in replies["success"]["properties"]) is (endpoint.name != "realtime")
        assert ("tip_1" in replies["processing"]["properties"]) is (endpoint.name != "realtime")


NAMED: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"scheduler": "DPM++ 2M Karras", "use_karras_sigmas": "yes"}, ("DPMSolverMultistepScheduler", True, "", ())),
    (
        {"scheduler": "DPM++ 2M SDE Exponential", "algorithm_type": "none"},
        ("DPMSolverMultistepScheduler", False, "sde-dpmsolver++", (("spacing", "exponential"),)),
    ),
    (
        {"scheduler": "dpmpp_2m_sde_heun", "use_karras_sigmas": "no"},
        ("DPMSolverMultistepScheduler", False, "sde-dpmsolver++", (("solver_type", "heun"),)),
    ),
    ({"scheduler": "Euler Uniform"}, ("EulerDiscreteScheduler", False, "", (("spacing", "linspace"),))),
    (
        {"scheduler": "Euler Exponential", "use_karras_sigmas": "yes"},
        "use_karras_sigmas is yes, and scheduler says exponential: leave one of them out",
    ),
    (
        {"scheduler": "LMS Karras", "use_karras_sigmas": 0},
        "use_karras_sigmas is no, and scheduler says karras: leave one of them out",
    ),
    (
        {"scheduler": "DPM++ 2M SDE", "algorithm_type": "dpmsolver"},
        "algorithm_type is dpmsolver, and scheduler says sde-dpmsolver++: leave one of them out",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), NAMED)
def test_a_schedulers_name_may_say_more_than_the_scheduler(registry, fields, expected):
    payload = {**MINIMAL, "width": 64, "height": 64, **fields}
    if isinstance(expected, str):
        with pytest.raises(RequestError, match=re.escape(expected)):
            read(payload, "community", registry)
        return
    sampler = resolve(read(payload, "community", registry).request, registry, Access(allow_paths=False)).plan.sampler
    assert (sampler.scheduler, sampler.karras, sampler.algorithm_type, sampler.settings) == expected


def test_a_models_own_scheduler_may_be_such_a_name(tmp_path):
    text = REGISTRY.replace('scheduler = "EulerDiscreteScheduler"', 'scheduler = "Euler a Exponential"')
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "model_index.json").write_text("{}")
    (tmp_path / "weights.toml").write_text(text)
    payload = {name: value for name, value in MINIMAL.items() if name != "model_id"}
    documented = read(payload, "realtime", Registry(tmp_path / "weights.toml"))
    assert documented.request.scheduler == "EulerAncestralDiscreteScheduler"
    assert (documented.request.spacing, documented.request.karras_sigmas) == ("exponential", False)
