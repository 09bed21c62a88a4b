"""Stragglers, memory and whole answers by hand; traces that are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.models.cases import MODERN
from tests.simulate.what_if.cases import LAYER, model, run, top_1, written
from turnout.config.errors import UserError
from turnout.config.moe import DocumentGroup, RowsGroup
from turnout.config.optimizers import AdafactorConfig
from turnout.config.routers import ExpertChoiceRouter, TopKRouter
from turnout.moe.record import RoutingRecord
from turnout.simulate.what_if import picture
from turnout.simulate.what_if.answers import Question, what_if
from turnout.simulate.what_if.placement import contiguous
from turnout.simulate.what_if.ranks import LayerRows, place_bytes, sizes, slow_down
from turnout.simulate.what_if.trace import Trace

# Four micro-batches of one row of 8 tokens over 4 experts, the last two as the first two.
#   micro-batch 0: 4 1 1 2 rows    micro-batch 1: 0 3 5 0 rows
ROW_0, ROW_1 = (0, 0, 0, 0, 1, 2, 3, 3), (1, 1, 1, 2, 2, 2, 2, 2)
TRACE = top_1(ROW_0, ROW_1, ROW_0, ROW_1)


def test_a_step_waits_for_the_fullest_rank_of_each_micro_batch(tmp_path: Path) -> None:
    # Two ranks in order: 5 : 3 and 3 : 5, so 5 + 5 for means of 4 + 4. Four: 4 + 5 for 2 + 2.
    # Two slots an expert leave 2 1 1 2 and 0 2 2 0: 3 + 2 for 3 + 2 (even), and 2 + 2 for 10 / 4.
    answers = what_if(run(model(4, 8), 1), Question(written(tmp_path / "trace", TRACE)))
    found = answers.stragglers
    assert (answers.rows, answers.batches, answers.tokens) == (1, 4, 32)
    assert found.ranks == (2, 4)
    assert found.step == pytest.approx((10 / 8, 9 / 4))
    assert found.layers == {LAYER: found.step}
    assert found.factor == 1.0
    assert found.bounded_step == pytest.approx((1.0, 4 / 2.5))


def test_layers_count_by_what_their_rows_cost() -> None:
    # Two ranks. Layer a: 6 : 2 for a mean of 4, at 1 a row; layer b: 3 : 1 for 2, at 10 a row.
    # Alone 1.5 each; together (6 + 30) / (4 + 20). With an even layer b (6 + 20) / 24.
    a = LayerRows("a", 1, np.array([[6, 2]]))
    b = LayerRows("b", 10, np.array([[3, 1]]))
    even = LayerRows("b", 10, np.array([[2, 2]]))
    home = contiguous(2, 2)
    assert slow_down([a, b], [home, home]) == pytest.approx(36 / 24)
    assert slow_down([a, even], [home, home]) == pytest.approx(26 / 24)


def test_placement_is_fitted_on_one_half_and_measured_on_the_other(tmp_path: Path) -> None:
    # First half: 4 3 1 0, in order 7 : 1, placed 4 : 4. Second half: 1 3 4 0, in order 4 : 4; as
    # placed (0 with 3, 1 with 2) 1 : 7. The best of the second half could do is 4, the bound.
    first, second = (0, 0, 0, 0, 1, 1, 1, 2), (0, 1, 1, 1, 2, 2, 2, 2)
    path = written(tmp_path / "trace", top_1(first, second))
    answers = what_if(run(model(4, 8), 1), Question(path, ranks=2))
    found = answers.placed
    assert (found.contiguous_fitted, found.fitted) == (7 / 4, 1.0)
    assert (found.contiguous, found.better, found.bound) == (1.0, 7 / 4, 1.0)
    none, one = answers.replicas[:2]
    assert (none.spare, none.slow_down, none.fitted) == (0, found.better, found.fitted)
    assert sorted(none.experts[LAYER]) == [(0, 3), (1, 2)]
    # Placed alone is even where it was fitted: copies cannot be better, and are not made.
    assert (one.slow_down, one.experts) == (none.slow_down, none.experts)


def test_a_place_costs_an_expert_with_its_gradients_and_state() -> None:
    # An expert of MODERN has three matrices of 16 x 24, 1,152 entries, in each of two layers.
    # AdamW: weight, gradient and two moments, 4 x 4 bytes an entry.
    two = run(model(4, 8, layers=2), 1)
    assert place_bytes(two) == 2 * 1152 * 16
    # Adafactor, factored from size 2 on: of each matrix 16 + 24 means, beside weight and gradient.
    thin = replace(two, optimizer=AdafactorConfig(min_factored=2))
    assert place_bytes(thin) == 2 * (1152 * 8 + 3 * 40 * 4)


def test_memory_of_copies_and_their_help(tmp_path: Path) -> None:
    # Expert 0 has 5 of 8 rows, the others 1: in order 6 : 2, placed the same, the bound is 5. With
    # one spare place a rank, 3 and 2 of expert 0 on both ranks: 4 : 4.
    row = (0, 0, 0, 0, 0, 1, 2, 3)
    path = written(tmp_path / "trace", top_1(row, row))
    config = run(model(4, 8), 1)
    answers = what_if(config, Question(path, ranks=2, spares=(1, 2)))
    assert answers.placed.better == 6 / 4
    assert answers.placed.bound == 5 / 4
    assert [each.slow_down for each in answers.replicas] == [6 / 4, 1.0, 1.0]
    assert [each.bytes for each in answers.replicas] == [0, 1152 * 16, 2 * 1152 * 16]


def test_micro_batches_are_those_of_the_run_or_half_of_the_trace(tmp_path: Path) -> None:
    path = written(tmp_path / "trace", top_1(*[ROW_0] * 7))
    read = {
        rows: (trace.rows, trace.batches)
        for rows in (1, 2, 3, 4, 100)
        for trace in (Trace.read(path, model(4, 8), rows),)
    }
    # Of 7 rows the last is left out where micro-batches of 2 or 3 rows do not fill it.
    assert read == {1: (1, 7), 2: (2, 3), 3: (3, 2), 4: (3, 2), 100: (3, 2)}
    whole = Trace.read(path, model(4, 8, group=RowsGroup(2)), 3)
    assert (whole.rows, whole.batches) == (2, 3)


@pytest.mark.parametrize(
    ("experts", "asked", "found"),
    [
        ([8], None, ((2, 4, 8), 8)),
        ([64], None, ((2, 4, 8, 16, 32, 64), 8)),
        ([12], None, ((2, 4), 4)),
        ([12], 6, ((2, 4, 6), 6)),
        ([9], None, ((3,), 3)),
        ([8, 12], None, ((2, 4), 4)),
    ],
)
def test_ranks_that_are_looked_at(
    experts: list[int], asked: int | None, found: tuple[tuple[int, ...], int]
) -> None:
    assert sizes(experts, asked) == found


def test_answers_are_json_and_a_picture(tmp_path: Path) -> None:
    answers = what_if(run(model(4, 8), 1), Question(written(tmp_path / "trace", TRACE)))
    table = json.loads(json.dumps(answers.to_dict(), allow_nan=False))
    assert table["stragglers"]["step"] == [10 / 8, 9 / 4]
    assert table["replicas"][0]["experts"][LAYER]
    assert picture.draw(answers, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("config", "rows", "said"),
    [
        (MODERN, [ROW_0] * 2, "the model has no sparse layer"),
        (model(4, 8, layers=2), [ROW_0] * 2, "but the model has decoder.0.moe, decoder.1.moe"),
        (model(3, 8), [ROW_0] * 2, "decoder.0.moe names expert 3; must be one of the model's 3"),
        (model(4, 8), [(0, -2)] * 2, "decoder.0.moe names expert -2"),
        (model(4, 7), [ROW_0] * 2, "has rows of 8 tokens; must be at most 7"),
        (model(4, 8, router=TopKRouter(2)), [ROW_0] * 2, "has 1 choices a token, the model 2"),
        (model(4, 8), [(0,)], "holds 1 rows, 1 routing groups; must hold at least 2"),
        (model(4, 8, group=RowsGroup(2)), [ROW_0] * 3, "1 routing groups; must hold at least 2"),
        (model(4, 8), [ROW_0, (-1,) * 8], "no token of its second half chose an expert"),
        (model(4, 8), [(-1,) * 8] * 2, "no token of its first half chose an expert"),
        (model(4, 8, group=DocumentGroup()), [ROW_0] * 2, "must be rows with --what-if"),
        (
            model(4, 8, priority="score", allow_future_routing=True),
            [ROW_0] * 2,
            "holds no probabilities, by which moe.priority = 'score' serves",
        ),
        (
            model(4, 8, router=ExpertChoiceRouter(1), priority="choice", allow_future_routing=True),
            [ROW_0] * 2,
            "model.moe.priority = 'choice': must be 'token' with --what-if",
        ),
        (model(1, 8), [(0,)] * 2, "layers of 1 experts cannot be shared out"),
    ],
)
def test_what_is_no_trace_of_the_model_is_one_line(
    config: object, rows: list[tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "trace", top_1(*rows))
    with pytest.raises(UserError) as error:
        what_if(run(config, 2), Question(path))  # type: ignore[arg-type]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"ranks": 3}, "--ranks 3: must be one of 2, 4, which share 4 experts out evenly"),
        ({"ranks": 1}, "--ranks 1: must be one of 2, 4"),
        ({"ranks": 2, "spares": (3,)}, "--spare 3: must be 1 to 2"),
        ({"rows": 3}, "--rows 3: must be a multiple of 1 up to 2"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    question: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "trace", TRACE)
    with pytest.raises(UserError) as error:
        what_if(run(model(4, 8), 1), Question(path, **question))  # type: ignore[arg-type]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{LAYER}.expert": torch.zeros(0, 8, 1).long()}, "holds no token"),
        (
            {f"{LAYER}.expert": torch.zeros(2, 8).long()},
            "must be [B, S, K] as all parts of a layer",
        ),
        (
            {
                f"{LAYER}.expert": torch.zeros(2, 8, 1).long(),
                f"{LAYER}.named": torch.zeros(2, 7, 1).long(),
            },
            "must be [B, S, K] as all parts of a layer",
        ),
        (
            {
                f"{LAYER}.expert": torch.zeros(2, 8, 1).long(),
                f"{LAYER}.named": torch.zeros(2, 8, 1),
            },
            "decoder.0.moe.named: cannot hold torch.float32",
        ),
    ],
)
def test_a_damaged_record_is_one_line(
    tensors: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "trace")
    with pytest.raises(UserError) as error:
        Trace.read(str(tmp_path / "trace"), model(4, 8), 1)
    assert said in str(error.value)


def test_records_are_joined_by_rows() -> None:
    names = ["decoder.0.moe"]
    parts = [
        RoutingRecord.of_experts(names, torch.tensor(rows).view(len(rows), 2, 1, 1))
        for rows in ([[0, 1]], [[2, -1], [3, 3]])
    ]
    joined = RoutingRecord.join(parts)
    assert joined.names == ("decoder.0.moe",)
    assert joined.layers[0].named.flatten().tolist() == [0, 1, 2, -1, 3, 3]
    assert joined.layers[0].live.flatten().tolist() == [True, True, True, False, True, True]
