"""``intarsia compare``: fields with several values each, over one image, as one labelled grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from intarsia.commands.compare_files import Files, GridOptions
from intarsia.commands.interrupts import held, interruptible
from intarsia.commands.option_groups import grouped
from intarsia.commands.options import AsJson, EngineOptions, MessageOptions
from intarsia.commands.progress_bar import progress_bar
from intarsia.commands.request_options import (
    ImageOptions,
    MaskOptions,
    ModelOptions,
    PromptOptions,
    SamplingOptions,
    SeedOptions,
)
from intarsia.commands.streams import complain, note, print_report, remark
from intarsia.counted import counted
from intarsia.errors import RequestError

if TYPE_CHECKING:
    from intarsia.comparing.axes import Axis
    from intarsia.comparing.comparison import Comparison

__all__ = ["compare"]


class RequestGroup(Protocol):
    """Options that are fields of a request."""

    def fields(self) -> dict[str, Any]:
        """Those that are given."""


Axes = Annotated[
    list[str] | None,
    typer.Option(
        "--axis",
        metavar="NAME=A,B",
        help="Values of any field; for prompts, one in each --axis. Options take A,B too.",
    ),
]


@grouped
def compare(
    context: typer.Context,
    images: ImageOptions,
    masks: MaskOptions,
    prompt: PromptOptions,
    seed: SeedOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    output: GridOptions,
    engine: EngineOptions,
    messages: MessageOptions,
    axis: Axes = None,
    as_json: AsJson = False,
) -> None:
    """Compare settings over one image, as a labelled grid.

    A table and a manifest for intarsia batch are written beside the grid.

    An option with several values is an axis: --scheduler euler,ddim --steps 10,20,30 are six images, made as one batch.
    The last axis goes across, the one before it down. Exit code 1: some cells failed, and say why.
    """
    from intarsia.comparing.running import Settings, run_comparison

    messages.apply()
    groups = (masks, prompt, seed, sampling, model)
    fields, axes = _fields_and_axes(images, groups, axis or [], list(context.params))
    files = output.files(fields.get("init_image"))

    with interruptible() as written:
        with engine.open() as opened, progress_bar("comparing") as watch:
            settings = Settings(
                cell_size=output.cell_size,
                keep=output.keep,
                overwrite=output.overwrite,
                watch=watch,
                note_kept=written.extend,
            )
            comparison = run_comparison(opened, fields, axes, settings)
        with held():
            files.write(comparison, output.overwrite)
            written += files.paths
        _report(comparison, files, as_json)
    if comparison.failed:
        raise typer.Exit(1)


def _fields_and_axes(
    images: ImageOptions, groups: Sequence[RequestGroup], settings: Sequence[str], order: Sequence[str]
) -> tuple[dict[str, Any], list[Axis]]:
    """What all cells have, and the axes; image and mask may be axes."""
    from intarsia.commands.axis_text import axes_of, settings_of

    compared = settings_of(settings)
    fields = images.fields(needs_images=False)
    for group in groups:
        fields |= group.fields()

    given = {*fields, *compared}
    needed = {"image": "init_image"} if "extend" in given else {"image": "init_image", "mask": "mask_image"}
    for argument, field in needed.items():
        if field not in given:
            raise RequestError(argument, message=f"{argument} is missing: intarsia compare IMAGE MASK")
    return axes_of(compared, fields, order)


def _report(comparison: Comparison, files: Files, as_json: bool) -> None:
    """What was made, on standard output; what failed, on standard error."""
    counters = comparison.counters
    remark(
        f"{counted(counters.lane_rows, 'image')} went through the network in "
        f"{counted(counters.evaluations, 'evaluation')}, "
        f"in {comparison.seconds:.2f} s"
    )
    for cell in comparison.failed:
        complain(f"{cell.id} failed: {cell.error}")
    if as_json:
        paths = dict(zip(("grid", "csv", "manifest"), map(str, files.paths), strict=True))
        print_report({**paths, **comparison.to_dict()})
        return

    for warning in dict.fromkeys(warning for cell in comparison.cells for warning in cell.warnings):
        note(warning)
    for path in files.paths:
        typer.echo(str(path))
