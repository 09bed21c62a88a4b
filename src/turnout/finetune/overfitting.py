"""Whether a run learnt its examples by heart: held-out text against training text, over steps."""

from dataclasses import dataclass

from turnout.config.train import TrainConfig
from turnout.probe.curve import Curve, Point

WINDOW = 9  # training batches whose mean stands for one step
SLACK = 0.01  # share of the best by which held-out text may be worse without being called so


@dataclass(frozen=True)
class Overfitting:
    """Bits per byte of text at the best evaluation and at the last.

    Attributes:
        best, last: held-out text.
        training_best, training_last: mean of the training batches around, or up to, those steps.
        patience: whether the run ended because nothing became better.
    """

    best: Point
    last: Point
    training_best: float
    training_last: float
    patience: bool

    @property
    def found(self) -> bool:
        """Held-out text became worse while training text became better."""
        worse = self.last.bits > self.best.bits * (1 + SLACK)
        return worse and self.training_last < self.training_best

    @property
    def line(self) -> str:
        """For people."""
        where = f"best after step {self.best.step}: {self.best.bits:.4f}"
        if self.last.step == self.best.step:
            return f"overfitting: none seen; the last evaluation is the best ({where})"
        told = (
            f"{where}, at the end (step {self.last.step}) {self.last.bits:.4f}; training text "
            f"{self.training_best:.4f} then, {self.training_last:.4f} now"
        )
        ended = "; ended by train.patience" if self.patience else ""
        return f"overfitting: {'YES' if self.found else 'none seen'}; {told}{ended}"


def overfitting(curve: Curve, train: TrainConfig) -> Overfitting | None:
    """From a run's curve and its loop; None before its first evaluation or step."""
    if not curve.validation or not curve.training:
        return None
    best = min(curve.validation, key=lambda point: (point.bits, point.step))
    last = curve.validation[-1]
    return Overfitting(
        best,
        last,
        _training(curve, best.step),
        _training(curve, last.step),
        patience=last.step < train.steps and train.out_of_patience(last.step, best.step),
    )


def _training(curve: Curve, step: int) -> float:
    """Mean of the batches up to a step, or of the first ones."""
    before = [point.bits for point in curve.training if point.step <= step][-WINDOW:]
    found = before or [point.bits for point in curve.training[:WINDOW]]
    return sum(found) / len(found)
