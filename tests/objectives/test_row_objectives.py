"""Rows of prefixes and examples: their loss, however they are cut, padded and packed; and what
carries none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.moe.cases import ROUTERS
from tests.objectives.cases import (
    ALL_ON,
    LENGTH,
    MODERN,
    T5,
    DocumentGroup,
    RowsGroup,
    build,
    run,
    sparse,
)
from tests.objectives.test_invariance import assert_equal
from turnout.config.losses import LossConfig
from turnout.config.model import ModelConfig
from turnout.config.objective import TextToTextConfig
from turnout.data.batch import Batch
from turnout.data.examples import Example
from turnout.data.mixture import RowShape, Shaped
from turnout.data.packing import pack
from turnout.data.prefix import CausalPrefixRows, SplitRows
from turnout.data.rows import RowSource, tensor
from turnout.data.side import Side
from turnout.data.text_to_text import pair_rows
from turnout.data.tokenizers import ByteTokenizer
from turnout.models.base import Model

DOCUMENTS = [bytes(range(65, 65 + n)) for n in (3, 17, 1, 8, 20, 5, 2, 30)]
TOKENIZER = ByteTokenizer()
SIDE = Side.held(TOKENIZER.encode_documents(DOCUMENTS))
EXAMPLES = [
    Example(bytes(range(65, 65 + read)), bytes(range(97, 97 + write)), "")
    for read, write in ((3, 2), (1, 1), (9, 4), (0, 5), (4, 3), (2, 2), (12, 1), (5, 2), (1, 4))
]
SHOWN = TextToTextConfig(visible_inputs=True)
ONE: dict[str, RowSource] = {
    "prefix": CausalPrefixRows(pack(SIDE, TOKENIZER, LENGTH), 1),
    "text_to_text": pair_rows(EXAMPLES, TOKENIZER, TextToTextConfig(), 0, LENGTH),
    "text_to_text visible": pair_rows(EXAMPLES, TOKENIZER, SHOWN, 0, LENGTH),
}
TWO: dict[str, RowSource] = {
    "prefix": SplitRows(SIDE, TOKENIZER, LENGTH, 1),
    "text_to_text": pair_rows(EXAMPLES, TOKENIZER, TextToTextConfig(), LENGTH, LENGTH),
}
CASES = [(MODERN, name, rows) for name, rows in ONE.items()] + [
    (T5, name, rows) for name, rows in TWO.items()
]
NAMES = [f"{family.kind} {name}" for family, name, _ in CASES]


def cut(rows: RowSource, size: int, width: int = LENGTH) -> list[Batch]:
    """Four rows in micro-batches of ``size``, padded to ``width``."""
    shape = replace(RowShape.common([rows]), decoder=width, encoder=width)
    return [batch(Shaped(rows, shape), np.arange(at, at + size)) for at in range(0, 4, size)]


def batch(rows: RowSource, number: np.ndarray) -> Batch:
    found = rows.read(number, number)
    return Batch(
        decoder=found.decoder,
        targets=found.targets,
        target_mask=found.target_mask,
        keys=tensor(number * 104_729 + 17),
        row=tensor(number),
        encoder=found.encoder,
    )


def model_of(family: ModelConfig, **options: object) -> Model:
    arguments = {"router": ROUTERS["switch"], "capacity": 1.0, "group": RowsGroup(), **options}
    return build(sparse(**arguments), replace(family, vocab_size=384))


@pytest.mark.parametrize("scope", ["group", "batch"])
@pytest.mark.parametrize(("family", "name", "rows"), CASES, ids=NAMES)
def test_cuts_and_padding_change_nothing(
    family: ModelConfig, name: str, rows: RowSource, scope: str
) -> None:
    model, losses = model_of(family, router=ROUTERS["switch_jitter"]), replace(ALL_ON, scope=scope)
    expected = run(model, losses, cut(rows, 4))
    assert all(sum(kept) > 0 for kept in expected.kept)
    for size, width in ((2, LENGTH), (1, LENGTH), (4, 19), (2, 15)):
        assert_equal(run(model, losses, cut(rows, size, width)), expected)


@pytest.mark.parametrize("scope", ["group", "batch"])
@pytest.mark.parametrize("objective", [TextToTextConfig(), SHOWN], ids=["hidden", "visible"])
@pytest.mark.parametrize("family", [MODERN, T5], ids=["one stack", "two stacks"])
def test_packed_examples_are_examples_alone(
    family: ModelConfig, objective: TextToTextConfig, scope: str
) -> None:
    encoder = 0 if family is MODERN else LENGTH
    packed = pair_rows(EXAMPLES, TOKENIZER, objective, encoder, LENGTH)
    alone = pair_rows(EXAMPLES, TOKENIZER, replace(objective, max_examples=1), encoder, LENGTH)
    assert packed.num_rows < alone.num_rows == len(EXAMPLES)
    model, losses = model_of(family, group=DocumentGroup()), replace(ALL_ON, scope=scope)
    one, other = (
        run(model, losses, [batch(rows, np.arange(rows.num_rows))]) for rows in (packed, alone)
    )
    assert_equal(one, other)


@pytest.mark.parametrize("name", ONE)
def test_a_prompt_carries_no_loss(name: str) -> None:
    model = model_of(MODERN)
    whole = cut(ONE[name], 4)[0]
    prompt = whole.decoder.mask & ~whole.target_mask
    assert bool(prompt.any()) and bool(whole.target_mask.any())
    expected = run(model, ALL_ON, [whole])
    # What would be asked of the prompt may be anything: nothing is asked.
    other = torch.where(prompt, (whole.targets + 50) % 384, whole.targets)
    found = run(model, ALL_ON, [replace(whole, targets=other)])
    assert found.total == expected.total
    assert all(torch.equal(found.gradients[n], g) for n, g in expected.gradients.items())
    asked = run(model, ALL_ON, [replace(whole, target_mask=whole.decoder.mask)])
    assert asked.total != expected.total


@pytest.mark.parametrize("name", ONE)
def test_no_gradient_starts_at_a_prompt_but_all_passes_through_it(name: str) -> None:
    model = model_of(MODERN)
    whole = cut(ONE[name], 4)[0]
    read: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda *args: read.append(args[2]))
    output = model(whole)
    output.hidden.retain_grad()
    read[0].retain_grad()
    loss = output.head.cross_entropy(output.hidden, whole.targets, whole.target_mask)
    loss.total.backward()
    assert output.hidden.grad is not None and read[0].grad is not None
    starts = output.hidden.grad.abs().amax(2) > 0
    assert torch.equal(starts, whole.target_mask)
    # The first token of every row is read by what is predicted behind it.
    assert bool((read[0].grad[:, 0].abs().amax(1) > 0).all())


def test_losses_off_leave_the_language_loss() -> None:
    """The mean is over targets alone: one row's loss is that of its targets, by hand."""
    model = model_of(MODERN, capacity=None)
    losses = LossConfig(balance=0.0, router_z=0.0)
    whole = cut(ONE["text_to_text"], 1)[0]
    found = run(model, losses, [whole])
    output = model(whole)
    nats = -output.head.logits(output.hidden).log_softmax(-1)
    picked = nats.gather(2, whole.targets.unsqueeze(2)).squeeze(2)[whole.target_mask]
    # The first two examples have 3 + 1 + 2 + 1 and 1 + 1 + 1 + 1 tokens; the third does not fit.
    # Targets and their ends are 3 and 2 of the 11.
    assert (len(picked), int(whole.decoder.mask.sum())) == (5, 11)
    assert found.total == pytest.approx(float(picked.mean().detach()), rel=1e-5)
