"""A table of one's own in a request: in the library, as JSON, from a file; and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia import RequestError, schedulers
from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.rows import Reader, Refused, Row, defaults_of
from intarsia.batch.settings import Options
from intarsia.schedulers import Table, table_from_json, table_to_json
from intarsia.schedulers.table_json import MOST_ROWS, read_table, table_hash

EULER = schedulers.table("euler", 4)
SHORT = {
    "name": "halves",
    "timesteps": [999, 500],
    "matrix": [[[0.5, 0.5, 0]], [[0, 1, 0.25]]],
    "start_noise": 14.6,
    "known_image": [1, 1],
    "known_noise": [1.0, 0],
    "sigmas": [14.6, 1, 0],
}


@pytest.mark.parametrize("name", schedulers.NAMES)
def test_every_table_survives_json_bit_for_bit(name):
    made = schedulers.table(name, 5, strength=0.7)
    again = table_from_json(json.loads(json.dumps(table_to_json(made))))
    for field in table_to_json(made).keys() - {"schema"}:
        one, other = getattr(made, field), getattr(again, field)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), field
        else:
            assert one == other, field
    assert table_hash(again) == table_hash(made)


def test_what_a_table_need_not_say():
    made = table_from_json(SHORT)
    assert (made.steps, made.strength, made.start_image, made.notes) == (2, 1.0, 0.0, ())
    assert made.input_scale.tolist() == [1, 1]
    assert made.guided.tolist() == [True, True]
    assert made.langevin_snr.tolist() == [0, 0]
    assert made.uses_noise.tolist() == [False, True]
    assert repr(made) == "Table('halves', steps=2, rows=2)"
    # (0.5 x + 0.5 o), then o + noise / 4, for a network that gives its input
    result = made.run(lambda x, timestep: 2 * x, np.ones(3), np.ones((2, 3)))
    np.testing.assert_allclose(result, 2 * (1.5 * 14.6) + 0.25)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "table.name must be text of 1 to 100 printable characters, not ''"),
    ({"name": "a\nb"}, "table.name must be"),
    ({"name": 5}, "table.name must be"),
    ({"schema": 2}, "table.schema must be 1, not 2"),
    ({"colour": 1}, "table.colour is not a field of a table: it has name, steps"),
    ({"sigmas": None}, "table.sigmas is missing: a table needs name, timesteps"),
    ({"timesteps": []}, "table.timesteps must be a list of 1 to 300 numbers"),
    ({"timesteps": [1.0] * (MOST_ROWS + 1)}, "table.timesteps must be a list of 1 to 300 numbers"),
    ({"timesteps": ["a", "b"]}, "table.timesteps must be a list of numbers, not ['a', 'b']"),
    ({"timesteps": [999, float("nan")]}, "table.timesteps must be finite numbers"),
    ({"matrix": [[[1e39, 0, 0]], [[0, 1, 0]]]}, "table.matrix must be finite numbers that float32 can hold"),
    ({"matrix": [[0.5, 0.5, 0], [0, 1, 0]]}, "table.matrix must be a list of rows, each a list of slots"),
    ({"matrix": [[[0.5, 0.5]], [[0, 1]]]}, "table.matrix must have 2 x 1 x 3 entries, not 2 x 1 x 2"),
    ({"matrix": [[[0.5, 0.5, 0]]]}, "table.matrix must have 2 x 1 x 3 entries, not 1 x 1 x 3"),
    ({"matrix": [[[0.5, 0.5, 0]], [[0, 1]]]}, "table.matrix must be a list of rows"),
    ({"matrix": np.zeros((2, 17, 19)).tolist()}, "with 1 to 16 slots, not (2, 17, 19)"),
    ({"sigmas": [14.6, 1]}, "table.sigmas must have 3 entries, not 2"),
    ({"sigmas": [14.6, 1, -1]}, "table.sigmas must not be negative"),
    ({"input_scale": [1, 0]}, "nor table.input_scale 0"),
    ({"known_image": [1]}, "table.known_image must have 2 entries, not 1"),
    ({"start_noise": "much"}, "table.start_noise must be a number, not 'much'"),
    ({"start_noise": float("inf")}, "table.start_noise must be a finite number"),
    ({"guided": [1, 0]}, "table.guided must be a list of true and false"),
    ({"uses_noise": [True, False]}, "table.uses_noise must be true for row 1"),
    ({"steps": True}, "table.steps must be a whole number between 1 and 1000"),
    ({"strength": 0}, "table.strength must be above 0 and at most 1"),
    ({"notes": "text"}, "table.notes must be a list of at most 10 texts"),
    ({"notes": ["a\x1bb"]}, "table.notes holds 'a\\x1bb'"),
    ({"karras": 1}, "table.karras must be true or false"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_what_is_wrong_with_a_table_is_named(change, sentence):
    with pytest.raises(RequestError) as caught:
        intarsia.InpaintRequest(table={**SHORT, **change})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("value", ["table.json", 5, [1], True])
def test_what_is_no_table_is_refused(value):
    with pytest.raises(RequestError, match="table must be an object of JSON with the fields of a table"):
        intarsia.InpaintRequest(table=value)


def test_an_object_of_the_class_is_looked_at_too():
    bad = replace(EULER, matrix=EULER.matrix[:2])
    with pytest.raises(RequestError, match=r"table.matrix must have 4 x 1 x 3 entries, not 2 x 1 x 3"):
        intarsia.InpaintRequest(table=bad)
    two = schedulers.table("heun", 2)
    with pytest.raises(RequestError, match=r"table.langevin_snr must be 0 in a table of several slots"):
        intarsia.InpaintRequest(table=replace(two, langevin_snr=np.ones(len(two))))


def own(request_of: Callable[..., intarsia.InpaintRequest], **fields: Any) -> intarsia.InpaintRequest:
    made = request_of(**fields)
    given = {name: getattr(made, name) for name in made.model_fields_set - {"steps"} | fields.keys()}
    return intarsia.InpaintRequest(**given)


def test_a_table_is_in_the_plan_by_its_content(request_of):
    plan = intarsia.plan(own(request_of, table=EULER))
    same = intarsia.plan(own(request_of, table=json.loads(json.dumps(table_to_json(EULER)))))
    other = intarsia.plan(own(request_of, table=replace(EULER, matrix=EULER.matrix * 1.0001)))
    assert plan.sampler.scheduler == "EulerDiscreteScheduler"
    assert (plan.sampler.steps, plan.sampler.evaluations, plan.sampler.strength) == (4, 4, 1.0)
    assert plan.sha256 == same.sha256 != other.sha256
    assert plan.sampler.table_sha256 == table_hash(EULER)


def test_an_engine_runs_it(engine, request_of):
    made = table_from_json(SHORT)
    result = engine.run(own(request_of, table=made))
    assert result.plan.sampler.evaluations == 2
    assert (result.meta["scheduler"], result.meta["table"]) == ("halves", table_hash(made))


@pytest.mark.parametrize(
    "fields",
    [
        {"scheduler": "euler"}, {"steps": 4}, {"strength": 0.7}, {"karras_sigmas": False}, {"algorithm_type": "none"},
        {"spacing": "leading"}, {"eta": 0.0}, {"solver_order": 2}, {"solver_type": "heun"},
        {"final_sigmas_type": "zero"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_table_settles_is_not_given_beside_it(request_of, fields):
    (name,) = fields
    with pytest.raises(RequestError, match=f"{name} is .*, and a table is given, which settles it") as caught:
        intarsia.plan(own(request_of, table=EULER, **fields))
    assert caught.value.field == name


def test_a_table_is_read_from_a_file_by_a_batch(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(table_to_json(EULER)))
    (tmp_path / "broken.json").write_text("{")
    reader = Reader(tmp_path, Options(), {})

    def row(**fields: Any) -> Row | Refused:
        return reader.row(Line(1, {"id": "a", "init_image": "a.png", "mask_image": "b.png", **fields}))

    from_file, inline = row(table="mine.json"), row(table=table_to_json(EULER))
    assert isinstance(from_file, Row)
    assert isinstance(inline, Row)
    for each in (from_file, inline):
        made = intarsia.InpaintRequest.parse(each.fields).table
        assert made is not None
        assert table_hash(made) == table_hash(EULER)

    for name, sentence in (("none.json", "No such file"), ("broken.json", "cannot be read as JSON")):
        refused = row(table=name)
        assert isinstance(refused, Refused)
        assert refused.error == "param"
        assert sentence in refused.text

    (tmp_path / "defaults.toml").write_text('table = "mine.json"\n')
    defaults = defaults_of(Options(defaults=str(tmp_path / "defaults.toml")))
    reader = Reader(tmp_path, Options(), defaults)
    again = row()
    assert isinstance(again, Row)
    assert again.fields["table"] == from_file.fields["table"]


def test_a_file_that_holds_no_table_is_named(tmp_path: Path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    for path, sentence in ((tmp_path / "x.json", "No such file"), (deep, "nested too deeply"), (tmp_path, "directory")):
        with pytest.raises(RequestError, match=sentence):
            read_table(path)


def test_tables_have_a_short_repr_in_a_request():
    assert repr(intarsia.InpaintRequest(table=EULER)) == (
        "InpaintRequest(table=Table('EulerDiscreteScheduler', steps=4, rows=4))"
    )
    assert isinstance(intarsia.InpaintRequest(table=EULER).table, Table)
