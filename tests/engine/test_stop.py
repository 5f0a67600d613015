"""A signal stops a run at once, or after the step in progress, and is never lost."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from unlearn_cli.engine.stop import STOPS, Stopper
from unlearn_cli.errors import signal_of

pytestmark = pytest.mark.usefixtures("heard")
SIGNALS = STOPS
reached: list[int] = []
"""What the training in hand came to: the signals that it was told of, -1 where it went on."""


def within_a_step(stopper: Stopper, sent: signal.Signals) -> None:
    with stopper.waiting():
        reached.append(stopper())
        signal.raise_signal(sent)
        reached.append(stopper())
    reached.append(-1)


def within_an_evaluation(stopper: Stopper, sent: signal.Signals) -> None:
    with stopper.waiting(), stopper.at_once():
        signal.raise_signal(sent)
        reached.append(-1)


def before_an_evaluation(stopper: Stopper, sent: signal.Signals) -> None:
    with stopper.waiting():
        signal.raise_signal(sent)
        with stopper.at_once():
            reached.append(-1)


def twice(stopper: Stopper, sent: signal.Signals) -> None:
    with stopper.waiting():
        signal.raise_signal(sent)
        signal.raise_signal(sent)
        reached.append(-1)


def stop(training: Callable[[Stopper, signal.Signals], None], sent: signal.Signals) -> None:
    """Until the interrupt, which must be that of the signal; what was there before is back."""
    reached.clear()
    before = signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt) as caught, Stopper() as stopper:
        training(stopper, sent)
    assert signal_of(caught.value) == sent
    assert signal.getsignal(sent) == before


@pytest.mark.parametrize("sent", SIGNALS)
def test_within_a_step_it_waits_to_be_asked_for_and_is_not_lost_where_nobody_does(
    sent: signal.Signals,
) -> None:
    """The step goes on, and whoever asks learns the number. One that came after the last look, in
    the write of the last checkpoint perhaps, stops what would follow the training."""
    stop(within_a_step, sent)
    assert reached == [0, sent]


@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize("training", [within_an_evaluation, before_an_evaluation, twice])
def test_it_does_not_wait_for_an_evaluation_nor_where_it_comes_again(
    training: Callable[[Stopper, signal.Signals], None], sent: signal.Signals
) -> None:
    """Nothing of the evaluation is done after it, or begun; who presses Ctrl-C twice means it."""
    stop(training, sent)
    assert reached == []
