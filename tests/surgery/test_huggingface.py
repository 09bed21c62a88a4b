"""Hugging Face folders in, and pruned models out that transformers loads."""

import pytest
import torch
import transformers

import turnout
from tests.convert.cases import saved as saved_by_transformers
from tests.surgery.models import operate
from turnout.config.errors import UserError
from turnout.convert.conversion import to_foreign
from turnout.convert.native import open_native
from turnout.convert.parity import parity
from turnout.surgery import experts
from turnout.surgery.layers import counts
from turnout.surgery.upcycle import Sparse, Upcycle


def pruned(name, tmp_path, keep):
    folder = saved_by_transformers(name, tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text("{}")
    config = turnout.load(folder).config
    made = experts.keep_only(config, keep)
    receipt = operate(made, folder, tmp_path / "pruned")
    return folder, receipt


@pytest.mark.parametrize(
    ("name", "keep", "cls"),
    [
        ("mixtral, grouped", [1, 2, 5, 7], transformers.MixtralForCausalLM),
        ("olmoe", [0, 3, 4, 6], transformers.OlmoeForCausalLM),
        (
            "switch, all sparse",
            [2, 6],
            transformers.SwitchTransformersForConditionalGeneration,
        ),
    ],
)
@pytest.mark.parametrize("layout", ["experts", "fused"])
def test_a_pruned_model_loads_in_transformers(name, keep, cls, layout, tmp_path):
    if name.startswith("switch") and layout == "fused":
        layout = "experts"  # the one that the family has
    folder, receipt = pruned(name, tmp_path, keep)
    assert len(receipt.sources[0].sha256) == 64
    target = tmp_path / "exported"
    to_foreign(open_native(tmp_path / "pruned"), target, layout=layout)
    assert (target / "tokenizer_config.json").read_text() == "{}"
    theirs = cls.from_pretrained(target)
    assert theirs.num_parameters() == receipt.after.parameters
    ours = turnout.load(tmp_path / "pruned")
    found = parity(target, ours)
    assert found.logits < 2e-5 and found.top1 == 1.0
    # And the model in memory, written by turnout.save.
    turnout.save(ours, tmp_path / "again", format="huggingface")
    assert parity(tmp_path / "again", ours).logits < 2e-5
    kept = turnout.load(tmp_path / "again").state_dict()
    old = turnout.load(folder).state_dict()
    for key, tensor in kept.items():
        by_expert = ".experts." in key or ".router." in key
        assert torch.equal(tensor, old[key][keep] if by_expert else old[key])


def test_a_dense_folder_is_upcycled(tmp_path):
    folder = saved_by_transformers("t5 1.1", tmp_path / "hf")
    receipt = operate(Upcycle(Sparse(4, 2)), folder, tmp_path / "out")
    assert receipt.expected == "preserved"
    assert set(counts(turnout.load(tmp_path / "out").config).values()) == {4}


def test_a_folder_of_another_width_is_one_line(tmp_path):
    import json

    folder = saved_by_transformers("t5", tmp_path / "hf")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, "d_ff": table["d_ff"] * 2}))
    with pytest.raises(UserError) as caught:
        operate(Upcycle(Sparse(4, 2)), folder, tmp_path / "out")
    assert "must be" in str(caught.value) and "by config.json" in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
