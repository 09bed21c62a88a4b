"""Logits before a token is chosen: the repetition penalty, and no stop too soon."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from tests.generate.test_generate import PROMPTS, ready
from turnout.config.errors import ConfigError
from turnout.generate import GenerateOptions, generate
from turnout.generate.logits import penalised


def test_the_penalty_by_hand() -> None:
    logits = torch.tensor([[2.0, -2.0, 4.0, 0.0, -1.0]])
    ids, mask = torch.tensor([[4, 0, 1, 0]]), torch.tensor([[False, True, True, True]])
    # 0 stands there twice and is divided once; 4 is padding.
    found = penalised(logits, ids, mask, 2.0)
    assert found.tolist() == [[1.0, -4.0, 4.0, 0.0, -1.0]]


@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 50, generator=generator)
    ids = torch.randint(0, 50, (6, 30), generator=generator)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    found = penalised(logits, ids, torch.ones_like(ids, dtype=torch.bool), penalty)
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize("name", ["modern", "switch", "olmoe"])
def test_a_strong_penalty_never_repeats(name: str) -> None:
    """Every id read or written is out of reach; alone and in a batch the same."""
    model = ready(name)
    strong = GenerateOptions(8, repetition_penalty=1e6)
    together = generate(model, PROMPTS[:3], strong)
    for prompt, written in zip(PROMPTS, together, strict=False):
        read = [0] if name == "switch" else prompt
        assert len({*read, *written}) == len(set(read)) + len(written)
        assert generate(model, [prompt], strong) == [written]
    assert together != generate(model, PROMPTS[:3], GenerateOptions(8))


def test_an_encoders_prompt_is_not_penalised() -> None:
    """Prompts that hold the very token that is most probable behind them."""
    model = ready("t5")
    pairs = [[first, second] for first in range(1, 40, 3) for second in (19, 32)]
    free = generate(model, pairs, GenerateOptions(1))
    prompts = [pair for pair, (new,) in zip(pairs, free, strict=True) if new in pair and new]
    assert prompts
    strong = GenerateOptions(1, repetition_penalty=1e6)
    assert generate(model, prompts, strong) == generate(model, prompts, GenerateOptions(1))


def test_no_stop_before_the_fewest() -> None:
    model = ready("modern")
    everything_but = tuple(i for i in range(40) if i != 7)
    options = GenerateOptions(6, stop_ids=everything_but, min_new_tokens=3)
    for written in generate(model, PROMPTS, options):
        assert written[:3] == [7, 7, 7]
    assert max(map(len, generate(model, PROMPTS, GenerateOptions(6, stop_ids=everything_but)))) < 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty = 0.0: must be above 0"),
        ({"min_new_tokens": 65}, "min_new_tokens = 65: must be from 0 to max_new_tokens 64"),
        ({"num_beams": 0}, "num_beams = 0: must be at least 1"),
        ({"num_beams": 2, "temperature": 0.7}, "num_beams = 2: must be 1 with temperature 0.7"),
        ({"length_penalty": 2.0}, "num_beams = 1: must be above 1 with length_penalty"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty = nan: must be finite"),
    ],
)
def test_options_that_make_no_sense(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        GenerateOptions(**changed)
    assert "\n" not in str(error.value)
