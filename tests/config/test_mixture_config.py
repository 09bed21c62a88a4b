"""Sources and their rates as configuration: read, written, refused."""

import re
from pathlib import Path

import pytest

from turnout.config.errors import ConfigError, UserError
from turnout.config.io import dump_toml, from_dict, override, parse_toml, to_dict
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.objective import CausalConfig, PrefixConfig, SpanConfig, TextToTextConfig
from turnout.config.presets import run
from turnout.config.train import RunConfig

BASE = run("switch_demo")
SPAN = run("switch_tiny", "span")
TWO = """
[data.mixture]
temperature = 2
cap = 5000

[[data.mixture.sources]]
name = "code"

[[data.mixture.sources]]
name = "questions"
paths = ["questions.jsonl"]
objective = { kind = "text_to_text", targets = "answer" }
"""


def test_a_mixture_from_toml_and_back() -> None:
    config = parse_toml(TWO, BASE)
    assert config.data.mixture == MixtureConfig(
        (
            SourceConfig("code"),
            SourceConfig("questions", ("questions.jsonl",), TextToTextConfig(targets="answer")),
        ),
        temperature=2.0,
        cap=5000,
    )
    assert parse_toml(dump_toml(config)) == config
    assert from_dict(RunConfig, to_dict(config)) == config
    hotter = override(config, {"data.mixture.temperature": "3", "data.mixture.cap": "none"})
    assert hotter.data.mixture.temperature == 3.0
    assert hotter.data.mixture.cap is None
    assert hotter.data.mixture.sources == config.data.mixture.sources
    assert override(config, {"data.mixture": "none"}).data.mixture is None


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    mixture = parse_toml(block, BASE).data.mixture
    assert [source.name for source in mixture.sources] == ["code", "letters", "questions"]
    assert mixture.sources[2].objective == TextToTextConfig(targets="answer")


def test_sources_by_name_on_the_command_line() -> None:
    config = parse_toml(TWO, BASE)
    changed = override(
        config,
        {
            "data.mixture.sources.questions.objective.max-examples": "4",
            "data.mixture.sources.code.paths": "src",
        },
    ).data.mixture
    assert changed == MixtureConfig(
        (
            SourceConfig("code", ("src",)),
            SourceConfig(
                "questions",
                ("questions.jsonl",),
                TextToTextConfig(targets="answer", max_examples=4),
            ),
        ),
        temperature=2.0,
        cap=5000,
    )
    with pytest.raises(UserError) as error:
        override(config, {"data.mixture.sources.cod.weight": "3"})
    assert str(error.value) == "data.mixture.sources.cod: no such entry; did you mean 'code'?"
    with pytest.raises(UserError) as error:
        override(config, {"data.mixture.sources.code.weight": "-3"})
    assert str(error.value).startswith("data.mixture.sources.code.weight = -3.0: must be above 0")
    with pytest.raises(UserError, match=r"data\.mixture\.sources = .*: must be a list"):
        override(BASE, {"data.mixture.sources.code.weight": "3"})
    with pytest.raises(UserError, match="must be a list"):
        override(BASE, {"data.paths.code": "3"})


def test_objectives_by_name_and_option() -> None:
    assert override(BASE, {"objective.kind": "prefix"}).objective == PrefixConfig()
    asked = override(BASE, {"objective": "text_to_text", "objective.visible-inputs": "true"})
    assert asked.objective == TextToTextConfig(visible_inputs=True)
    assert override(SPAN, {"objective.kind": "text_to_text"}).objective == TextToTextConfig()


def test_what_the_tokens_of_a_prompt_may_read() -> None:
    shown = [PrefixConfig(), TextToTextConfig(visible_inputs=True)]
    hidden = [CausalConfig(), SpanConfig(), TextToTextConfig()]
    assert all(objective.visible_prompt for objective in shown)
    assert not any(objective.visible_prompt for objective in hidden)


SOURCE = "[[data.mixture.sources]]\nname = "


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[data.mixture]", "data.mixture.sources: required and not given"),
        (
            "[data.mixture]\nsources = []",
            "data.mixture.sources = []: must be a list of at least one source",
        ),
        (
            SOURCE + '"two words"',
            "data.mixture.sources[0].name = 'two words': must be letters, digits and '_', at "
            "least one",
        ),
        (
            SOURCE + '"a"\n' + SOURCE + '"b"\n' + SOURCE + '"a"',
            "data.mixture.sources = ['a']: must be of different names",
        ),
        (
            SOURCE + '"a"\nweight = 0',
            "data.mixture.sources[0].weight = 0.0: must be above 0; leave out a source that is "
            "not wanted",
        ),
        (
            SOURCE + '"a"\nweight = 1\n' + SOURCE + '"b"',
            "data.mixture.sources = ['b']: must be given a weight as well, since another source "
            "has one; give all of them a weight, or none",
        ),
        (
            "[data.mixture]\ntemperature = 0.5\n" + SOURCE + '"a"',
            "data.mixture.temperature = 0.5: must be at least 1; 1 is proportional to the rows of "
            "the sources; higher is more even",
        ),
        (
            "[data.mixture]\ntemperature = 2\n" + SOURCE + '"a"\nweight = 1',
            "data.mixture.temperature = 2.0: must be left out where the sources have weights; "
            "weights are the rates themselves",
        ),
        (
            "[data.mixture]\ncap = 7\n" + SOURCE + '"a"\nweight = 1',
            "data.mixture.cap = 7: must be left out where the sources have weights; weights are "
            "the rates themselves",
        ),
        ("[data.mixture]\ncap = 0\n" + SOURCE + '"a"', "data.mixture.cap = 0: must be at least 1"),
        (
            "[data.mixture]\nblock = 1\n" + SOURCE + '"a"\n' + SOURCE + '"b"',
            "data.mixture.block = 1: must be in 2 .. 1048576, a row of every source at least",
        ),
        (
            '[data]\npaths = ["x"]\n' + SOURCE + '"a"',
            "data.paths = ['x']: must be left out where data.mixture is given; give the paths to "
            "one of its sources, or set data.mixture to none",
        ),
        (
            SOURCE + '"a"\nobjective = "prefx"',
            "data.mixture.sources[0].objective.kind = 'prefx': must be one of causal, span, "
            "prefix, text_to_text; did you mean 'prefix'?",
        ),
        (
            SOURCE + '"a"\n' + SOURCE + '"b"\nobjective = "span"',
            "data.mixture.sources[1].objective.kind = 'span': must be one of causal, prefix, "
            "text_to_text with model.kind = 'decoder_only'",
        ),
        (SOURCE + '"a"\npath = "x"', "data.mixture.sources[0].path: no such option; did you mean"),
        (SOURCE + "3", "data.mixture.sources[0].name = 3: must be a string"),
    ],
)
def test_what_a_mixture_refuses(toml: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_toml(toml, BASE)
    assert str(error.value).startswith(message)


def test_an_option_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        override(SPAN, {"objective": "text_to_text", "objective.visible_inputs": "true"})
    assert str(error.value) == (
        "objective.visible_inputs = True: must be false with model.kind = 'encoder_decoder'; "
        "the inputs that an encoder reads see each other anyway"
    )


def test_the_forms_of_a_preset_are_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as error:
        run("switch_demo", "prefix")
    assert str(error.value) == (
        "objective = 'prefix': must be 'causal' for the preset switch_demo; a form of it may take "
        "another objective, as with --objective.kind prefix"
    )
