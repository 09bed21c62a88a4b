"""Weights in 4 bits: every code by hand, gpt-oss in small as it is published, and refusals."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import turnout
from tests.convert.cases import ours, text, theirs
from tests.convert.shapes import VOCABULARY
from tests.convert.test_families import ANSWER
from turnout.cli.main import main
from turnout.convert import mxfp4, stored
from turnout.convert.conversion import to_foreign, to_native
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.native import open_native
from turnout.convert.parity import parity

EXPERTS = "model.layers.{}.mlp.experts.{}"
MATRICES = ("gate_up_proj", "down_proj")
# As openai/gpt-oss-20b has it, where it is not the size of something.
PUBLISHED = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 3,
    "experts_per_token": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "output_router_logits": False,
    "pad_token_id": 0,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 4,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def by_bits(code):
    """E2M1: a sign, e of two bits, m of one: 2^(e - 1) (1 + m / 2), or m / 2 where e is 0."""
    sign, exponent, mantissa = -1 if code & 8 else 1, code >> 1 & 3, code & 1
    size = 0.5 * mantissa if exponent == 0 else 2.0 ** (exponent - 1) * (1 + 0.5 * mantissa)
    return sign * size


def encoded(matrices):
    """Blocks and scales of matrices [E, O, I]: the scale that brings a block's largest entry to at
    least 4 and below 8, and for each entry the nearest of the 16 numbers."""
    blocks = matrices.double().unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1).clamp(min=2.0**-100)
    exponent = largest.log2().floor() - 2
    numbers = torch.tensor([by_bits(code) for code in range(16)], dtype=torch.float64)
    shrunk = blocks / (2**exponent).unsqueeze(-1)
    codes = (shrunk.unsqueeze(-1) - numbers).abs().argmin(-1)
    packed = codes[..., 0::2] + 16 * codes[..., 1::2]
    return packed.to(torch.uint8), (exponent + 127).to(torch.uint8)


def grown(blocks, scales):
    """The weights [E, O, I], a number at a time."""
    found = []
    for block, scale in zip(blocks.flatten(0, -2).tolist(), scales.flatten().tolist(), strict=True):
        for byte in block:
            found += [math.ldexp(by_bits(code), scale - 127) for code in (byte & 15, byte >> 4)]
    return torch.tensor(found, dtype=torch.float64).view(*scales.shape[:2], -1)


def test_the_16_codes_by_hand():
    # A byte holds the lower of two neighbours in its low four bits: 10 hexadecimal is 0 and then 1.
    ascending = [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    turned = [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    blocks = torch.tensor([[ascending + turned], [[0x72] * 16]], dtype=torch.uint8)
    # scale 128: times 2^(128 - 127) = 2; scale 124: times 2^-3 = .125
    scales = torch.tensor([[128], [124]], dtype=torch.uint8)
    found = mxfp4.decoded(blocks, scales, mxfp4.products())
    assert found.dtype == torch.bfloat16 and found.shape == (2, 32)
    # 0 .5 1 1.5 2 3 4 6, twice as large; then their negatives, -0 among them
    up = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    down = [-0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0]
    assert found[0, :16].tolist() == up + down
    assert torch.signbit(found[0, :16]).tolist() == [False] * 8 + [True] * 8
    # each pair the other way round
    assert found[0, 16:].tolist() == [
        *(1.0, 0.0, 3.0, 2.0, 6.0, 4.0, 12.0, 8.0),
        *(-1.0, -0.0, -3.0, -2.0, -6.0, -4.0, -12.0, -8.0),
    ]
    # 72 hexadecimal: code 2 is 1, code 7 is 6: .125 and .75
    assert found[1].tolist() == [0.125, 0.75] * 16


def test_every_scale_and_code_is_exact():
    table = mxfp4.products().view(torch.bfloat16).double().view(256, 256, 2)
    assert table[255].isnan().all()
    for scale in range(255):
        exact = [math.ldexp(by_bits(code), scale - 127) for code in range(16)]
        # bfloat16 ends below 2^128: 4 and 6 times 2^126, 2 to 6 times 2^127 are beyond
        exact = [math.copysign(math.inf, x) if abs(x) >= 2.0**128 else x for x in exact]
        assert table[scale].tolist() == [
            [exact[byte & 15], exact[byte >> 4]] for byte in range(256)
        ]


def test_the_same_numbers_as_transformers():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 4, 2)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator).to(torch.uint8)
    scales = torch.randint(20, 230, shape, generator=generator).to(torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales)
    table = mxfp4.products()
    for number, matrix in enumerate(expected):
        assert torch.equal(mxfp4.decoded(blocks[number], scales[number], table).T, matrix)


@torch.no_grad()
def miniature(folder):
    """Writes a random model as gpt-oss is published, and gives it with the weights that the
    files stand for."""
    torch.manual_seed(0)
    fields = {name: value for name, value in PUBLISHED.items() if name != "quantization_config"}
    model = GptOssForCausalLM(GptOssConfig(**fields))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        around_one = name.endswith("norm.weight")
        parameter.copy_((1 + 0.1 * drawn if around_one else 0.3 * drawn).bfloat16())
        if not name.endswith(MATRICES):
            tensors[name] = parameter.bfloat16()
            continue
        blocks, scales = encoded(parameter.mT)
        tensors[name + "_blocks"], tensors[name + "_scales"] = blocks, scales
        parameter.copy_(grown(blocks, scales).mT)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    save_file(tensors, folder / "model.safetensors")
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "hf"
    return folder, miniature(folder)


def test_the_encoder_keeps_what_the_format_can_say():
    exact = torch.tensor([by_bits(code) for code in range(16)] * 2).view(1, 1, 32) * 2**-5
    blocks, scales = encoded(exact)
    assert scales.tolist() == [[[122]]]  # 6 stays 6: 2^(122 - 127)
    assert torch.equal(grown(blocks, scales).float(), exact)


def test_as_published(published, tmp_path):
    folder, model = published
    assert load_file(folder / "model.safetensors")[
        EXPERTS.format(0, "gate_up_proj_blocks")
    ].shape == (5, 64, 2, 16)
    foreign = open_foreign(folder)
    mapped = map_foreign(foreign)
    (note,) = mapped.notes
    assert "4 weights in 4 bits (MXFP4) become bfloat16" in note
    to_native(foreign, mapped, tmp_path / "run")
    for loaded in (turnout.load(folder), turnout.load(tmp_path / "run")):
        for lengths, side in (([9, 9, 9], "right"), ([9, 4, 6], "right"), ([9, 4, 6], "left")):
            ids, mask = text(lengths, 9, side)
            difference = ours(loaded, ids, mask, ANSWER) - theirs(model, ids, mask, ANSWER)
            assert float(difference[mask].abs().max()) <= 1e-4


def test_the_way_back_is_what_the_bits_stand_for(published, tmp_path):
    folder, model = published
    foreign = open_foreign(folder)
    to_native(foreign, map_foreign(foreign), tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back", shard=60_000)
    back = open_foreign(tmp_path / "back")
    assert "quantization_config" not in back.config and not back.note
    weights = model.state_dict()
    assert back.names == foreign.names == weights.keys()
    for name in back.names:
        assert back.dtype(name) == torch.bfloat16 and back.shape(name) == foreign.shape(name)
        assert torch.equal(back.read(name).float(), weights[name]), name
        assert torch.equal(back.read(name), foreign.read(name)), name
    again = GptOssForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    ids, mask = text([9, 4, 6], 9, "left")
    difference = theirs(again, ids, mask, ANSWER) - theirs(model, ids, mask, ANSWER)
    assert float(difference[mask].abs().max()) <= 1e-5


def test_transformers_reads_the_miniature_as_we_do(published):
    folder, model = published
    config = Mxfp4Config(dequantize=True)
    words = {"dtype": torch.float32, "quantization_config": config}
    read = GptOssForCausalLM.from_pretrained(folder, **words).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in model.state_dict().items())


def test_verified_on_the_command_line(published, tmp_path, capsys):
    folder, _ = published
    assert main(["convert", str(folder), str(tmp_path / "run"), "--verify"]) == 0
    said = capsys.readouterr().out
    assert "note: 4 weights in 4 bits (MXFP4) become bfloat16" in said
    assert "same most probable token  100.00%" in said
    assert said.count("same experts, decoder.") == said.count(".moe  100.00%") == 2
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "back"), "--verify"]) == 0
    found = parity(tmp_path / "back", turnout.load(tmp_path / "run"))
    assert found.logits <= 1e-4


def test_experts_are_read_one_at_a_time(published, tmp_path, monkeypatch):
    """No read of gates and inputs takes more than one expert's, in 4 bits or in 16."""
    folder, _ = published
    foreign = open_foreign(folder)
    to_native(foreign, map_foreign(foreign), tmp_path / "run")
    to_foreign(open_native(tmp_path / "run"), tmp_path / "back")
    read = stored.read_tensor
    for place in (folder, tmp_path / "back"):
        shapes = []

        def counted(path, where, shapes=shapes):
            shapes.append(where.shape)
            return read(path, where)

        monkeypatch.setattr(stored, "read_tensor", counted)
        monkeypatch.setattr(mxfp4, "read_tensor", counted)
        turnout.load(place)
        one = (64, 2, 16) if place == folder else (64, 64)  # an expert's blocks, or its matrix
        assert shapes.count(one) == 2 * 5  # layers, experts
        # And nothing with all experts but the down projections, which become one tensor of ours.
        assert {shape for shape in shapes if len(shape) > 2 and shape[0] == 5} <= {(5, 32, 64)}


BLOCKS, SCALES = (EXPERTS.format(1, f"down_proj{end}") for end in ("_blocks", "_scales"))


def without(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def filled(expert, value):
    def change(scales):
        scales = scales.clone()
        scales[expert, 3, 0] = value
        return scales

    return change


HOSTILE = {
    "scales of another shape": (
        changed(SCALES, lambda t: t[:, :-1]),
        f"{SCALES} is [5, 63, 1], must be [5, 64, 1]",
    ),
    "scales without an axis": (changed(SCALES, lambda t: t[..., 0]), "must be [5, 64, 1]"),
    "scales without blocks": (without(BLOCKS), f"holds {SCALES} and no {BLOCKS}"),
    "blocks without scales": (without(SCALES), f"holds {BLOCKS} and no {SCALES}"),
    "blocks of other lengths": (
        changed(BLOCKS, lambda t: t[..., :8]),
        f"{BLOCKS} is [5, 64, 1, 8], must be [experts, outputs, inputs / 32, 16]",
    ),
    "blocks without groups": (changed(BLOCKS, lambda t: t[:, :, 0]), "must be [experts, outputs,"),
    "scales that are no bytes": (
        changed(SCALES, lambda t: t.float()),
        f"{SCALES} is torch.float32, must be torch.uint8",
    ),
    "too few experts": (
        lambda tensors: [changed(name, lambda t: t[:4])(tensors) for name in (BLOCKS, SCALES)],
        "down_proj is [4, 32, 64], must be [5, 32, 64] by config.json",
    ),
    "whole as well": (
        lambda tensors: tensors.update(
            {BLOCKS.removesuffix("_blocks"): torch.ones(5, 32, 64).bfloat16()}
        ),
        "both whole and in blocks",
    ),
    "NaN": (
        changed(SCALES, filled(2, 255)),
        f"{SCALES}, expert 2: holds a scale of 255, which stands for NaN",
    ),
    "infinite": (
        lambda tensors: [
            changed(SCALES, filled(4, 254))(tensors),
            changed(BLOCKS, lambda t: torch.full_like(t, 0x77))(tensors),
        ],
        f"{SCALES}, expert 4: holds a scale of 254: infinite weights",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_line_and_nothing_written(name, published, tmp_path, capsys):
    damage, message = HOSTILE[name]
    tensors = load_file(published[0] / "model.safetensors")
    damage(tensors)
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    save_file(tensors, folder / "model.safetensors")
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


FIELDS = {
    "another clamp": ({"swiglu_limit": 5.0}, "swiglu_limit = 5.0: must be 7.0"),
    "another slope": ({"swiglu_alpha": 1.0}, "swiglu_alpha = 1.0: must be 1.702"),
    "a layer too many": (
        {"layer_types": ["full_attention"] * 3},
        "one for each of the 2 layers",
    ),
    "another kind of layer": (
        {"layer_types": ["full_attention", "linear_attention"]},
        "must be a list of sliding_attention and full_attention",
    ),
    "no list of layers": ({"layer_types": "sliding_attention"}, "must be a list of sliding"),
    "windows of no length": ({"sliding_window": None}, "sliding_window = None: must be a whole"),
    "no width of heads": ({"head_dim": None}, "head_dim = None: must be a whole number"),
    "one expert a token": ({"num_experts_per_tok": 1}, "num_experts_per_tok = 1: must be at least"),
    "another quantisation": (
        {"quantization_config": {"quant_method": "gptq"}},
        "quant_method = 'gptq': must be 'fp8' or 'mxfp4'",
    ),
    "a quantisation by name": ({"quantization_config": "mxfp4"}, "must be 'fp8' or 'mxfp4'"),
    "blocks without their method": (
        {"quantization_config": None},
        "lacks model.layers.0.mlp.experts.down_proj",
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_refused(name, published, tmp_path, capsys):
    fields, message = FIELDS[name]
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **fields}))
    shutil.copy(published[0] / "model.safetensors", folder)
    assert main(["convert", str(folder), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1


def test_what_a_configuration_leaves_out(published, tmp_path):
    """As transformers has it: YaRN by 32, windows in every other layer from the first, biases."""
    folder, _ = published
    missing = ("layer_types", "rope_scaling", "rope_theta", "attention_bias", "rms_norm_eps")
    short = {name: value for name, value in PUBLISHED.items() if name not in missing}
    place = tmp_path / "hf"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(short))
    shutil.copy(folder / "model.safetensors", place)
    assert map_foreign(open_foreign(place)).config == map_foreign(open_foreign(folder)).config
