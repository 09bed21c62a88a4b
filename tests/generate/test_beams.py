"""Beam search: against enumeration, against transformers, and alone as in a batch."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from tests.generate.test_generate import PROMPTS, ready, row
from tests.models.cases import CASES, MODERN, T5, batch_of
from turnout.config.attention import AttentionConfig
from turnout.config.routers import LabelRouter
from turnout.generate import GenerateOptions, generate
from turnout.generate.beams import Beam, Search, advanced
from turnout.models import Model, build

LENGTHS = (0.0, 1.0, 2.0, -1.0)


@torch.no_grad()
def log_probability(model: Model, prompt: list[int], new: tuple[int, ...]) -> list[float]:
    """Of each new token, from one pass over the whole."""
    if model.config.kind == "decoder_only":
        batch, start = batch_of(row([*prompt, *new[:-1]])), len(prompt) - 1
    else:
        batch, start = batch_of(row([0, *new[:-1]]), row(prompt)), 0
    output = model(batch)
    table = output.head.logits(output.hidden[0, start:]).log_softmax(-1)
    return [float(table[place, token]) for place, token in enumerate(new)]


@pytest.mark.parametrize("penalty", LENGTHS)
@pytest.mark.parametrize("family", ["modern", "olmoe", "switch"])
def test_enough_beams_find_the_best_of_all_sequences(family: str, penalty: float) -> None:
    """Every sequence of 4 ids up to length 3, id 1 the stop, enumerated."""
    model = build(replace(CASES[family], vocab_size=4))
    model.init_weights(1)
    for weight in (model.embedding.weight, *(() if model.head is None else (model.head.weight,))):
        weight.data *= 3  # far from even
    options = GenerateOptions(
        3, stop_ids=(1,), num_beams=40, length_penalty=penalty, early_stopping="never"
    )
    sequences = [
        s
        for n in range(1, 4)
        for s in product(range(4), repeat=n)
        if 1 not in s[:-1] and (s[-1] == 1 or n == 3)
    ]
    for prompt in ([2, 3], [3]):
        ranks = {s: sum(log_probability(model, prompt, s)) / len(s) ** penalty for s in sequences}
        best = max(ranks, key=ranks.__getitem__)
        expected = [token for token in best if token != 1]
        assert generate(model, [prompt], options) == [expected]


def foreign_t5(layers: int = 2) -> tuple[Model, T5ForConditionalGeneration]:
    """The same weights in ours and in theirs."""
    model = build(replace(T5, encoder_layers=layers, decoder_layers=layers))
    model.init_weights(3)
    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_heads=4,
        num_layers=layers,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    theirs = T5ForConditionalGeneration(config).eval()
    renamed = {"shared.weight": model.embedding.weight.data * 2}  # far from even
    model.embedding.weight.data *= 2
    for stack, ours in (("encoder", model.encoder), ("decoder", model.decoder)):
        where = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        renamed[where] = ours.position_bias.weight
        renamed[f"{stack}.final_layer_norm.weight"] = ours.norm.weight
        for number, block in enumerate(ours.blocks):
            parts = [block.self_attention, block.cross_attention, block.feed_forward]
            parts = [part for part in parts if part is not None]
            for place, part in enumerate(parts):
                layer = f"{stack}.block.{number}.layer.{place}"
                renamed[f"{layer}.layer_norm.weight"] = part.norm.weight
                if part is block.feed_forward:
                    renamed[f"{layer}.DenseReluDense.wi.weight"] = part.network.w_in
                    renamed[f"{layer}.DenseReluDense.wo.weight"] = part.network.w_out
                    continue
                name = "EncDecAttention" if part is block.cross_attention else "SelfAttention"
                for theirs_name, linear in {
                    "q": "query",
                    "k": "key",
                    "v": "value",
                    "o": "out",
                }.items():
                    weight = getattr(part.attention, linear).weight
                    renamed[f"{layer}.{name}.{theirs_name}.weight"] = weight
    copy_all(theirs, renamed)
    return model, theirs


def foreign_llama() -> tuple[Model, LlamaForCausalLM]:
    shape = replace(MODERN, attention=AttentionConfig(4, 4, num_kv_heads=2), num_layers=2)
    model = build(shape)
    model.init_weights(4)
    model.head.weight.data *= 5
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config).eval()
    renamed = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.decoder.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for number, block in enumerate(model.decoder.blocks):
        layer, attention = f"model.layers.{number}", block.self_attention.attention
        network = block.feed_forward.network
        renamed |= {
            f"{layer}.input_layernorm.weight": block.self_attention.norm.weight,
            f"{layer}.post_attention_layernorm.weight": block.feed_forward.norm.weight,
            f"{layer}.self_attn.q_proj.weight": attention.query.weight,
            f"{layer}.self_attn.k_proj.weight": attention.key.weight,
            f"{layer}.self_attn.v_proj.weight": attention.value.weight,
            f"{layer}.self_attn.o_proj.weight": attention.out.weight,
            f"{layer}.mlp.gate_proj.weight": network.w_gate,
            f"{layer}.mlp.up_proj.weight": network.w_in,
            f"{layer}.mlp.down_proj.weight": network.w_out,
        }
    copy_all(theirs, renamed)
    return model, theirs


@torch.no_grad()
def copy_all(theirs: torch.nn.Module, renamed: dict[str, torch.Tensor]) -> None:
    """Every parameter of ``theirs`` gets its value."""
    parameters = dict(theirs.named_parameters())
    assert parameters.keys() == renamed.keys()
    for name, value in renamed.items():
        parameters[name].copy_(value)


RULES = {"likely": False, "first": True, "never": "never"}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_sequences_are_those_of_transformers(family: str, rule: str) -> None:
    model, theirs = foreign_t5() if family == "t5" else foreign_llama()
    width, stops = max(map(len, PROMPTS)), tuple(range(1, 40, 5 if family == "t5" else 4))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    ended = set()
    for beams, penalty in product((2, 5), LENGTHS):
        options = GenerateOptions(
            10, stop_ids=stops, num_beams=beams, length_penalty=penalty, early_stopping=rule
        )
        found = generate(model, PROMPTS, options)
        expected = theirs.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=10,
            num_beams=beams,
            length_penalty=penalty,
            early_stopping=RULES[rule],
            eos_token_id=list(stops),
            do_sample=False,
        )
        start = 1 if family == "t5" else width
        for ours, other in zip(found, expected[:, start:].tolist(), strict=True):
            end = next((n for n, token in enumerate(other) if token in stops), 10)
            assert ours == other[:end]
            ended.add(len(ours))
        assert found == [generate(model, [prompt], options)[0] for prompt in PROMPTS]
    assert len(ended) > 2  # some stopped


@pytest.mark.parametrize("name", CASES)
def test_alone_and_together(name: str) -> None:
    model = ready(name)
    options = GenerateOptions(6, stop_ids=(7, 8, 9), num_beams=3, repetition_penalty=1.2)
    together = generate(model, PROMPTS[:3], options)
    assert together == [generate(model, [prompt], options)[0] for prompt in PROMPTS[:3]]
    assert together[::-1] == generate(model, PROMPTS[2::-1], options)


def test_the_encoder_reads_each_prompt_once() -> None:
    model = ready("switch")
    rows: list[int] = []
    model.encoder.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[0]))
    generate(model, PROMPTS, GenerateOptions(6, num_beams=4))
    assert rows == [len(PROMPTS)]


def test_beams_keep_their_label() -> None:
    config = CASES["switch"]
    model = build(replace(config, moe=replace(config.moe, router=LabelRouter(3))))
    model.init_weights(0)
    options = GenerateOptions(4, label=2, num_beams=3)
    assert len(generate(model, PROMPTS[:2], options)[0]) == 4


def test_no_prompts_no_beams() -> None:
    assert generate(ready("modern"), [], GenerateOptions(num_beams=2)) == []


def test_an_end_counts_among_the_best_only() -> None:
    """Stop 1, two beams: by hand."""
    options = GenerateOptions(5, stop_ids=(1,), num_beams=2)
    asked = [Beam((3,), -1.0, 0), Beam((4,), -1.5, 0), Beam((1,), -1.6, 0), Beam((5,), -1.7, 0)]
    search = advanced(Search(), asked, options, lambda tokens: False)
    assert search.beams == tuple(asked[:2]) and search.finished == () and not search.over
    # Both ends are among the two best; -2 / 2 and -2.4 / 2. The best beam, -2.5 / 2, ranks below.
    asked = [Beam((3, 1), -2.0, 0), Beam((4, 1), -2.4, 1), Beam((3, 5), -2.5, 0)]
    over = advanced(search, asked, options, lambda tokens: False)
    assert [(each.tokens, each.rank) for each in over.finished] == [((3,), -1.0), ((4,), -1.2)]
    assert over.over and over.best == [3]
    # Over 5 tokens -2.5 might rank -0.5, above them.
    patient = replace(options, early_stopping="never")
    assert not advanced(search, asked, patient, lambda tokens: False).over
