"""Seeds and guidance as other tools write them: library, replies, metadata, batches."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.batch import Options, run
from intarsia.batch.manifest.rows import derived_seed
from tests.unit.endpoint_table import IMAGE, MASK, MINIMAL

MOST = 2**64 - 1
SMALL = {"init_image": IMAGE, "mask_image": MASK, "steps": 2}


@pytest.mark.parametrize("seed", [-1, -1.0, "-1", " -1 ", "random", "RANDOM", np.int64(-1), None])
def test_a_random_seed_is_drawn_and_reported(seed, empty_registry):
    request = intarsia.InpaintRequest(**SMALL, seed=seed)
    assert request.seed is None
    with intarsia.Engine("null", weights=empty_registry) as engine:
        one, other = engine.run(request), engine.run(request)
    assert one.seeds != other.seeds
    again = intarsia.InpaintRequest(**SMALL, seed=one.seeds[0])
    assert intarsia.plan(again, empty_registry).seeds == one.seeds


@pytest.mark.parametrize(
    ("seed", "expected"), [(MOST, MOST), (str(MOST), MOST), (7.0, 7), ("7", 7), (np.uint64(MOST), MOST), (0, 0)]
)
def test_seeds_of_64_bits(seed, expected, empty_registry):
    assert intarsia.plan(intarsia.InpaintRequest(**SMALL, seed=seed), empty_registry).seeds == (expected,)


def test_every_bit_of_a_seed_counts_and_known_seeds_stay_as_they_are():
    seeds = [0, 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, MOST - 1, MOST]
    drawn = [intarsia.noise(seed, (4,)).tobytes() for seed in seeds]
    assert len(set(drawn)) == len(seeds)
    # As it was before seeds had 64 bits.
    known = {
        7: (-0.2933390140533447, 1.703830599784851, 1.5391918420791626),
        2**63 - 1: (0.9518663883209229, -1.0147827863693237, 1.1980888843536377),
    }
    for seed, values in known.items():
        np.testing.assert_array_equal(intarsia.noise(seed, (3,)), np.float32(values))


def test_the_last_sample_has_a_seed_too(empty_registry):
    with pytest.raises(intarsia.RequestError, match=f"seed must be at most {MOST} for the last sample"):
        intarsia.plan(intarsia.InpaintRequest(**SMALL, seed=MOST, samples=2), empty_registry)
    assert intarsia.plan(intarsia.InpaintRequest(**SMALL, seed=MOST - 1, samples=2), empty_registry).seeds == (
        MOST - 1,
        MOST,
    )


@pytest.mark.parametrize("endpoint", ["community", "enterprise-pony", "pony", "realtime"])
def test_a_reply_and_its_files_say_which_seed_it_was(endpoint, empty_registry):
    body = {**MINIMAL, "steps": 2, "base64": True, "samples": 2, "width": 512, "height": 512}
    with intarsia.Engine("null", weights=empty_registry) as engine:
        replies = [engine.reply({**body, "seed": seed}, endpoint) for seed in ("-1", -1, MOST - 1)]
    seeds = [reply["meta"]["seed"] for reply in replies]
    assert seeds[2] == MOST - 1
    assert seeds[0] != seeds[1]
    for first, reply in zip(seeds, replies, strict=True):
        for sample, text in enumerate(reply["output"]):
            with Image.open(io.BytesIO(base64.b64decode(text))) as made:
                assert f"Seed: {first + sample}, " in made.text["parameters"]
                assert json.loads(made.text["intarsia"])["seed"] == first + sample


def test_a_random_seed_in_a_batch_is_its_own_and_stays(tmp_path, empty_registry):
    for name, text in (("photo.png", IMAGE), ("mask.png", MASK)):
        (tmp_path / name).write_bytes(base64.b64decode(text))
    rows = [{"id": f"r{number}", "seed": seed} for number, seed in enumerate([-1, "random", "-1", MOST, None])]
    sources = {"init_image": "photo.png", "mask_image": "mask.png", "steps": 2}
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(sources | row) for row in rows))
    (tmp_path / "defaults.toml").write_text("seed = -1\n")
    options = Options(backend="null", weights=str(empty_registry), seed=5, defaults=str(tmp_path / "defaults.toml"))
    first = run(tmp_path / "m.jsonl", tmp_path / "out", options)
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    seeds = {record["id"]: record["seeds"] for record in records}
    expected = {f"r{number}": [derived_seed(5, f"r{number}")] for number in range(5)} | {"r3": [MOST]}
    assert (first.failed, seeds) == (0, expected)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert len(times) == 5
    run(tmp_path / "m.jsonl", tmp_path / "out", options)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")} == times


@pytest.mark.parametrize("guidance", [0, 0.0, -0.0, 0.5, 0.999, 1, 1.0])
def test_guidance_up_to_1_is_none_and_the_same(guidance, empty_registry):
    plans = [
        intarsia.plan(intarsia.InpaintRequest(**SMALL, seed=1, guidance_scale=scale), empty_registry)
        for scale in (guidance, 1.0)
    ]
    assert plans[0] == plans[1]
    assert (plans[0].guidance_scale, plans[0].sha256) == (1.0, plans[1].sha256)


@pytest.mark.parametrize(("guidance", "is_said"), [(0, True), (1, True), (1.001, False)])
def test_a_negative_prompt_without_guidance_is_said_to_have_no_effect(guidance, is_said, empty_registry):
    asked = {**SMALL, "seed": 1, "guidance_scale": guidance}
    with intarsia.Engine("null", weights=empty_registry) as engine:
        found = engine.run(intarsia.InpaintRequest(**asked, negative_prompt="bad")).warnings
        without = engine.run(intarsia.InpaintRequest(**asked, negative_prompt=" ")).warnings
    sentence = "negative_prompt has no effect without guidance: guidance_scale is not above 1"
    assert (sentence in found) is is_said
    assert sentence not in without


@pytest.mark.parametrize("endpoint", ["community", "enterprise-pony", "pony"])
def test_documented_limits_of_guidance_win(endpoint, empty_registry):
    with intarsia.Engine("null", weights=empty_registry) as engine:
        reply = engine.reply({**MINIMAL, "guidance_scale": 0, "width": 512, "height": 512}, endpoint)
    assert reply == {"status": "error", "message": "guidance_scale must be between 1 and 20, not 0"}
