"""``turnout convert`` from start to end, with its report and its refusals."""

import json

import pytest
import torch

from tests.convert.cases import saved
from turnout.cli.main import main
from turnout.convert import parity
from turnout.convert.folder import open_foreign


@pytest.mark.parametrize(
    "name",
    [
        "switch, all sparse",
        "qwen3_moe, dense first",
        "granitemoe",
        "deepseek_v2, groups",
        "gpt_oss",
        "nllb-moe, all sparse",
    ],
)
def test_there_and_back_with_a_report(name, tmp_path, capsys):
    folder = saved(name, tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text("{}")
    assert main(["convert", str(folder), str(tmp_path / "run"), "--verify"]) == 0
    said = capsys.readouterr().out
    assert "parity with transformers over" in said
    assert "same most probable token  100.00%" in said
    shares = [line for line in said.splitlines() if "same experts" in line]
    assert shares and all(line.endswith("100.00%") for line in shares)
    back = [str(tmp_path / "run"), str(tmp_path / "back"), "--verify", "--dtype", "bfloat16"]
    assert main(["convert", *back, "--shard-size", "0.000008"]) == 0
    said = capsys.readouterr().out
    assert f".from_pretrained('{tmp_path / 'back'}')" in said
    assert (tmp_path / "back" / "tokenizer_config.json").read_text() == "{}"
    found = open_foreign(tmp_path / "back")
    assert {place.dtype for _, place in found.places.values()} == {torch.bfloat16}
    assert found.config["torch_dtype"] == "bfloat16"
    assert len(json.loads((tmp_path / "back/model.safetensors.index.json").read_text())) == 2


def test_a_difference_is_seen(tmp_path):
    """A converter that leaves one expert out, as others have done silently."""
    import turnout

    folder = saved("mixtral", tmp_path / "hf")
    model = turnout.load(folder)
    with torch.no_grad():
        model.decoder.blocks[0].feed_forward.moe.experts.w_in[2].zero_()
    found = parity.parity(folder, model)
    assert found.logits > 0.01 and found.divergence > 1e-6
    assert found.routing["decoder.0.moe"] == 1.0 > found.routing["decoder.1.moe"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "bfloat16"], "--dtype: goes with a Hugging Face target"),
        (["--layout", "fused"], "--layout: goes with a Hugging Face target"),
        (["--shard-size", "0"], "--shard-size = 0.0: must be above 0"),
        (["--layout", "rows"], "--layout"),
    ],
)
def test_bad_options(options, message, tmp_path, capsys):
    folder = saved("mixtral", tmp_path / "hf")
    assert main(["convert", str(folder), str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_folder(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none"), str(tmp_path / "run")]) == 2
    assert "no such run folder" in capsys.readouterr().err
