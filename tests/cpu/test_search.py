"""When cuDNN measures its algorithms: with the second captures of a batch key, never the first, and only if asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.torch import session as sessions
from intarsia.backends.torch.backend import TorchBackend
from intarsia.backends.torch.capture import searching
from intarsia.backends.torch.captured_stepper import CapturedStepper, Limits
from intarsia.backends.torch.static_batch import Network
from intarsia.execution import Execution
from intarsia.schedulers import table
from tests.cpu.fake_capturer import FakeCapturer
from tests.cpu.test_captured_stepper import CPU, PLENTY, Case, Unet, assert_same, eager
from tests.cpu.test_convolutions import networks

EULER = table("euler", 4)


class Watched(Unet):
    """Remembers whether cuDNN's benchmark mode was on as it was evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = []

    def __call__(self, *given: Any) -> torch.Tensor:
        self.searches.append(torch.backends.cudnn.benchmark)
        return super().__call__(*given)


def captured_case(search: bool = True, limits: Limits = PLENTY) -> tuple[Case, Watched, FakeCapturer]:
    """A stepper with lanes, its network and its capturer."""
    unet, capturer = Watched(), FakeCapturer()
    network = Network(unet=unet, device=CPU, dtype=torch.float32, fused=False, capturer=capturer, search=search)
    return Case(CapturedStepper(network, False, limits)), unet, capturer


def one_image(case: Case, side: int = 6, seed: int = 1) -> list[torch.Tensor]:
    return case.run([case.lane(EULER, seed, side=side)], [0])


def test_the_second_image_of_a_size_is_captured_anew_with_a_search_and_the_third_is_not():
    case, unet, capturer = captured_case()
    expected = one_image(eager())
    captured = []
    for _ in range(3):
        unet.searches.clear()
        assert_same(one_image(case), expected)
        captured.append((capturer.captured, unet.searches[:2], torch.backends.cudnn.benchmark))
    # a replay here is the work itself, and so under the mode that it was captured in
    assert captured == [(1, [False, False], False), (2, [True, True], False), (2, [True, True], False)]


def test_without_the_switch_nothing_is_searched_and_nothing_captured_twice():
    case, unet, capturer = captured_case(search=False)
    for _ in range(3):
        one_image(case)
    assert capturer.captured == 1
    assert not any(unet.searches)


def test_another_size_comes_without_a_search():
    case, unet, capturer = captured_case()
    for side in (6, 8, 10):
        one_image(case, side)
    assert capturer.captured == 3
    assert not any(unet.searches)


def test_a_size_that_was_given_up_and_comes_again_is_captured_once_with_a_search():
    case, unet, capturer = captured_case(limits=Limits(1, 2**30))
    one_image(case, 6)
    one_image(case, 8)
    assert not any(unet.searches)
    unet.searches.clear()
    one_image(case, 6)
    one_image(case, 6)
    assert capturer.captured == 3
    assert all(unet.searches)


def test_lanes_under_way_are_not_held_up_by_a_search():
    case, unet, capturer = captured_case()
    case.run([case.lane(EULER, seed) for seed in (1, 2)], [0, 2])
    assert capturer.captured == 2, "alone, then with another"
    assert not any(unet.searches)


def test_the_mode_is_as_it_was_also_after_a_failure(monkeypatch):
    def fail() -> None:
        assert torch.backends.cudnn.benchmark
        raise RuntimeError("no")

    for before in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
        with pytest.raises(RuntimeError, match="no"):
            searching(fail)()
        assert torch.backends.cudnn.benchmark is before


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("choice", [(), ("searched",)])
def test_the_switch_reaches_the_steps_of_a_session_that_need_not_be_deterministic(monkeypatch, deterministic, choice):
    given, make_stepper = [], sessions._make_stepper

    def keep(network: Any, *rest: Any) -> Any:
        given.append(replace(network))
        return make_stepper(network, *rest)

    monkeypatch.setattr(sessions, "_make_stepper", keep)
    TorchBackend("cpu", Execution(deterministic=deterministic)).open_parts(networks(), convolutions=choice)
    assert [each.search for each in given] == [bool(choice) and not deterministic]
