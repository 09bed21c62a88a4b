"""Counts of a record worked by hand, and of real models against their own statistics."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from turnout.config import presets
from turnout.data.batch import Batch, Stream
from turnout.data.tokenizers import ByteTokenizer
from turnout.models import build
from turnout.probe import reading
from turnout.probe.characters import CLASSES
from turnout.probe.reading import LayerRecord, read, records, summarise

TOKENIZER = ByteTokenizer()
HOSTILE = b"\0</script>\"'\\ \xd7\xa9\xe2\x80\xae <!-- {{x}} & ]]>\n" * 20


def record(text: bytes, experts: list[list[int]], num_experts: int = 2) -> LayerRecord:
    """One row of text and the expert of each choice of each byte."""
    ids = np.array([TOKENIZER.encode(text)], dtype=np.int64)
    expert = np.array([experts], dtype=np.int64)
    return LayerRecord("decoder.1.moe", "decoder", num_experts, ids, ids > 0, expert)


def by_name(counts: tuple[int, ...]) -> dict[str, int]:
    return {kind.name: n for kind, n in zip(CLASSES, counts, strict=True) if n}


def test_counts_by_hand():
    # Bytes    a   1   b   2   \n      expert 0: a, b and 2; expert 1: 1 and the line break
    layer = summarise([record(b"a1b2\n", [[0], [1], [0], [0], [1]])]).layers[0]
    assert [by_name(expert.by_class) for expert in layer.experts] == [
        {"a to z": 2, "0 to 9": 1},
        {"line break": 1, "0 to 9": 1},
    ]
    assert [expert.assigned for expert in layer.experts] == [3, 2]
    assert [expert.load for expert in layer.experts] == [0.6, 0.4]
    # Class and expert: letters (2) all with 0, digits (2) one each, the break (1) with 1.
    # 2/5 log2((2/5) / (2/5 * 3/5)) = 0.4 * 0.736966 = 0.294786
    # 1/5 log2((1/5) / (2/5 * 3/5)) = 0.2 * -0.263034 = -0.052607
    # 1/5 log2((1/5) / (2/5 * 2/5)) = 0.2 * 0.321928 = 0.064386
    # 1/5 log2((1/5) / (1/5 * 2/5)) = 0.2 * 1.321928 = 0.264386; together 0.570951
    assert layer.class_information.bits == pytest.approx(0.570951, abs=1e-6)
    # Five different bytes tell all there is: the entropy of 3 and 2 of 5, 0.970951.
    assert layer.token_information.bits == pytest.approx(0.970951, abs=1e-6)
    assert layer.expert_entropy == pytest.approx(0.970951, abs=1e-6)


def test_dropped_tokens_are_nobodys():
    layer = summarise([record(b"a1", [[-1], [1]])]).layers[0]
    assert by_name(layer.unserved) == {"a to z": 1}
    assert [expert.assigned for expert in layer.experts] == [0, 1]
    assert [expert.load for expert in layer.experts] == [0.0, 1.0]


def test_both_choices_of_a_token_count():
    layer = summarise([record(b"a1", [[0, 1], [1, -1]])]).layers[0]
    assert [by_name(expert.by_class) for expert in layer.experts] == [
        {"a to z": 1},
        {"a to z": 1, "0 to 9": 1},
    ]
    assert by_name(layer.unserved) == {}


def test_padding_is_not_read():
    padded = record(b"a1", [[0], [0]])
    padded = replace(padded, mask=np.array([[True, False]]))
    found = summarise([padded])
    assert found.tokens == 1
    assert found.layers[0].experts[0].assigned == 1


def test_typical_tokens_and_contexts_by_hand():
    # 20 times "abcx": expert 1 reads every x, expert 0 all else. Of 80 tokens a quarter are x, all
    # of expert 1: lift (1/1) / (1/4) = 4. An a: (20/60) / (20/80) = 4/3.
    text = b"abcx" * 20
    layer = summarise([record(text, [[int(byte == ord("x"))] for byte in text])]).layers[0]
    (x,) = layer.experts[1].tokens
    assert (x.text, x.ids, x.count, x.lift) == ("x", (ord("x") + 3,), 20, 4.0)
    assert x.example == ""
    assert [t.text for t in layer.experts[0].tokens] == ["a", "b", "c"]
    assert layer.experts[0].tokens[0].lift == pytest.approx(4 / 3)
    # Runs of four: 20 end in x, 19 in each other letter, 77 in all: 1 / (20 / 77).
    (run,) = layer.experts[1].contexts
    assert (run.text, run.count, run.lift) == ("abcx", 20, pytest.approx(77 / 20))
    assert run.example == "abcx"
    assert layer.experts[0].contexts[0].text == "bcxa"
    assert layer.experts[0].contexts[0].example == "abcxa"


def test_the_most_typical_comes_first_and_ties_go_to_the_more_frequent():
    # Expert 0 reads 40 b of 60, all 20 c and all 30 a; the other 20 b go to expert 1.
    text = b"b" * 60 + b"c" * 20 + b"a" * 30
    served = [[0]] * 40 + [[1]] * 20 + [[0]] * 50
    typical = summarise([record(text, served)]).layers[0].experts[0].tokens
    # Expert 0 has 90 of 110: a and c at 110 / 90, b at (40 / 90) / (60 / 110).
    assert [(t.text, t.count) for t in typical] == [("a", 30), ("c", 20), ("b", 40)]
    assert [t.lift for t in typical] == pytest.approx([110 / 90, 110 / 90, 40 * 110 / 90 / 60])


def test_rare_tokens_are_not_typical():
    text = b"a" * (reading.MIN_COUNT - 1)
    layer = summarise([record(text, [[0]] * len(text))]).layers[0]
    assert layer.experts[0].tokens == ()


def test_an_example_is_at_most_twelve_before_and_printable():
    text = HOSTILE
    layer = summarise([record(text, [[0]] * len(text))]).layers[0]
    for typical in layer.experts[0].contexts:
        assert typical.example.isprintable()
        assert typical.example.isascii()
        assert typical.example.endswith(typical.text)
        assert len(typical.ids) == reading.SUFFIX


def test_the_reading_is_json():
    text = HOSTILE
    found = summarise([record(text, [[i % 2] for i in range(len(text))], num_experts=3)])
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["layers"][0]["experts"][2]["assigned"] == 0
    assert [kind["name"] for kind in content["classes"]] == [kind.name for kind in CLASSES]
    assert "lift" in content["definitions"]


def stream(ids: torch.Tensor) -> Stream:
    place = torch.arange(ids.shape[1]).expand(ids.shape)
    return Stream(ids, ids > 0, (ids > 0).long(), place)


def batch(rows: int, decoder: int, encoder: int) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, 259, (rows, decoder + encoder), generator=generator)
    ids[0, decoder - 2 : decoder + 1] = 0  # padding at the decoder's end, the encoder's start
    return Batch(
        decoder=stream(ids[:, :decoder]),
        targets=ids[:, :decoder],
        target_mask=ids[:, :decoder] > 0,
        keys=torch.arange(rows),
        row=torch.arange(rows),
        encoder=stream(ids[:, decoder:]) if encoder else None,
    )


@pytest.mark.parametrize(("objective", "encoder"), [("causal", 0), ("span", 48)])
def test_a_real_model_agrees_with_its_own_statistics(objective: str, encoder: int):
    model = build(presets.run("switch_tiny", objective).model)
    model.init_weights(0)
    model.train()
    batches = [batch(2, 32, encoder), batch(3, 32, encoder)]
    found = read(model, batches)
    assert model.training
    model.eval()
    with torch.no_grad():
        outputs = [model(each) for each in batches]
    kept = [
        sum(part.kept.sum(0) for part in column)
        for column in zip(*(o.layers for o in outputs), strict=True)
    ]
    assert [layer.name for layer in found.layers] == list(model.sparse_layers())
    assert [[e.assigned for e in layer.experts] for layer in found.layers] == [
        each.tolist() for each in kept
    ]
    real = sum(int(each.decoder.mask.sum()) for each in batches)
    if encoder:
        real += sum(int(each.encoder.mask.sum()) for each in batches)
    assert found.tokens == real
    for layer in found.layers:
        stack = [each.encoder if layer.stack == "encoder" else each.decoder for each in batches]
        assert layer.counts().sum() == sum(int(each.mask.sum()) for each in stack)
        ids = torch.cat([each.ids[each.mask] for each in stack])
        digits = int(((ids >= 48 + 3) & (ids <= 57 + 3)).sum())
        assert layer.counts()[:, [kind.name for kind in CLASSES].index("0 to 9")].sum() == digits


def test_a_dense_model_is_not_even_run():
    model = build(presets.run("switch_tiny", dense=True).model)
    found = read(model, [batch(2, 32, 0)])
    assert found.layers == ()
    assert records(model, []) == ()


def test_information_is_finite_without_any_assignment():
    layer = summarise([record(b"ab", [[-1], [-1]])]).layers[0]
    assert layer.class_information.bits == layer.expert_entropy == 0.0
    assert math.isfinite(layer.token_information.chance)
