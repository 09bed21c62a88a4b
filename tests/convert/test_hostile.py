"""Folders that are damaged, or made to harm: a line each, and nothing is written."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.cases import saved
from turnout.cli.main import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of several shards."""
    return saved("qwen3_moe", tmp_path_factory.mktemp("whole") / "hf", max_shard_size="6KB")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "hf")


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def index(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())


def write_index(folder, table):
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def holding(folder, name):
    """The shard that holds a tensor, and all of its tensors."""
    shard = folder / index(folder)["weight_map"][name]
    return shard, load_file(shard)


EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


def missing_expert(folder):
    shard, tensors = holding(folder, EXPERT)
    del tensors[EXPERT]
    save_file(tensors, shard)
    table = index(folder)
    del table["weight_map"][EXPERT]
    write_index(folder, table)


def extra_tensor(folder):
    shard, tensors = holding(folder, EXPERT)
    save_file({**tensors, "model.layers.1.mlp.experts.5.up_proj.weight": torch.ones(8, 16)}, shard)
    table = index(folder)
    table["weight_map"]["model.layers.1.mlp.experts.5.up_proj.weight"] = shard.name
    write_index(folder, table)


def wrong_shape(folder):
    shard, tensors = holding(folder, EXPERT)
    save_file({**tensors, EXPERT: torch.ones(9, 16)}, shard)


def truncated(folder):
    shard = shards(folder)[-1]
    shard.write_bytes(shard.read_bytes()[:-100])


def without_a_shard(folder):
    shards(folder)[0].unlink()


def index_leads_out(folder):
    shutil.copy(shards(folder)[0], folder.parent / "x.safetensors")
    table = index(folder)
    table["weight_map"][EXPERT] = "../x.safetensors"
    write_index(folder, table)


def index_is_absolute(folder):
    shutil.copy(shards(folder)[0], folder.parent / "x.safetensors")
    table = index(folder)
    table["weight_map"][EXPERT] = str(folder.parent / "x.safetensors")
    write_index(folder, table)


def link_leads_out(folder):
    shard = shards(folder)[0]
    shard.rename(folder.parent / "elsewhere")
    shard.symlink_to(folder.parent / "elsewhere")


def huge_header(folder):
    shard = shards(folder)[0]
    shard.write_bytes(struct.pack("<Q", 2 * 2**30) + shard.read_bytes()[8:])


def deep_header(folder):
    text = b'{"a":' + b"[" * 200_000
    shards(folder)[0].write_bytes(struct.pack("<Q", len(text)) + text)


def overlapping(folder):
    header = {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    }
    text = json.dumps(header).encode()
    shards(folder)[0].write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))


def countless(folder):
    header = {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    shards(folder)[0].write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))


def unknown_dtype(folder):
    header = {"a": {"dtype": "F128", "shape": [1], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    shards(folder)[0].write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))


def pickled(folder):
    for shard in shards(folder):
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def twice(folder):
    first, second = shards(folder)[:2]
    tensors = load_file(second)
    name = next(iter(tensors))
    save_file({**load_file(first), name: tensors[name]}, first)


def names_a_class(folder):
    change_config(
        folder, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}
    )


def no_json(folder):
    (folder / "config.json").write_text("{" * 50)


def no_object(folder):
    (folder / "config.json").write_text("[]")


def config_of(**fields):
    return lambda folder: change_config(folder, **fields)


DAMAGE = {
    "missing expert": (missing_expert, f"lacks {EXPERT}, which qwen3_moe needs"),
    "extra tensor": (extra_tensor, "experts.5.up_proj.weight, which no parameter of this qwen3"),
    "wrong shape": (wrong_shape, f"{EXPERT} is [9, 16], must be [8, 16] by config.json"),
    "truncated shard": (truncated, "it is damaged or cut off"),
    "absent file": (without_a_shard, "is missing"),
    "../x": (index_leads_out, "'../x.safetensors': must be a name within the folder"),
    "absolute path": (index_is_absolute, "must be a name within the folder"),
    "symlink": (link_leads_out, "is a link to"),
    "2 GB header": (huge_header, "a header of 2,147,483,648 bytes"),
    "deep header": (deep_header, "its header cannot be read"),
    "overlap": (overlapping, "b lies at 8 .. 24, should be 16 bytes from 16 on"),
    "countless": (countless, "a lies at 0 .. 16, should be"),
    "unknown dtype": (unknown_dtype, "its header cannot be read: KeyError('F128')"),
    "pickle": (pickled, "pytorch_model.bin may run code when it is opened and is not read"),
    "twice": (twice, "stands in"),
    "a class": (names_a_class, "a class that it names (auto_map) is never imported"),
    "an encoder alone": (config_of(architectures=["Other"]), "must be Qwen3MoeForCausalLM"),
    "no JSON": (no_json, "is no JSON"),
    "no object": (no_object, "must hold a JSON object"),
    "no number": (config_of(hidden_size="16"), "hidden_size = '16': must be a whole number"),
    "infinite": (config_of(num_hidden_layers=2**40), "must be a whole number from 1"),
    "another network": (config_of(hidden_act="gelu"), "hidden_act = 'gelu': must be 'silu'"),
    "scaled positions": (
        config_of(rope_parameters={"rope_type": "longrope", "factor": 4.0}),
        "rope_parameters.rope_type = 'longrope'",
    ),
    "a window": (config_of(use_sliding_window=True), "use_sliding_window = True: must be False"),
    "dense in the middle": (config_of(mlp_only_layers=[1]), "mlp_only_layers = [1]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_line_and_nothing_written(name, folder, tmp_path, capsys):
    damage, message = DAMAGE[name]
    damage(folder)
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir() if "run" in path.name) == []


def test_the_undamaged_folder_converts(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "qwen3_moe" in said
    assert f"generate {tmp_path / 'run'} --prompt" in said


def test_a_target_that_is_there_stays_as_it_is(folder, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("kept")
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    assert "is there already; name a new folder" in capsys.readouterr().err
    assert (tmp_path / "run" / "mine").read_text() == "kept"


def test_the_hub_keeps_files_as_links_into_its_blobs(folder, tmp_path):
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(cache / "blobs" / str(number))
    assert main(["convert", str(snapshot), str(tmp_path / "run")]) == 0
