"""Generation: the same alone and in a batch, the same as without a cache, and its refusals."""

from dataclasses import replace

import pytest
import torch

from tests.models.cases import CASES, LENGTH, MODERN, T5, batch_for, batch_of
from turnout.config.errors import UserError
from turnout.config.moe import DocumentGroup, RowsGroup
from turnout.config.routers import LabelRouter
from turnout.data.batch import Stream
from turnout.generate import GenerateOptions, generate
from turnout.generate.prompts import left_padded
from turnout.models import Model, build

PROMPTS = [[3, 14, 15, 9, 2, 6], [5], [35, 8, 9, 7], [5]]
SAMPLED = GenerateOptions(8, temperature=1.0, top_k=20, top_p=0.95, seed=3)


def ready(name: str) -> Model:
    model = build(CASES[name])
    model.init_weights(0)
    return model


def row(ids: list[int]) -> Stream:
    tokens = torch.tensor([ids])
    real = torch.ones_like(tokens, dtype=torch.bool)
    return Stream(tokens, real, real.long(), torch.arange(len(ids)).unsqueeze(0))


@torch.no_grad()
def greedy_without_cache(model: Model, prompt: list[int], new: int) -> list[int]:
    """The whole row read again for every token."""
    written: list[int] = []
    for _ in range(new):
        if model.config.kind == "decoder_only":
            batch = batch_of(row(prompt + written))
        else:
            batch = batch_of(row([0, *written]), row(prompt))
        output = model(batch)
        written.append(int(output.head.logits(output.hidden[:, -1]).argmax()))
    return written


@pytest.mark.parametrize("name", CASES)
def test_greedy_is_the_full_forward_token_by_token(name: str) -> None:
    model = ready(name).eval()
    expected = [greedy_without_cache(model, prompt, 8) for prompt in PROMPTS]
    assert generate(model, PROMPTS, GenerateOptions(8)) == expected


@pytest.mark.parametrize("options", [GenerateOptions(8), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", CASES)
def test_alone_and_together(name: str, options: GenerateOptions) -> None:
    model = ready(name)
    together = generate(model, PROMPTS[:3], options)
    assert together == [generate(model, [prompt], options)[0] for prompt in PROMPTS[:3]]
    assert together[::-1] == generate(model, PROMPTS[2::-1], options)


def test_sampling_depends_on_seed_and_varies_among_equal_prompts() -> None:
    model = ready("modern")
    hot = GenerateOptions(10, temperature=3.0, seed=1)
    one, again = generate(model, PROMPTS, hot), generate(model, PROMPTS, hot)
    assert one == again
    assert one[1] != one[3]
    assert generate(model, PROMPTS, GenerateOptions(10, temperature=3.0, seed=2)) != one


@pytest.mark.parametrize("name", ["olmoe", "switch"])
def test_a_stop_token_ends_its_row_alone(name: str) -> None:
    model = ready(name)
    hot = GenerateOptions(8, temperature=3.0, seed=5)
    free = generate(model, PROMPTS, hot)
    stop = free[0][3]
    stopped = generate(
        model, PROMPTS, GenerateOptions(8, temperature=3.0, seed=5, stop_ids=(stop,))
    )
    for before, after in zip(free, stopped, strict=True):
        assert after == (before[: before.index(stop)] if stop in before else before)
    assert len(stopped[0]) <= 3


def test_stops_as_soon_as_every_row_has() -> None:
    model = ready("modern")
    passes = []
    model.decoder.register_forward_hook(lambda *_: passes.append(1))
    everything = tuple(range(MODERN.vocab_size))
    assert generate(model, PROMPTS, GenerateOptions(8, stop_ids=everything)) == [[], [], [], []]
    assert len(passes) == 1


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored(training: bool) -> None:
    model = ready("olmoe").train(training)
    model.decoder.blocks[0].eval()
    before = [module.training for module in model.modules()]
    generate(model, [[1, 2]], GenerateOptions(2))
    assert [module.training for module in model.modules()] == before
    with pytest.raises(UserError):
        generate(model, [[]])
    assert [module.training for module in model.modules()] == before


def test_prompts_are_aligned_at_their_ends() -> None:
    stream = left_padded([[7, 8, 9], [5]], torch.device("cpu"))
    assert stream.ids.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert stream.mask.long().tolist() == [[1, 1, 1], [0, 0, 1]]
    assert stream.position.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_no_prompts_no_texts() -> None:
    assert generate(ready("modern"), []) == []


def test_the_longest_prompt_that_fits() -> None:
    model = ready("modern")
    assert len(generate(model, [[1] * (LENGTH - 3)], GenerateOptions(3))[0]) == 3
    assert len(generate(ready("t5"), [[1] * LENGTH], GenerateOptions(LENGTH))[0]) == LENGTH


@pytest.mark.parametrize(
    ("name", "prompts", "new", "message"),
    [
        ("modern", [[1], []], 2, "prompt 1 is empty"),
        ("t5", [[]], 2, "prompt 0 is empty"),
        ("modern", [[1] * 14], 3, "prompt 0 has 14 tokens: with max_new_tokens 3"),
        ("t5", [[1] * 17], 3, "prompt 0 has 17 tokens: more than model.encoder_length 16"),
        ("t5", [[1]], 17, "max_new_tokens = 17: more than model.decoder_length 16"),
        ("modern", [[1, 40]], 2, "prompt 0 holds id 40: ids are 0 to 39"),
        ("modern", [[-1, 4]], 2, "prompt 0 holds id -1: ids are 0 to 39"),
    ],
)
def test_prompts_that_cannot_be_read(
    name: str, prompts: list[list[int]], new: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        generate(ready(name), prompts, GenerateOptions(new))
    assert "\n" not in str(error.value)


def test_answers_in_bf16() -> None:
    model = build(T5, dtype=torch.bfloat16)
    model.init_weights(0)
    (answer,) = generate(model, [[4, 5, 6]], GenerateOptions(5))
    assert len(answer) == 5


@pytest.mark.parametrize("group", [RowsGroup(), RowsGroup(2), DocumentGroup()])
@pytest.mark.parametrize("family", ["sparse_glam", "switch"])
def test_generation_drops_nothing_even_where_evaluation_may(family, group) -> None:
    """Under a cache a pass sees part of a routing group, and a group is never cut."""
    config = CASES[family]
    tight = replace(config.moe, eval_capacity_factor=0.25, min_capacity=1, group=group)
    model = build(replace(config, moe=tight))
    model.init_weights(0)
    wanted: list[int] = []
    served: list[int] = []
    for layer in model.sparse_layers().values():
        layer.router.register_forward_hook(
            lambda _, inputs, outputs: wanted.append(int(outputs[0].live.sum()))
        )
        layer.experts.register_forward_hook(
            lambda _, inputs, rows: served.append(int(inputs[1][-1]))
        )
    generate(model, PROMPTS[:3], GenerateOptions(4))
    assert len(served) >= 4 and wanted == served
    if group == RowsGroup():  # and without a cache the capacity holds
        model.eval()(batch_for(model.config, [16, 16], [16, 16]))
        assert sum(served) < sum(wanted)


@pytest.mark.parametrize("family", ["sparse_glam", "switch"])
def test_every_token_is_generated_under_the_label(family: str) -> None:
    config = CASES[family]
    assert config.moe is not None
    model = build(replace(config, moe=replace(config.moe, router=LabelRouter(3))))
    model.init_weights(0)
    used: set[int] = set()
    for layer in model.sparse_layers().values():
        layer.router.register_forward_hook(
            lambda _, inputs, outputs: used.update(outputs[0].expert[outputs[0].live].tolist())
        )
    generate(model, PROMPTS[:3], GenerateOptions(4, label=2))
    assert used == {2}
    with pytest.raises(UserError, match="reads a label of each row"):
        generate(model, PROMPTS[:3], GenerateOptions(4))
    with pytest.raises(UserError, match="has label 3"):
        generate(model, PROMPTS[:3], GenerateOptions(4, label=3))
