"""A compiled step writes the tokens of the step it was made from, by one graph for all lengths."""

import pytest
import torch

from tests.kernels.cases import PACKINGS, pack_everything
from tests.models.cases import CASES
from turnout.config.errors import ConfigError, UserError
from turnout.generate import GenerateOptions, generate, step
from turnout.models import Model, build, prepared

PROMPTS = [[3, 14, 15], [9, 2]]
OPTIONS = GenerateOptions(8)
COMPILED = GenerateOptions(8, compile=True)


@pytest.fixture(params=PACKINGS)
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is packed."""
    pack_everything(monkeypatch, request.param)


def ready(name: str) -> Model:
    model = build(CASES[name])
    model.init_weights(0)
    return model.eval()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the step's compiler one that is quick; the list grows with every graph."""
    graphs: list[int] = []

    def backend(graph, inputs):
        graphs.append(len(inputs))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    whole = torch.compile(step._read, fullgraph=True, backend=backend)
    monkeypatch.setattr(step, "_whole", whole)
    return graphs


@pytest.mark.slow
@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_one_graph_writes_the_same_tokens(
    name: str, pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = counted(monkeypatch)
    model = prepared(ready(name), pack=pack)
    expected = generate(model, PROMPTS, OPTIONS)
    assert generate(model, PROMPTS, COMPILED) == expected
    assert len(graphs) == 1
    assert generate(model, PROMPTS[::-1], COMPILED) == expected[::-1]
    assert len(graphs) == 1


def test_beams_and_a_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    for name in ("switch", "olmoe"):
        model = ready(name)
        expected = generate(model, PROMPTS, GenerateOptions(6, num_beams=2))
        found = generate(model, PROMPTS, GenerateOptions(6, num_beams=2, compile=True))
        assert found == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler uses what its own library deprecates
@pytest.mark.usefixtures("packing")
def test_the_real_compiler_writes_the_same_tokens() -> None:
    for name in ("switch", "olmoe"):
        model = prepared(ready(name))
        assert generate(model, PROMPTS, COMPILED) == generate(model, PROMPTS, OPTIONS)


@pytest.mark.filterwarnings("default")
def test_without_a_compiler_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        pytest.raises(UserError, match=r"^compile = true: must be false where no C"),
    ):
        generate(ready("switch"), PROMPTS, COMPILED)


def test_a_copy_at_every_call_is_refused() -> None:
    model = build(CASES["switch"], dtype=torch.bfloat16)
    model.init_weights(0)
    with pytest.raises(ConfigError, match=r"^compile = True: .*not prepared; make it ready once"):
        generate(model, PROMPTS, COMPILED)
