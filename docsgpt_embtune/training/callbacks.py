"""What happens in the course of a fit: candidates, checkpoints, an early end, and a progress bar."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import TrainerCallback

from docsgpt_embtune.errors import TrainingError
from docsgpt_embtune.progress import Bar
from docsgpt_embtune.training.processes import is_main_process

SECONDS_BETWEEN_SAVES = 60.0
SHARE_BEFORE_LOOKING = 0.25  # of the steps, before asking whether to go on


class StopEarlyUnless(TrainerCallback):
    """Ask once, early on, whether to go on training, and stop if not."""

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self.goes_on = goes_on

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Ask after the first SHARE_BEFORE_LOOKING of the steps."""
        look_at = math.ceil(SHARE_BEFORE_LOOKING * state.max_steps)
        if state.global_step != look_at or look_at == state.max_steps:
            return
        context["model"].eval()
        control.should_training_stop = not self.goes_on()
        context["model"].train()


class AtEpochEnd(TrainerCallback):
    """Call back with the number of the epoch that has just ended."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.function = function

    def on_epoch_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Call the function with the model in eval mode, unless training stopped within the epoch."""
        if not float(state.epoch).is_integer():
            return
        context["model"].eval()
        self.function(round(state.epoch))
        context["model"].train()


class SaveNowAndThen(TrainerCallback):
    """Save checkpoints by the clock: a step takes a millisecond on one machine and ten seconds on another.

    Never after the last step of an epoch, where the trainer would: a run resumed from there takes the epoch for done,
    and would never enter its candidate. Nor where training ends early: a resumed run would go on training after all.
    """

    def __init__(self) -> None:
        self.last_save = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to save if the last save is long enough ago."""
        is_due = time.monotonic() - self.last_save >= SECONDS_BETWEEN_SAVES
        control.should_save = is_due and not control.should_training_stop and not float(state.epoch).is_integer()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restart the clock."""
        self.last_save = time.monotonic()


class StopOnBrokenLoss(TrainerCallback):
    """End the run when the loss is no longer finite: at once where it is logged, at the end where it is not."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise TrainingError if the logged loss is not finite."""
        if not np.isfinite(logs.get("loss", 0.0)):
            raise TrainingError(f"the loss became {logs['loss']} at step {state.global_step}; lower --learning-rate")

    def on_train_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Raise TrainingError if the weights are not finite, as the last steps' loss is not logged."""
        if not all(weights.isfinite().all() for weights in context["model"].parameters()):
            raise TrainingError(f"the weights are no numbers at step {state.global_step}; lower --learning-rate")


class ProgressBar(TrainerCallback):
    """A progress bar with steps, time left, epoch and loss."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.bar = Bar(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.name,
            unit="step",
            dynamic_ncols=True,
            disable=not is_main_process(),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show epoch and loss."""
        if "loss" in logs:
            self.bar.set_postfix(epoch=f"{state.epoch:.1f}", loss=f"{float(logs['loss']):.3g}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()
