"""The page on transformers, from its first line to its last."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from transformers.integrations import moe as theirs

from tests.docs.test_documents import ROOT, blocks
from turnout.conformance import kit
from turnout.conformance.properties import PROPERTIES
from turnout.moe.record import RoutingRecord

PAGE = ROOT / "docs" / "howto" / "transformers.md"


def test_every_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(theirs.ExpertsInterface, "_global_mapping", {})
    # The compiler cannot trace the run-time shape checks of the tests: tests/compiled asks that.
    asked = tuple(each for each in PROPERTIES if each.name != "compiled")
    monkeypatch.setattr(kit, "PROPERTIES", asked)
    names: dict[str, object] = {"__name__": "page"}
    code = blocks(PAGE, "python")
    assert len(code) == 5
    for text in code:
        exec(compile(text, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "('model.layers.0.mlp', 'model.layers.1.mlp')" in said
    assert "torch.Size([4, 16, 2])" in said
    assert said.count("recomputation      holds") == 2 and "FAILS" not in said
    assert "model.layers.0.mlp: ours\nmodel.layers.1.mlp: ours" in said
    record = RoutingRecord.load("routing.safetensors")
    assert record.layers[0].expert[0, :6].eq(-1).all()
    loaded = AutoModelForCausalLM.from_pretrained("trained", experts_implementation="eager")
    expected = names["model"].state_dict()
    assert {name: each.shape for name, each in loaded.state_dict().items()} == {
        name: each.shape for name, each in expected.items()
    }
