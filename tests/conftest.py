"""Shared by all tests: quiet, offline, one thread for each test worker, and where real data lies."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("intarsia", deadline=None)  # timings belong in benchmarks
hypothesis.settings.load_profile("intarsia")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

# New interpreters that tests start import the tree that is tested, whatever is installed.
TREE = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TREE), os.environ.get("PYTHONPATH")]))

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "inpainting"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests are imported, never search what is there then, and search the rest seldom.

    Searching the objects of torch and its like is a third of what importing them costs, and half a second of each
    later collection. Tests that are about garbage collect it themselves.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``every(n)``, mark all cases but each n-th as slow."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("every")
        if mark is None:
            continue
        function = item.nodeid.partition("[")[0]
        if seen[function] % mark.args[0] != 0:
            item.add_marker(pytest.mark.slow)
        seen[function] += 1


@pytest.fixture(scope="session")
def photos() -> list[tuple[Path, Path]]:
    """The four photographs with their masks; skipped, with the reason, where they are absent."""
    pairs = [(path, path.with_name(f"{path.stem}_mask.png")) for path in sorted(PHOTOS.glob("*.png"))]
    pairs = [(image, mask) for image, mask in pairs if mask.exists()]
    if not pairs:
        pytest.skip(f"the real photographs are not there: {PHOTOS}")
    return pairs


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Test workers share the cores; two of them with two threads each would fight."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        try:
            import torch
        except ModuleNotFoundError:
            return
        torch.set_num_threads(1)


@pytest.fixture
def empty_registry(tmp_path: Path) -> Path:
    """A registry whose only model has no weights: enough for everything that runs on the null backend."""
    folder = tmp_path / "nothing"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    path = tmp_path / "weights.toml"
    path.write_text(
        'schema = 1\ndefault = "nothing"\n[models.nothing]\nfamily = "sd15-inpaint"\npath = "nothing"\n'
        'aliases = ["no_thing"]\nprompt_template = "best, {prompt}"\n'
    )
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes that are kept between processes are the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
