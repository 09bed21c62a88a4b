from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.errors import ConfigError, UserError
from turnout.config.objective import TextToTextConfig
from turnout.data.examples import Example, read_examples, sha256, split_examples

T2T = TextToTextConfig()
strings = st.binary(max_size=4)
example_lists = st.lists(st.tuples(strings, strings), min_size=2, max_size=30)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_files_and_folders_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / "b" / "one.jsonl", '{"inputs": "q", "targets": "a"}', "", "  ")
    write(tmp_path / "a.jsonl", '{"inputs": "é\\n", "targets": "ü", "more": 3}')
    write(tmp_path / ".hidden" / "x.jsonl", "no JSON")
    write(tmp_path / "notes.txt", "no JSON either")
    found, without = read_examples((str(tmp_path), str(tmp_path)), T2T)
    assert [(e.inputs.decode(), e.targets.decode()) for e in found] == [("é\n", "ü"), ("q", "a")]
    assert found[1].place == f"{tmp_path}/b/one.jsonl line 1"
    assert without == 0


def test_other_field_names_and_empty_targets(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", '{"q": "", "a": "x"}', '{"q": "y", "a": ""}', '{"q": "z", "a": "z"}'
    )
    found, without = read_examples((path,), TextToTextConfig(inputs="q", targets="a"))
    assert [(e.inputs, e.targets) for e in found] == [(b"", b"x"), (b"z", b"z")]
    assert without == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "x.jsonl line 2 is not JSON: "),
        ("[" * 100_000, "x.jsonl line 2 is not JSON: "),
        ("[1]", 'x.jsonl line 2 is no JSON object; write {"inputs": "..", "targets": ".."}'),
        (
            '{"question": "q", "targets": "a"}',
            "x.jsonl line 2 has no field 'inputs'; it has question, targets: name the right one "
            "with objective.inputs",
        ),
        ("{}", "line 2 has no field 'inputs'; it has none"),
        (
            '{"inputs": "q", "targets": ["a"]}',
            "x.jsonl line 2: field 'targets' is a list: must be a string",
        ),
        ('{"inputs": null, "targets": "a"}', "field 'inputs' is a NoneType: must be a string"),
    ],
)
def test_lines_that_are_no_examples(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "x.jsonl", '{"inputs": "q", "targets": "a"}', line)
    with pytest.raises(UserError) as error:
        read_examples((path,), T2T)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_hold_no_examples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none is given; give a \.jsonl file or a folder"):
        read_examples((), T2T)
    with pytest.raises(UserError, match="none is given"):
        read_examples((str(tmp_path),), T2T)
    with pytest.raises(UserError, match=r"no such file or folder '.*nowhere'"):
        read_examples((str(tmp_path / "nowhere"),), T2T)
    with pytest.raises(UserError, match=r"is no \.jsonl file"):
        read_examples((write(tmp_path / "x.txt", "text"),), T2T)
    with pytest.raises(UserError, match="no example with targets in"):
        read_examples((write(tmp_path / "x.jsonl", ""),), T2T)
    (tmp_path / "latin.jsonl").write_bytes(b'{"inputs": "caf\xe9", "targets": "a"}\n')
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_examples((str(tmp_path / "latin.jsonl"),), T2T)


def test_half_a_surrogate_pair_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"inputs": "\\ud83d", "targets": "a"}')
    assert read_examples((path,), T2T)[0][0].inputs == b"?"


@given(example_lists, st.floats(0.05, 0.95))
def test_sides_share_no_inputs_and_lose_nothing(
    pairs: list[tuple[bytes, bytes]], share: float
) -> None:
    examples = [Example(*pair, "") for pair in pairs]
    if len(set(pairs)) < 2:
        with pytest.raises(UserError, match="all alike"):
            split_examples(examples, share)
        return
    sides = split_examples(examples, share)
    assert sides.train and sides.validation
    both = sides.train + sides.validation
    assert sorted(e.text for e in both) == sorted(e.text for e in examples)
    if len({inputs for inputs, _ in pairs}) > 1:
        assert not {e.inputs for e in sides.train} & {e.inputs for e in sides.validation}
    else:
        assert not {e.text for e in sides.train} & {e.text for e in sides.validation}


def test_the_hash_knows_where_inputs_end() -> None:
    one, other = Example(b"ab", b"c", ""), Example(b"a", b"bc", "")
    assert sha256([one]) != sha256([other])
    assert sha256([one]) == sha256([Example(b"ab", b"c", "elsewhere")])


def test_fields_must_differ() -> None:
    with pytest.raises(ConfigError, match=r"objective\.targets = 'x': .*other than"):
        TextToTextConfig(inputs="x", targets="x")
    with pytest.raises(ConfigError, match=r"objective\.max_examples = 0: must be at least 1"):
        TextToTextConfig(max_examples=0)
