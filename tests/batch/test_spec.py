"""When a row counts as done: every field that changes its images changes its spec hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.manifest.line import KEYS, Line
from intarsia.batch.manifest.rows import Reader, Row
from intarsia.batch.manifest.spec_hash import Specs, identity
from intarsia.batch.settings import Options
from intarsia.engine.request import InpaintRequest
from intarsia.errors import WeightsError
from intarsia.registry.registry import Registry
from intarsia.schedulers import table, table_to_json
from tests.batch.conftest import lines

REGISTRY = """
schema = 1
default = "nothing"
[models.nothing]
family = "sd15-inpaint"
path = "nothing"
prompt_template = "best, {prompt}"
safety = "watch"
[models.other]
family = "sd15-inpaint"
path = "soft"
safety = "watch"
[vaes.soft]
path = "soft"
[loras.ink]
path = "ink.safetensors"
[embeddings.p]
path = "p.safetensors"
[ip_adapters.look]
path = "look"
[safety.watch]
path = "watch"
"""
ROW = {
    "id": "a", "output": "x/a.png", "init_image": "a.png", "mask_image": "b.png", "prompt": "p", "negative_prompt": "n",
    "model": "nothing", "width": 128, "height": 128, "fit_output": False, "samples": 1, "steps": 20,
    "guidance_scale": 7.5, "strength": 1.0, "scheduler": "DPMSolverMultistepScheduler", "karras_sigmas": True,
    "algorithm_type": "dpmsolver++", "clip_skip": 1, "seed": 5, "loras": [], "vae": None, "safety_checker": True,
    "ip_adapter": {"id": "look", "image": "c.png", "scale": 0.5}, "token_merging": 0.25, "safety_action": "blur",
    "enhance_prompt": False, "mask_blur": 4.0, "mask_dilate": 0, "mask_padding": "whole",
    "mask_fill_holes": False, "mask_min_area": 0, "extend": {"left": 8}, "soft_mask": False, "mask_source": "auto",
    "invert_mask": False, "masked_content": "original", "color_match": False,
    "prompt_syntax": "plain", "embeddings": [], "spacing": None, "eta": None, "solver_order": None, "solver_type": None,
    "final_sigmas_type": None, "table": None,
}  # fmt: skip
CHANGED = {
    "output": ["x/a.jpg"], "prompt": ["q"], "negative_prompt": ["m"], "model": ["other"], "width": [136, None],
    "height": [136, None], "fit_output": [True], "samples": [2], "steps": [21], "guidance_scale": [7.0, 1.0],
    "strength": [0.9, 0.0], "scheduler": ["DDIMScheduler"], "karras_sigmas": [False],
    "algorithm_type": ["sde-dpmsolver++", None], "clip_skip": [2], "seed": [6],
    "loras": [[{"id": "ink"}], [{"id": "ink", "strength": 0.5}]], "vae": ["soft"], "safety_checker": [False],
    "ip_adapter": [None, {"id": "look", "image": "c.png", "scale": 0.25}], "token_merging": [0.75, True, None],
    "safety_action": ["black"], "enhance_prompt": [True], "mask_blur": [0.0], "mask_dilate": [1],
    "soft_mask": [True], "mask_fill_holes": [True], "mask_min_area": [9, "1%"],
    "mask_padding": [0, 8, "auto"], "extend": [None, {"top": 8}, {"left": 16}, {"left": 8, "overlap": 0}, "left=9"],
    "mask_source": ["luma"], "invert_mask": [True], "masked_content": ["noise"],
    "spacing": ["leading"], "solver_order": [1], "solver_type": ["heun"], "final_sigmas_type": ["sigma_min"],
    "eta": [0.5], "table": [table_to_json(table("euler", 4)), table_to_json(table("euler", 5))],
    "color_match": [True], "prompt_syntax": ["weighted"], "embeddings": [["p"]],
}  # fmt: skip
# What a field needs beside it: eta is DDIM's, and a table settles the rest.
BESIDE = {
    "eta": {"scheduler": "DDIMScheduler"},
    "table": dict.fromkeys(("scheduler", "steps", "strength", "karras_sigmas", "algorithm_type")),
}
# An id is only a name. Images count by their content, which stands beside these fields.
NEVER = {"id": ["b"], "init_image": ["z.png"], "mask_image": ["z.png"], "output": ["y/b.png", "x/a.PNG"],
         "ip_adapter": [{"id": "look", "image": "z.png", "scale": 0.5}]}  # fmt: skip
CONTENTS = {"init_image": "1" * 64, "mask_image": "2" * 64, "ip_adapter.image": "3" * 64}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("registry")
    for name in ("nothing", "soft", "look", "watch"):
        (place / name).mkdir()
        for file in ("model_index.json", "config.json", "ip_adapter.safetensors"):
            (place / name / file).write_text(json.dumps({"name": name}))
    (place / "ink.safetensors").write_text("ink")
    (place / "p.safetensors").write_text("p")
    (place / "weights.toml").write_text(REGISTRY)
    return place / "weights.toml"


@pytest.fixture
def spec(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)

    def make(
        contents: dict[str, str] = CONTENTS,
        options: Options | None = None,
        row: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Any:
        options = options or Options(weights=str(registry))
        found = Reader(registry.parent, options, {}).row(Line(1, {**ROW, **(row or {}), **changes}))
        assert isinstance(found, Row), found
        return Specs(Registry(str(registry)), options).spec(InpaintRequest.parse(found.fields), contents, found.outputs)

    return make


def test_every_field_is_decided_on():
    """A new one is to be put into CHANGED, or, with its reason, into NEVER."""
    assert set(ROW) == KEYS
    assert set(CHANGED) | set(NEVER) == KEYS


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in sorted(CHANGED) for value in CHANGED[name]])
def test_a_change_of_any_field_is_another_image(spec, name, value):
    beside = BESIDE.get(name, {})
    assert spec(**{name: value, **beside}) != spec(**beside)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in sorted(NEVER) for value in NEVER[name]])
def test_what_is_only_a_name_changes_nothing(spec, name, value):
    assert spec(**{name: value}) == spec()


def test_no_two_changes_are_the_same_image(spec):
    hashes = [spec(**{name: value, **BESIDE.get(name, {})}) for name in CHANGED for value in CHANGED[name]]
    assert len(set(hashes)) == len(hashes)
    one, other = {"prompt": "a", "negative_prompt": "b"}, {"prompt": "b", "negative_prompt": "a"}
    assert spec(**one) != spec(**other)


@pytest.mark.parametrize("field", CONTENTS)
def test_other_content_of_an_image_is_another_image(spec, field):
    assert spec(contents=CONTENTS | {field: "4" * 64}) != spec()


@pytest.mark.parametrize(
    ("change", "is_another"),
    [({"quality": 90}, True), ({"lossless": True}, True), ({"compression": 9}, True), ({"metadata": False}, True),
     ({"strip": True}, True),
     ({"threads": 3}, False), ({"workers": 2}, False), ({"seed": 3}, False), ({"slots": 2}, False)],
)  # fmt: skip
def test_how_files_are_written_counts_and_who_writes_them_does_not(spec, registry, change, is_another):
    assert (spec(options=Options(weights=str(registry), **change)) != spec()) == is_another


def test_the_content_of_weights_counts(spec, registry):
    row = {"loras": [{"id": "ink"}]}
    before = spec(row=row)
    (registry.parent / "ink.safetensors").write_text("another ink")
    try:
        assert spec(row=row) != before
    finally:
        (registry.parent / "ink.safetensors").write_text("ink")


@pytest.mark.parametrize(("prompt", "file"), [("a <lora:ink:0.5>", "ink"), ("a (p:1.2)", "p")])
def test_the_content_of_what_a_prompt_names_counts(spec, registry, prompt, file):
    row = {"prompt": prompt, "prompt_syntax": "weighted"}
    before = spec(row=row)
    path = registry.parent / f"{file}.safetensors"
    path.write_text("another one")
    try:
        assert spec(row=row) != before
    finally:
        path.write_text(file)
    assert spec(row=row) == before
    with pytest.raises(WeightsError, match="LoRA not found: nope"):
        spec(row={"prompt": "<lora:nope>", "prompt_syntax": "weighted"})


def test_the_seed_of_a_row_that_has_none_is_its_ids(spec):
    assert spec(seed=None) != spec(seed=None, id="b")


def test_an_image_that_cannot_be_looked_at_is_not_the_one_that_was(album, tmp_path):
    """Two files that are gone look alike; the row is to fail, not to count as done."""
    out, manifest = tmp_path / "out", album.manifest([album.row(0), album.row(1)])
    batch.run(manifest, out, album.options)
    gone = album.folder / "photos/0.png"
    gone.unlink()
    assert identity(str(gone)) == ""
    path = out / "results.jsonl"
    records = lines(out)
    for record in records:
        if record["id"] == "row-0":
            record["identities"]["init_image"] = ""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    stats = batch.run(manifest, out, album.options)
    assert (stats.before, stats.errors) == (1, {"io": 1})


@pytest.mark.slow
def test_a_changed_negative_prompt_is_painted_again(album, tmp_path):
    """The silent case: nothing else in the row changes, and old images would stay."""
    out = tmp_path / "out"
    for negative, before in (("blur", 0), ("blur", 1), ("noise", 0)):
        assert batch.run(album.manifest([album.row(0, negative_prompt=negative)]), out, album.options).before == before
    shutil.rmtree(out)
