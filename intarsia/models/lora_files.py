"""LoRA files of every common kind, matched to the layers of a model.

A file is refused by its header where it is something else or made for another model; then its tensors are read, and
each layer's become the additions that :mod:`.lora_layers` makes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from intarsia.checkpoints.header import Header, read_header
from intarsia.checkpoints.identified import SD1, SD2, SDXL
from intarsia.checkpoints.lora_families import find_lora
from intarsia.checkpoints.probe import identify, identify_header
from intarsia.checkpoints.stored import Place
from intarsia.counted import counted
from intarsia.errors import WeightsError
from intarsia.models.lora import Addition, Additions, LoraFile
from intarsia.models.lora_arithmetic import Array, Reader
from intarsia.models.lora_forms import fits
from intarsia.models.lora_kinds import EMBEDDINGS, phrase, sorted_names
from intarsia.models.lora_layers import UnusableLayer, layer_additions, magnitude_fits
from intarsia.models.lora_names import Layer, layer_names
from intarsia.models.lora_settings import scale_of, stored_settings

__all__ = ["Shapes", "read_loras"]

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Of each network, the shape of each tensor by its name."""

_NAMED = 3
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Share of a file's layers that a model may lack before the file counts as made for another one.
_MOST_UNKNOWN = 0.1
_VERSIONS = {"SD1.5": SD1, "SD2": SD2, "SDXL": SDXL}


def read_loras(
    files: Sequence[tuple[Path, float]], shapes: Shapes, layers_per_block: int, *, read: Reader
) -> Additions:
    """Read LoRA files with their strengths, for one model.

    Args:
        shapes: of the model's networks.
        layers_per_block: residual blocks of each level of the UNet, to count blocks as the original code did.
        read: reads tensors, of the library that is to compute with them.

    Raises:
        WeightsError: a file that is not readable, that is none of a LoRA, has values that are not finite, or is for
            another model: with layers of another shape, or more than a tenth of them unknown.
    """
    if not files:
        return Additions()
    model = _Model(shapes, layer_names(shapes, layers_per_block))
    return Additions([_read(path, strength, model, read) for path, strength in files])


class _Model:
    """What LoRAs are matched to."""

    def __init__(self, shapes: Shapes, layers: Mapping[str, Layer]) -> None:
        self.layers = layers
        self.shapes = {
            network: {name.removeprefix("text_model."): shape for name, shape in tensors.items()}
            for network, tensors in shapes.items()
        }

    @property
    def version(self) -> str:
        """SDXL has a second text encoder, and SD1 convolutions around its transformers."""
        if "text_encoder_2" in self.shapes:
            return "SDXL"
        projections = [shape for name, shape in self.shapes["unet"].items() if name.endswith("proj_in.weight")]
        return "SD1.5" if projections and len(projections[0]) == 4 else "SD2"


@dataclass
class _Found:
    """What was made of one file's layers."""

    tensors: dict[str, dict[str, Addition]]
    unusable: dict[str, tuple[str, ...]]
    misfits: list[str]
    absent: list[str]
    partly: list[str]


def _read(path: Path, strength: float, model: _Model, read: Reader) -> LoraFile:
    header = read_header(_file(path))
    _check_kind(header)
    names = sorted_names(header.tensors)
    known = {layer: parts for layer, parts in names.layers.items() if layer in model.layers}
    unknown = [layer for layer in names.layers if layer not in model.layers]
    if len(unknown) > _MOST_UNKNOWN * len(names.layers):
        _refuse(header, model, unknown, len(names.layers), ("is not in this model", "are not in this model"))
    _check_spellings(header, known, model)

    found = _additions(header, known, model, read)
    if found.misfits:
        another = "another shape than this model's"
        _refuse(header, model, found.misfits, len(names.layers), (f"has {another}", f"have {another}"))

    others = dict(names.others)
    for kind, tensors in found.unusable.items():
        others[kind] = (*others.get(kind, ()), *tensors)
    if not any(found.tensors.values()):
        phrases = [phrase(kind, others[kind]) for kind in sorted(others, key=lambda kind: -len(others[kind]))[:_NAMED]]
        raise WeightsError(f"{path}: holds nothing that can be applied; it has {', '.join(phrases)}")
    others.pop(EMBEDDINGS, None)  # which prompts use
    return LoraFile(
        path=path,
        strength=strength,
        tensors=found.tensors,
        notes=_notes(others, [*unknown, *found.absent], found.partly),
    )


def _file(path: Path) -> Path:
    """The file of weights, of a folder that PEFT or diffusers wrote the one in it."""
    return identify(path).path if path.is_dir() else path


def _check_kind(header: Header) -> None:
    """WeightsError where a header is that of something else; nothing but the header has been read."""
    identified = find_lora(header) or identify_header(header)
    if identified.kind != "lora":
        raise WeightsError(f"{header.path}: no LoRA but {identified.what}")
    if identified.refused:
        raise WeightsError(f"{header.path}: a LoRA that fits no model here: {identified.refused}")


def _check_spellings(header: Header, names: Mapping[str, Mapping[str, str]], model: _Model) -> None:
    spelled: dict[Layer, str] = {}
    for name in names:
        layer = model.layers[name]
        if layer in spelled:
            raise WeightsError(f"{header.path}: names a layer in two spellings: {spelled[layer]}, {name}")
        spelled[layer] = name


def _additions(header: Header, names: Mapping[str, Mapping[str, str]], model: _Model, read: Reader) -> _Found:
    """All additions of a file; nothing is written yet, and every shape is checked."""
    found = _Found({}, {}, [], [], [])
    settings = stored_settings(header)
    used = {name: Place(file=header.path, name=name) for parts in names.values() for name in parts.values()}
    tensors = dict(read(used, {header.path: header}))

    for stem, parts in names.items():
        network, layer = model.layers[stem]
        values: dict[str, Array] = {part: tensors[name] for part, name in parts.items()}
        try:
            _check_floating(header, parts.values())
            made = layer_additions(values, partial(scale_of, settings, network, layer))
        except UnusableLayer as exc:
            found.unusable[str(exc)] = (*found.unusable.get(str(exc), ()), *parts.values())
            continue
        for kind, addition in made.items():
            _place(found, model, (network, layer), kind, addition)
    return found


def _check_floating(header: Header, names: Iterable[str]) -> None:
    if not all(header.tensors[name].dtype in _FLOATING for name in names):
        raise UnusableLayer("tensors that are no floating-point numbers")


def _place(found: _Found, model: _Model, layer: Layer, kind: str, addition: Addition) -> None:
    """Put an addition where it belongs, or its name where it says why not."""
    network, name = layer[0], f"{layer[1]}.{kind}"
    wanted = model.shapes[network].get(name)
    if wanted is None:
        found.absent.append(f"{network}.{name}")
        return

    fitting = _fitted(addition, wanted, is_input=network == "unet" and layer[1] == "conv_in")
    if fitting is None:
        found.misfits.append(f"{network}.{layer[1]}")
        return
    if fitting.inputs is not None:
        found.partly.append(f"{network}.{layer[1]} has {wanted[1]} input channels, of which the first {fitting.inputs}")
    found.tensors.setdefault(network, {})[name] = fitting


def _fitted(addition: Addition, wanted: tuple[int, ...], is_input: bool) -> Addition | None:
    """The addition as it fits a tensor; None where it does not.

    What was made for a network with 4 input channels changes the first 4 of one with 9, which mean the same.
    """
    shape = addition.form.shape
    if shape is None:
        return None
    inputs = None
    if not fits(shape, wanted) and is_input and wanted[1] > 4:
        inputs = 4
        wanted = (wanted[0], inputs, *wanted[2:])
    if not fits(shape, wanted) or not magnitude_fits(addition.magnitude, wanted):
        return None
    return Addition(form=addition.form, scale=addition.scale, magnitude=addition.magnitude, inputs=inputs)


def _notes(others: Mapping[str, tuple[str, ...]], absent: list[str], partly: list[str]) -> tuple[str, ...]:
    left_out = [phrase(kind, names) for kind, names in others.items()]
    if absent:
        left_out.append(f"{counted(len(absent), 'layer')} that this model does not have: {_listed(absent)}")
    notes = []
    if left_out:
        notes.append(f"left out, as it cannot be applied: {'; '.join(left_out)}")
    if partly:
        notes.append(f"made for fewer input channels: {'; '.join(partly)} are changed")
    return tuple(notes)


def _refuse(header: Header, model: _Model, names: Sequence[str], total: int, problem: tuple[str, str]) -> None:
    """WeightsError, in which the version of Stable Diffusion stands where the header says another than the model's.

    Args:
        names: of the layers that cannot be applied; total: how many there are.
        problem: what is wrong with one, and with several.
    """
    identified = find_lora(header)
    families = identified.families if identified else ()
    versions = [name for name, members in _VERSIONS.items() if set(members) <= set(families)]
    reason = ""
    if versions and model.version not in versions:
        reason = f"this LoRA is for {' or '.join(versions)}, the model is {model.version}: "
    one, several = (f"of its {counted(total, 'layer')} {each}" for each in problem)
    raise WeightsError(f"{header.path}: {reason}{counted(len(names), one, several)}: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        listed += f" and {len(names) - _NAMED} more"
    return listed
