"""Operations there and back, streams against the library, and what no family can say."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import turnout
from tests.models.cases import CASES, SPARSE
from turnout import models
from turnout.checkpoint.format import CheckpointError
from turnout.checkpoint.stream import Planned, read_header, read_tensor, write_stream
from turnout.cli.main import main
from turnout.config.errors import UserError
from turnout.config.routers import SigmoidTopKRouter, TopKRouter
from turnout.convert.conversion import written_by
from turnout.convert.essence import shortest
from turnout.convert.native import split
from turnout.convert.operations import Alternating, GateUp, Same, Stacked, Transposed

COUNT = st.integers(1, 5)


@given(COUNT, COUNT, COUNT, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_there_and_back(experts, rows, columns, dtype):
    drawn = torch.randn(experts, 2 * rows, columns).to(dtype)
    for operation, foreign in (
        (Same(), [drawn]),
        (Stacked(), list(drawn)),
        (Transposed(), [drawn]),
        (GateUp(), [drawn]),
        (Alternating(), [drawn.mT]),
        (Alternating(), [drawn[:, :, 0]]),
    ):
        read = list(foreign[0]) if operation.by_entry else foreign
        native = operation.to_native(iter(read), len(read))
        back = list(operation.to_foreign(native))
        assert len(back) == len(foreign)
        assert all(torch.equal(a, b) for a, b in zip(back, foreign, strict=True))
        # Shapes are checked on the meta device before anything is read.
        shapes = operation.to_foreign([tensor.to("meta") for tensor in native])
        assert [t.shape for t in shapes] == [t.shape for t in foreign]


def test_two_experts_by_hand():
    first, second = torch.tensor([[1.0, 2, 3]]), torch.tensor([[4.0, 5, 6]])
    (stack,) = Stacked().to_native([first, second], 2)
    assert stack.tolist() == [[[1], [2], [3]], [[4], [5], [6]]]
    both = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])  # gate above input, an expert each
    gate, up = GateUp().to_native([both], 1)
    assert gate.tolist() == [[[1], [2]], [[5], [6]]]
    assert up.tolist() == [[[3], [4]], [[7], [8]]]
    # [E, D, 2 F] of two experts, one input and two gates with what they gate, in turns
    both = torch.tensor([[[1.0, 2, 3, 4]], [[5, 6, 7, 8]]])
    gate, up = Alternating().to_native(iter(both), 2)
    assert gate.tolist() == [[[1, 3]], [[5, 7]]]
    assert up.tolist() == [[[2, 4]], [[6, 8]]]


TENSORS = {
    "half": torch.arange(6).bfloat16().view(2, 3),
    "none": torch.empty(0, 4),
    "one": torch.tensor(3.5),
    "turned": torch.arange(6.0).view(2, 3).T,
    "many, turned": torch.arange(24.0).view(2, 3, 4).mT,
    "bytes": torch.arange(5, dtype=torch.uint8),
    "yes": torch.tensor([True, False]),
}


def test_files_are_those_of_the_library(tmp_path):
    planned = [Planned(name, t.dtype, tuple(t.shape)) for name, t in TENSORS.items()]
    write_stream(tmp_path / "ours", planned, TENSORS.values(), {"format": "pt"})
    found = load_file(tmp_path / "ours")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "theirs")
    places = read_header(tmp_path / "theirs")
    assert all(
        torch.equal(read_tensor(tmp_path / "theirs", places[name]), tensor)
        for name, tensor in TENSORS.items()
    )


def test_what_was_not_planned_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="half is not what was planned"):
        write_stream(tmp_path / "ours", [Planned("half", torch.float32, (2, 3))], [TENSORS["half"]])
    plan = [Planned("half", torch.bfloat16, (2, 3))]
    with pytest.raises(ValueError, match="half is not what was planned"):
        write_stream(tmp_path / "ours", plan, [])
    with pytest.raises(ValueError, match="more tensors than were planned"):
        write_stream(tmp_path / "ours", plan, [TENSORS["half"], TENSORS["half"]])


def test_bytes_that_belong_to_nothing(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a")
    with (tmp_path / "a").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="has 4 bytes that belong to no tensor"):
        read_header(tmp_path / "a")


def test_shards_by_hand():
    # 4 bytes a number: 12, 8, 20 and 4 bytes in shards of at most 20, the third alone.
    planned = [Planned(str(n), torch.float32, (n,)) for n in (3, 2, 5, 1)]
    assert [[each.name for each in shard] for shard in split(planned, 20)] == [
        ["3", "2"],
        ["5"],
        ["1"],
    ]
    assert len(split(planned, 1)) == 4


FAMILY = {"olmoe": "olmoe", "switch": "switch_transformers", "t5": "t5", "gpt_oss": "gpt_oss"}


@pytest.mark.parametrize("name", FAMILY)
def test_models_of_ours_that_a_family_can_say(name, tmp_path):
    config = CASES[name]
    if name == "olmoe":
        config = replace(config, attention=replace(config.attention, qk_norm="full"))
        config = replace(config, moe=replace(config.moe, shared_experts=0, placement=EVERY))
    if name == "gpt_oss":
        config = replace(config, moe=replace(config.moe, placement=EVERY))
    family, table = written_by(config)
    assert family.model_type == FAMILY[name] == table["model_type"]
    model = models.build(config)
    model.init_weights(1)
    turnout.save(model, tmp_path / "hf", format="huggingface")
    again = turnout.load(tmp_path / "hf").state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in model.state_dict().items())


EVERY = replace(SPARSE["olmoe"].moe.placement, first=0)


def test_windows_by_any_pattern_that_says_the_same():
    # In 5 layers: every third without a window, said once, or in all of its five places.
    config = SPARSE["gpt_oss"]
    config = replace(config, num_layers=5, moe=replace(config.moe, placement=EVERY))
    tables = []
    for pattern in ((True, True, False), (True, True, False, True, True)):
        attention = replace(config.attention, window_pattern=pattern)
        _, table = written_by(replace(config, attention=attention))
        tables.append(table)
    sliding, full = "sliding_attention", "full_attention"
    assert tables[0]["layer_types"] == [sliding, sliding, full, sliding, sliding]
    assert tables[0] == tables[1]
    for pattern, found in (
        ((True,), (True,)),
        ((True, True), (True,)),
        ((True, False), (True, False)),
        ((True, False, True), (True, False)),
        ((True, True, False), (True, True, False)),
        ((False, True, True, False), (False, True, True)),
        ((False, False, True), (False, False, True)),
    ):
        assert shortest(pattern) == found


def unbiased(config):
    moe = replace(config.moe, placement=EVERY, router=TopKRouter(2, "softmax_of_selected"))
    return replace(config, moe=moe)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (unbiased(SPARSE["gpt_oss"]), r"gpt_oss has no model\.moe\.router\.bias = False"),
        (SPARSE["sparse_glam"], "no family of Hugging Face computes what this model does"),
        (SPARSE["attention"], "no family of Hugging Face"),
        (
            replace(SPARSE["olmoe"], moe=replace(SPARSE["olmoe"].moe, router=SigmoidTopKRouter(2))),
            "no family of Hugging Face",
        ),
        (
            replace(SPARSE["switch"], moe=replace(SPARSE["switch"].moe, eval_capacity_factor=2.0)),
            r"has no model\.moe\.eval_capacity_factor = 2\.0",
        ),
    ],
    ids=["gpt_oss", "glam", "attention", "router", "capacity"],
)
def test_models_of_ours_that_none_can_say(config, message, tmp_path):
    with pytest.raises(UserError, match=message):
        written_by(config)
    model = models.build(config, device="meta")
    with pytest.raises(UserError, match="no family"):
        turnout.save(model, tmp_path / "hf", format="huggingface")
    assert not (tmp_path / "hf").exists()


def test_save_and_load_of_our_own(tmp_path):
    model = models.build(SPARSE["attention"])
    model.init_weights(2)
    turnout.save(model, tmp_path / "run")
    again = turnout.load(tmp_path / "run", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and not again.training
    found = again.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(UserError, match="is there already"):
        turnout.save(model, tmp_path / "run")


def test_a_flipped_bit_is_refused(tmp_path, capsys):
    model = models.build(SPARSE["switch"])
    model.init_weights(2)
    turnout.save(model, tmp_path / "run")
    (shard,) = (tmp_path / "run").rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "hf")]) == 2
    assert "does not have its SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
