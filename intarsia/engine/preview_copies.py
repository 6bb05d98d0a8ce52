"""The engine's side of previews: which combination of a lane's latents is copied, and when."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from intarsia.backends.protocol import Previews, Session, Shares
from intarsia.engine.color_map import ColorMap
from intarsia.engine.color_maps import ColorMaps
from intarsia.engine.lanes import Lane
from intarsia.engine.preview import Preview, StepPreviews, Surroundings
from intarsia.engine.sampling import prediction_type_of
from intarsia.engine.ticket import Ticket
from intarsia.errors import BackendError, WeightsError, one_line
from intarsia.schedulers import Table, alpha_sigma
from intarsia.schedulers.noise_schedule import PredictionType

__all__ = ["Copies", "open_copies", "predicted_image"]

log = logging.getLogger("intarsia")


def predicted_image(table: Table, row: int, prediction_type: PredictionType) -> Shares:
    """Shares of the predicted x_0 in what a lane holds after a row.

    Without the row's fresh noise the new sample is ``a x_0 + b ε``, and the network's output ``c x_0 + d ε``: ``a`` and
    ``b`` follow from the noise level after the row, ``c`` and ``d`` from what the network predicts (Salimans & Ho 2022,
    section 2.4). Both together give x_0: the network's own prediction where the solver keeps x_0 and ε along the row
    (DDIM, Euler and what is of first order), and close to it elsewhere. A Langevin row chooses its step size itself, so
    that some of its noise is left. After the last row it is the sample.
    """
    if row == len(table) - 1:
        return Shares(sample=1.0)
    if prediction_type == "sample":
        return Shares(output=1.0)

    sigma = float(table.sigmas[row + 1])
    image_share = 1 / (float(table.input_scale[row + 1]) * math.hypot(1, sigma))
    # a Langevin row scales its own by a ratio that only the device has
    fresh = 0.0 if table.langevin_snr[row] else float(table.matrix[row, 0, -1])
    noise_share = math.sqrt(max(0.0, (image_share * sigma) ** 2 - fresh**2))
    if prediction_type == "epsilon":
        return Shares(sample=1 / image_share, output=-noise_share / image_share, noise=-fresh / image_share)

    alpha, sigma_t = (float(value) for value in alpha_sigma(table.sigmas[row]))  # v = alpha ε - sigma_t x_0
    divisor = image_share * alpha + noise_share * sigma_t
    return Shares(sample=alpha / divisor, output=-noise_share / divisor, noise=-fresh * alpha / divisor)


class Copies:
    """Takes the previews of one request. For the engine's thread alone.

    Args:
        every: evaluations from one preview to the next; there is one after the last evaluation too.
    """

    def __init__(
        self,
        session: Previews,
        color_map: ColorMap,
        surroundings: Surroundings,
        *,
        every: int,
        prediction_type: PredictionType,
    ) -> None:
        self._session, self._color_map, self._surroundings = session, color_map, surroundings
        self._every, self._prediction_type = every, prediction_type
        self._latest: dict[int, Preview] = {}
        self._failure = ""

    def after(self, step: int, lanes: Sequence[Lane]) -> StepPreviews:
        """Copy the lanes that are due, and give the latest of each image if the request itself is.

        Lanes of one request may be at different rows; each is copied at its own multiples of ``every``.

        Args:
            step: evaluations that every lane has had.
            lanes: all of the request's, those that have just moved with their states.
        """
        for lane in lanes:
            if not self._failure and lane.state is not None and self._is_due(lane.cursor, lane.rows):
                self._copy(lane)

        if self._failure:
            return StepPreviews(missing=self._failure)
        if not self._is_due(step, lanes[0].rows):
            return StepPreviews(missing=f"step {step} has no preview: there is one every {self._every} steps")
        return StepPreviews(tuple(self._latest[sample] for sample in sorted(self._latest)))

    def _is_due(self, step: int, rows: int) -> bool:
        return step > 0 and (step % self._every == 0 or step == rows)

    def _copy(self, lane: Lane) -> None:
        shares = predicted_image(lane.table, lane.cursor - 1, self._prediction_type)
        try:
            latents = self._session.snapshot(lane.state, shares)
        except BackendError as exc:  # the request goes on, and meets what is wrong with the device itself
            self._failure = f"there are no further previews: {one_line(exc)}"
            log.warning("%s", self._failure)
            return
        self._latest[lane.sample] = Preview(latents, self._color_map, self._surroundings)


def open_copies(ticket: Ticket, session: Session, color_maps: ColorMaps) -> Copies | StepPreviews:
    """What takes a request's previews, or why there are none. A color map that is not there yet is fitted here."""
    resolved = ticket.resolved
    if resolved.checker is not None:
        return StepPreviews(missing="a request with a safety checker has no previews: it would not see them")
    if not isinstance(session, Previews):
        return StepPreviews(missing=f"backend {session.runtime.backend} has no previews")

    try:
        color_map = color_maps.find(resolved, session)
    except (BackendError, WeightsError) as exc:  # previews are no reason to fail a request
        log.warning("previews of %s have no colors: %s", resolved.entry.id, one_line(exc))
        return StepPreviews(missing=f"there are no previews: {one_line(exc)}")
    return Copies(
        session,
        color_map,
        Surroundings(resolved.inputs),
        every=ticket.preview_every or 1,
        prediction_type=prediction_type_of(resolved.plan),
    )
