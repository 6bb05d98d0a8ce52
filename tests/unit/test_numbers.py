"""Numbers in odd forms: taken or refused in the same words everywhere, and never a failure inside."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

import intarsia
from intarsia.commands.request_options import MaskOptions, _lora
from intarsia.commands.set_option import with_settings
from intarsia.endpoints import ENDPOINTS
from intarsia.errors import RequestError
from intarsia.numbers import number, whole
from tests.unit.endpoint_table import MINIMAL
from tests.unit.replies import checked

ODD = [
    "0.7\x1c", "\x1f7", "\x857", "７", "٣", "7²", "1_000", "0x10", "0b1", "−5", "1,5", "1 000", "∞", "nan", "inf",
    "1e999", "-1e999", "1e", "e5", ".", "+", "--1", "9" * 5000, "8." + "9" * 5000, "\0007", "7\0", "\ufeff7", "½", "Ⅶ",
    "7f", "1d2", "True", "null", "", " ", [], [7], {}, {"a": 7}, True, False, math.nan, math.inf, -math.inf, b"7",
    10**5000, -(10**5000), 1j, object(),
]  # fmt: skip
NUMBERS = ["guidance_scale", "strength", "lora_strength", "ip_adapter_scale"]
WHOLES = ["width", "height", "samples", "steps", "num_inference_steps", "clip_skip"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[intarsia.Engine]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "nothing").mkdir()
    (folder / "nothing" / "model_index.json").write_text("{}")
    model = 'schema = 1\ndefault = "nothing"\n[models.nothing]\nfamily = "sd15-inpaint"\npath = "nothing"\n'
    (folder / "weights.toml").write_text(model)
    with intarsia.Engine("null", weights=folder / "weights.toml") as opened:
        yield opened


@pytest.mark.parametrize("odd", [value for value in ODD if value not in ("", " ", [])], ids=lambda odd: repr(type(odd)))
def test_odd_numbers_are_none(odd):
    assert whole(odd) is None or isinstance(odd, int)
    assert number(odd) is None


@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u202f"])
def test_blanks_around_do_not_count(blank):
    assert (whole(f"{blank}512{blank}"), number(f"{blank}-7.5e-1{blank}")) == (512, -0.75)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("field", [*NUMBERS, *WHOLES, "seed"])
def test_documented_fields_name_field_value_and_what_is_allowed(engine, endpoint, field):
    absent = ("", " ", []) if field in ("seed", "lora_strength", "ip_adapter_scale") else ()
    for odd in ODD:
        if odd in absent and (odd != [] or field == "lora_strength"):
            continue
        message = checked(engine.reply({**MINIMAL, field: odd}, endpoint), endpoint)["message"]
        assert message.startswith(f"{field} must be "), odd
        assert ", not " in message
        assert len(message) < 300


@pytest.mark.parametrize("field", ["guidance_scale", "strength", "mask_blur", "token_merging"])
def test_the_librarys_numbers(field):
    for odd in ODD:
        if not isinstance(odd, bool) or field != "token_merging":
            with pytest.raises(RequestError, match=f"^{field} must be .*, not "):
                intarsia.InpaintRequest(**{field: odd})


@pytest.mark.parametrize("field", ["width", "samples", "steps", "clip_skip", "seed", "mask_dilate", "mask_padding"])
def test_the_librarys_integers(field):
    for odd in [*ODD, np.array([1, 2]), np.array(["a"]), np.array([[1]])]:
        with pytest.raises(RequestError, match=f"^{field} must be .*, not "):
            intarsia.InpaintRequest(**{field: odd})


@pytest.mark.parametrize("odd", [value for value in ODD if isinstance(value, str) and "\0" not in value])
def test_the_command_lines_settings(odd):
    # null is the default of two of them, and no strength; JSON's number nearest to 8.999… is 9
    for field in ("strength",) if odd.startswith("8.999") else ("strength", "steps", "seed"):
        with pytest.raises(RequestError, match=f"^{field} must be "):
            intarsia.InpaintRequest.parse(
                with_settings({}, [f"{field}={odd}"]) | ({field: "x"} if odd == "null" else {})
            )
    with pytest.raises(RequestError, match=r"^--lora must be ID or ID:STRENGTH"):
        _lora(f"ink:{odd}")
    with pytest.raises(RequestError, match=r"^--size must be WIDTHxHEIGHT"):
        MaskOptions(size=f"{odd}x512").fields()


def test_settings_that_are_json_too_deep_or_too_long():
    assert with_settings({}, ["a=" + "[" * 100_000])["a"] == "[" * 100_000
    assert with_settings({}, ["a=" + "9" * 5000])["a"] == "9" * 5000
    assert with_settings({}, ["a=[1, 2]", "b=x=y", "c="]) == {"a": [1, 2], "b": "x=y", "c": ""}


def test_rows_of_a_batch(tmp_path):
    from intarsia.batch import Options, validate

    texts = [value for value in ODD if isinstance(value, str) and value.strip() and value != "null"]
    rows = [
        {"id": f"r{place}", "init_image": "a", "mask_image": "b", "strength": odd} for place, odd in enumerate(texts)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = validate(tmp_path / "m.jsonl", Options(backend="null"), decode=False).problems
    assert [(problem.id, problem.error) for problem in problems] == [(row["id"], "param") for row in rows]
    assert all(
        problem.text.startswith("strength must be a finite number between 0 and 1, not ") for problem in problems
    )
