"""What a student learns from its teacher, beside the text."""

from dataclasses import dataclass

from turnout.config.errors import positive, require


@dataclass(frozen=True)
class DistillationConfig:
    """A teacher, and how much of the loss is its.

    The language loss of a target is ``(1 - soft) * (- log q(target)) + soft * temperature^2 *
    KL(p || q)``, of the teacher's p and the student's q, both at the temperature (Hinton et al.
    2015, 1503.02531; Switch Transformers, 2101.03961, section 4.2: soft = 0.25). ``until`` is the
    share of the run after which the text alone teaches (mixture-of-students stops early:
    DeepSpeed-MoE, 2201.05596). ``top`` above 0 writes the teacher's most probable tokens of all
    rows of the run into the cache first, that many a target, and what they leave counts as one
    outcome; the teacher is then not in memory while the student trains.
    """

    teacher: str
    soft: float = 0.25
    temperature: float = 1.0
    until: float = 1.0
    top: int = 0

    def __post_init__(self) -> None:
        require(bool(self.teacher), "distillation.teacher", self.teacher, "the folder of a model")
        require(0 < self.soft <= 1, "distillation.soft", self.soft, "above 0 and at most 1")
        positive("distillation.temperature", self.temperature)
        require(0 < self.until <= 1, "distillation.until", self.until, "above 0 and at most 1")
        require(self.top >= 0, "distillation.top", self.top, "at least 0; 0 keeps no cache")
        require(
            self.top == 0 or self.temperature == 1,
            "distillation.temperature",
            self.temperature,
            "1 with distillation.top, which keeps probabilities of some tokens only",
        )
