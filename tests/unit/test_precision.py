"""Precision: from an entry or the engine into plan and result; hashes of plans that have the standard one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import intarsia
from intarsia.batch import Options
from intarsia.batch.manifest.spec_hash import Specs
from intarsia.engine.plan import CanvasPlan, Geometry, ModelPlan, Plan, PromptPlan, SamplerPlan
from intarsia.errors import BackendError

ENTRY = 'schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15-inpaint"\npath = "{}"\n'


@pytest.fixture
def registry(tmp_path: Path) -> Callable[..., Path]:
    """Writes a registry of one model, with a line more."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("{}")

    def write(more: str = "") -> Path:
        path = tmp_path / "weights.toml"
        path.write_text(ENTRY.format("m") + more)
        return path

    return write


def ask() -> intarsia.InpaintRequest:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    return intarsia.InpaintRequest(
        prompt="a", init_image=np.zeros((64, 64, 3), np.uint8), mask_image=mask, steps=2, seed=1
    )


def test_plans_of_before_keep_their_hash():
    geometry = Geometry(
        width=64,
        height=64,
        source=(64, 64),
        working=(64, 64),
        crop=(0, 0, 64, 64),
        resized=(64, 64),
        offset=(0, 0),
    )
    plan = Plan(
        model=ModelPlan(id="m", family="sd15", sha256="00", in_channels=4, latent_channels=4, factor=8),
        canvas=CanvasPlan(
            geometry=geometry,
            image_sha256="11",
            mask_sha256="22",
            mask_source="luma",
            invert_mask=False,
            mask_dilate=0,
            mask_blur=4.0,
            mask_padding=-1,
            masked_content="original",
            color_match=False,
        ),
        prompt=PromptPlan(prompt="a", negative_prompt="", asked="a", clip_skip=2),
        sampler=SamplerPlan(
            scheduler="EulerDiscreteScheduler",
            steps=4,
            strength=1.0,
            karras=True,
            karras_applied=True,
            algorithm_type="",
            schedule=(("beta_start", 0.00085),),
            evaluations=4,
        ),
        guidance_scale=7.5,
        seeds=(1,),
    )
    # made by the version before precision was in a plan
    assert plan.sha256 == "7d6791e5e1fa3af3381f207fe9c451ee0e76bdb63c23bf80b890ad1107c374c4"
    assert list(plan.to_dict())[:3] == ["model", "canvas", "prompt"]


def test_the_entry_decides_unless_the_engine_does(registry):
    standard, entry = registry(), 'precision = "fp8"\n'
    images, hashes = {}, {}
    for name, more, asked in [
        ("standard", "", None), ("entry", entry, None), ("engine", "", "fp8"), ("back", entry, "standard"),
    ]:  # fmt: skip
        with intarsia.Engine("null", weights=registry(more), precision=asked) as engine:
            result = engine.run(ask())
        expected = "fp8" if name in ("entry", "engine") else "standard"
        assert result.plan.model.precision == result.ran["precision"] == expected
        assert result.plan.to_dict()["model"].get("precision", "standard") == expected
        assert result.meta.get("precision", "standard") == expected
        images[name], hashes[name] = np.asarray(result.images[0]), result.plan.sha256
        assert intarsia.plan(ask(), registry(more), precision=asked).sha256 == hashes[name]
    assert hashes["standard"] == hashes["back"] != hashes["entry"] == hashes["engine"]
    assert np.array_equal(images["standard"], images["back"])
    assert not np.array_equal(images["standard"], images["entry"])
    assert standard.exists()


def test_a_batch_does_again_what_was_done_in_another_precision(registry):
    path = registry()
    made = {
        precision: Specs(intarsia.Registry(path, precision), Options()).outline(ask())
        for precision in (None, "standard", "fp8")
    }
    assert made[None] == made["standard"] != made["fp8"]


def test_sessions_of_two_precisions_are_two(registry):
    """What a session is kept by: a model that was opened in one precision is not taken for the other."""
    models = [intarsia.plan(ask(), registry(), precision=precision).model for precision in ("standard", "fp8")]
    assert models[0] != models[1]


def test_no_such_precision(registry):
    with pytest.raises(BackendError, match=r"^precision must be standard or fp8, not 'int4'$"):
        intarsia.Engine("null", precision="int4")
    with pytest.raises(intarsia.WeightsError, match=r"models\.m: precision must be standard or fp8, not 'half'$"):
        intarsia.Registry(registry('precision = "half"\n'))
    with pytest.raises(intarsia.WeightsError, match=r"models\.m: precision must be a str, not 8"):
        intarsia.Registry(registry("precision = 8\n"))
