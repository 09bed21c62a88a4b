"""Load models by hand: what one rank sends is what another receives, and no row is lost."""

from pathlib import Path

import numpy as np
import pytest
import torch

from turnout.config.errors import UserError
from turnout.moe.record import RoutingRecord
from turnout.simulate.loads import Demand, Recorded, Zipf, load_of

EVEN = Demand("decoder.0.moe", experts=4, tokens=6, choices=2)


def test_an_even_load_gives_all_experts_the_same() -> None:
    # 2 ranks x 6 tokens x 2 choices = 24 rows; 6 for each of 4 experts, 3 from each rank.
    assert Zipf().wanted(EVEN, 2).tolist() == [[3, 3, 3, 3], [3, 3, 3, 3]]


def test_few_rows_are_dealt_out_over_the_ranks() -> None:
    # 2 ranks x 1 token = 2 rows for 4 experts: 0.5 each, summed and rounded 1, 1, 2, 2.
    table = Zipf().wanted(Demand("a", experts=4, tokens=1, choices=1), 2)
    assert table.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.5, 10.0])
def test_every_rank_sends_all_its_rows_and_no_token_goes_twice_to_an_expert(
    exponent: float,
) -> None:
    demand = Demand("decoder.3.moe", experts=12, tokens=50, choices=2)
    table = Zipf(exponent).wanted(demand, 6)
    assert table.sum(1).tolist() == [100] * 6
    assert table.min() >= 0
    assert table.max() <= 51  # 50 tokens, and one more by dealing out in turn


def test_popularity_falls_with_the_place() -> None:
    # Shares 1, 1/2, 1/3, 1/4 of 25/12: 48 %, 24 %, 16 %, 12 % of 2 x 50 rows.
    demand = Demand("decoder.1.moe", experts=4, tokens=50, choices=1)
    totals = sorted(Zipf(1.0).wanted(demand, 2).sum(0), reverse=True)
    assert totals == [48, 24, 16, 12]


def test_layers_have_other_favourites() -> None:
    tables = [
        Zipf(1.0).wanted(Demand(f"decoder.{n}.moe", 16, 50, 1), 2).sum(0).argmax() for n in range(8)
    ]
    assert len(set(map(int, tables))) > 1
    encoder, decoder = (
        Zipf(1.0).wanted(Demand(f"{stack}.3.moe", 16, 50, 1), 2) for stack in ("encoder", "decoder")
    )
    assert encoder.tolist() != decoder.tolist()


def test_full_experts_take_no_more() -> None:
    demand = Demand("decoder.1.moe", experts=4, tokens=50, choices=1, slots=10)
    sent = Zipf(1.0).sent(demand, 2)
    wanted = Zipf(1.0).wanted(demand, 2)
    assert sent.tolist() == np.minimum(wanted, 10).tolist()
    assert sent.sum() < wanted.sum()


def test_a_record_is_dealt_out_by_token(tmp_path: Path) -> None:
    # One row of 4 tokens; two ranks of 3 tokens take 0, 1, 2 and 3, 0, 1.
    expert = torch.tensor([[0, 3], [0, -1], [2, 3], [1, 0]]).view(1, 4, 1, 2)
    RoutingRecord.of_experts(["decoder.0.moe"], expert).save(tmp_path / "record")
    table = load_of(str(tmp_path / "record")).wanted(Demand("decoder.0.moe", 4, 3, 2), 2)
    assert table.tolist() == [[2, 0, 1, 2], [3, 1, 0, 1]]


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (Demand("encoder.0.moe", 4, 3, 2), "holds no layer 'encoder.0.moe', but decoder.0.moe"),
        (Demand("decoder.0.moe", 4, 3, 1), "must be 1 choices of 4 experts"),
        (Demand("decoder.0.moe", 3, 3, 2), "must be 2 choices of 3 experts"),
    ],
)
def test_a_record_of_another_model_is_refused(demand: Demand, text: str) -> None:
    load = Recorded("record", {"decoder.0.moe": np.array([[0, 3]])})
    with pytest.raises(UserError, match=text):
        load.wanted(demand, 2)


def test_a_record_without_tokens_is_refused() -> None:
    load = Recorded("record", {"decoder.0.moe": np.zeros((0, 2), dtype=np.int64)})
    with pytest.raises(UserError, match="has no tokens"):
        load.wanted(Demand("decoder.0.moe", 4, 3, 2), 2)


@pytest.mark.parametrize("text", ["zipf:much", "zipf:-1", "zipf:11", "/no/such/record"])
def test_other_loads_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as error:
        load_of(text)
    assert text in str(error.value)
    assert "\n" not in str(error.value)
