"""Models of a Hugging Face hub, downloaded because they were asked for: ``hf:OWNER/NAME[/FILE][@REVISION]``.

The revision is settled once, as a commit; only the files that are read are downloaded, into the hub's own cache, where
an interrupted download goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intarsia.checkpoints.layout import COMPONENTS
from intarsia.errors import WeightsError, one_line, shown
from intarsia.registry.hashing import Hashes

__all__ = ["PREFIX", "Downloaded", "download"]

PREFIX = "hf:"

_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_SUFFIX = ".safetensors"
# Of a pipeline's folder, besides the networks.
_CONFIGS = re.compile(r"model_index\.json|scheduler/scheduler_config\.json|tokenizer(_2)?/[^/]+\.(json|txt)")


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A file or a folder that was downloaded.

    Attributes:
        source: what was downloaded, with its commit.
    """

    path: Path
    source: str


def download(name: str) -> Downloaded:
    """Download a model, LoRA or VAE; progress is shown on a terminal.

    Raises:
        WeightsError: not of that form, no such repository, revision or file, no connection, or a file whose sha256 is
            not the hub's.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise WeightsError(f"{shown(name)}: must be hf:OWNER/NAME, with /FILE and @REVISION where they are needed")
    repo, file, revision = match["repo"], match["file"], match["revision"]
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        hashes = {sibling.rfilename: (sibling.lfs.sha256 if sibling.lfs else "") for sibling in info.siblings or []}
        files = _wanted(name, hashes, file)
        folder = _downloaded(repo, str(info.sha), files)
    except OfflineModeIsEnabled as exc:
        raise WeightsError(f"{name}: HF_HUB_OFFLINE is set, so nothing is downloaded") from exc
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as exc:
        raise WeightsError(f"{name}: cannot be downloaded: {one_line(exc)}") from exc

    _verify(folder, {file: hashes[file] for file in files})
    is_one_file = len(files) == 1
    source = f"{PREFIX}{repo}{'/' + files[0] if is_one_file else ''}@{info.sha}"
    return Downloaded(path=folder / files[0] if is_one_file else folder, source=source)


def _wanted(name: str, files: Iterable[str], asked: str | None) -> list[str]:
    """The one file that was asked for; the pipeline's or the LoRA's files; or the only weights that there are."""
    names = list(files)
    if asked is not None:
        if asked not in names:
            raise WeightsError(f"{name}: has no file {shown(asked)}")
        return [asked]
    if "model_index.json" in names:
        return _pipeline_files(names)

    top = [file for file in names if "/" not in file and file.endswith(_SUFFIX)]
    if len(top) != 1:
        listed = ", ".join(top[:5]) or "none"
        raise WeightsError(
            f"{name}: which file is meant cannot be told: name one as hf:OWNER/NAME/FILE; it has: {listed}"
        )
    beside = [file for file in names if file in ("config.json", "adapter_config.json")]
    return [*beside, *top]


def _pipeline_files(names: Iterable[str]) -> list[str]:
    """Configs, tokenizers, and of each network one set of weights: the full ones, or else those in half precision."""
    names = list(names)
    wanted = [name for name in names if _CONFIGS.fullmatch(name)]
    for component, stem in COMPONENTS.items():
        own = [name for name in names if name.startswith(f"{component}/")]
        wanted += [name for name in own if name == f"{component}/config.json"]
        weights = [name for name in own if name.startswith(f"{component}/{stem}") and "safetensors" in name]
        full = [name for name in weights if not re.search(r"fp16|non_ema|ema_only|bf16", name)]
        half = [name for name in weights if "fp16" in name and "non_ema" not in name]
        wanted += full or half
    return wanted


def _downloaded(repo: str, commit: str, files: Sequence[str]) -> Path:
    """The folder of a commit in the hub's cache, once these files are in it."""
    from huggingface_hub import hf_hub_download

    folder = Path()
    for file in files:
        path = Path(hf_hub_download(repo, file, revision=commit))
        folder = path.parents[file.count("/")]
    return folder


def _verify(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare each large file with the hash that the hub has of it."""
    paths = [folder / name for name, sha256 in expected.items() if sha256]
    hashes = Hashes(paths)
    for name, sha256 in expected.items():
        if sha256 and hashes.of(folder / name) != sha256:
            raise WeightsError(f"{folder / name}: is not what the hub has under that name; remove it and try again")
