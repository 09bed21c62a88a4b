"""``turnout surgery`` from start to end, with its receipts and its refusals."""

import json
import shlex
from pathlib import Path

import pytest

import turnout
from tests.surgery.conftest import train
from tests.surgery.models import decoder, saved, sparse
from turnout.checkpoint import folders
from turnout.cli.main import main
from turnout.cli.surgery import KINDS
from turnout.config import io
from turnout.train.session import saved_config


@pytest.fixture
def surgery(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = main(["surgery", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def receipt(folder):
    return json.loads(Path(folder, "receipt.json").read_text())


def config_of(folder):
    return turnout.load(folder).config


def test_upcycling_a_run_and_going_on(runs, surgery, text_folder):
    code, said, _ = surgery("upcycle", runs(dense=True), "--out", "up", "--experts", 4)
    assert code == 0
    found = receipt("up")
    assert found["compared"]["logits"] <= 1e-6
    assert found["compared"]["bits_before"] == pytest.approx(found["compared"]["bits_after"])
    assert "bits per byte" in said and "function: expected preserved" in said
    assert "learning rate" in said and "2212.05055" in said
    assert "next: turnout train --resume up" in said
    train(io.override(saved_config("up"), {"train.steps": "2"}), Path("up"), Path("up"))
    assert main(["eval", "up"]) == 0


def test_the_steps_and_text_of_a_run_that_is_kept(runs, surgery):
    options = ("--out", "up", "--experts", 4, "--optimizer", "keep", "--split", 2, "--every", 1)
    code, said, _ = surgery("upcycle", runs(dense=True), *options)
    assert code == 0 and "train --resume up --train.steps 6" in said
    assert config_of("up").moe.num_experts == 8
    longer = io.override(saved_config("up"), {"train.steps": "5"})
    train(longer, Path("up"), Path("up"))
    assert folders.latest("up").name == "step-00000005"


@pytest.mark.parametrize(
    ("arguments", "experts"),
    [
        ("prune --keep 3", 3),
        ("prune --keep 3 --by load", 3),
        ("prune --experts 1,3", 2),
        ("merge --to 2", 2),
        ("merge --to 3 --by weights", 3),
        ("grow --more 2", 6),
        ("grow --more 2 --of 1,0 --noise 0.1", 6),
        ("grow --more 1 --of fresh --router-std 0.1", 5),
        ("split --parts 2", 8),
        ("clone --split", 8),
        ("clone --copies 3", 12),
        ("reorder", 4),
        ("reorder --order 3,2,1,0", 4),
        ("choices --k 3", 4),
        ("dense", 0),
        ("dense --expert heaviest", 0),
        ("dense --expert 3", 0),
        ("dense --expert none", 0),
    ],
)
def test_every_operation_on_a_run(arguments, experts, runs, surgery):
    name, *options = arguments.split()
    code, said, error = surgery(name, runs(), "--out", "out", *options, "--rows", 4)
    assert code == 0, error
    found = receipt("out")
    moe = config_of("out").moe
    assert (0 if moe is None else moe.num_experts) == experts
    assert found["compared"]["bits_after"] > 0 and "4 held-out rows" in said
    preserved = {"split", "reorder"} | ({"clone"} if "--split" in options else set())
    assert (found["expected"] == "preserved") == (name in preserved)


@pytest.mark.parametrize(
    "arguments",
    ["reorder", "clone --split --copies 3", "clone", "grow --more 1", "choices --k 3"],
)
def test_the_way_back_can_be_typed(arguments, runs, surgery):
    name, *options = arguments.split()
    assert surgery(name, runs(), "--out", "out", *options)[0] == 0
    for command in receipt("out")["back"].split(" && "):
        assert main(shlex.split(command)[1:]) == 0
        back = shlex.split(command)[shlex.split(command).index("--out") + 1]
    old, new = turnout.load(runs()), turnout.load(back)
    assert old.config == new.config
    state = new.state_dict()
    assert all((tensor == state[key]).all() for key, tensor in old.state_dict().items())


def test_other_text_and_no_comparison(runs, surgery, text_folder):
    run = runs()
    more = ("--data", text_folder / "01.py", text_folder / "02.py", "--rows", 2)
    assert surgery("choices", run, "--out", "a", "--k", 3, *more)[0] == 0
    assert receipt("a")["compared"]["rows"].endswith("02.py")
    assert surgery("choices", run, "--out", "b", "--k", 3, "--unchecked")[0] == 0
    assert receipt("b")["compared"] is None


def test_what_the_way_back_leaves_is_said(runs, surgery):
    more = ("--model.moe.train_capacity_factor", 3)
    code, said, _ = surgery("clone", runs(), "--copies", 2, "--dry-run", *more)
    assert code == 0
    assert "way back leaves --model.moe.train_capacity_factor as it is in the new run" in said
    assert "way back leaves" not in surgery("clone", runs(), "--copies", 2, "--dry-run")[1]


def test_a_dry_run_writes_nothing(runs, surgery, tmp_path):
    code, said, _ = surgery("upcycle", runs(dense=True), "--experts", 4, "--dry-run")
    assert code == 0 and "nothing written" in said and not list(tmp_path.iterdir())
    numbers = next(line for line in said.splitlines() if "parameters" in line and "  " in line)
    assert f"{config_of(runs(dense=True)).num_params():,}" in said and numbers
    assert "surgery dense OUT --out OUT-back --expert 0" in said
    named = surgery("upcycle", runs(dense=True), "--experts", 4, "--dry-run", "--out", "new")[1]
    assert "surgery dense new --out new-back" in named and not list(tmp_path.iterdir())


def test_two_runs_become_one_and_are_mixed(runs, surgery):
    one, other = runs(dense=True), runs(dense=True, **{"train.seed": "1"})
    code, said, _ = surgery("btx", one, other, "--out", "mixed")
    assert code == 0 and said.count("bits per byte") >= 3
    sources = receipt("mixed")["sources"]
    assert len(sources) == 2 and all(source["bits"] > 0 for source in sources)
    code, said, _ = surgery("ensemble", one, other, "mixed", "--rows", 4)
    lines = said.splitlines()
    assert code == 0 and len(lines) == 6
    bits = [float(line.split()[-4]) for line in lines[:5]]
    assert bits[0] == pytest.approx(sources[0]["bits"], rel=0.2)
    # A mean of probabilities is never worse than the worst of them.
    assert bits[3] <= max(bits[:3]) + 1e-4 and bits[4] <= max(bits[:3]) + 1e-4


def test_random_tokens_where_there_is_no_text(surgery, tmp_path):
    saved(decoder(moe=sparse()), tmp_path / "run")
    code, said, _ = surgery("prune", "run", "--out", "out", "--keep", 2)
    assert code == 0 and "rows of random tokens" in said and "bits per byte" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prun run --out out", "no operation 'prun'; did you mean 'prune'?"),
        ("prune run --keep 2", "--out: required"),
        ("prune run --out out", "takes --keep N or --experts 0,3,5, one of them"),
        ("prune run --out out --keep 2 --experts 1,2", "one of them"),
        ("prune run --out out --keep 0", "--keep = 0: must be from 2"),
        ("prune run --out out --keep 9", "to 4, the experts of decoder.0.moe"),
        ("prune run --out out --experts 1,x", "must be numbers with commas"),
        ("prune run --out out --experts 1,4", "expert = 4: must be one of 0 to 3"),
        ("prune run --out run --keep 3", "is there already"),
        ("prune nothing --out out --keep 3", "nothing"),
        ("merge run --out out --to 5", "--to = 5: must be from 2"),
        ("split run --out out --parts 5", "--parts 5: must be a divisor"),
        ("choices run --out out --k 5", "must be at least 5"),
        ("reorder run --out out --order decoder.0.moe=0,1,2,3", "decoder.1.moe is given no order"),
        ("reorder run --out out --order a=0,1,2,3", "a is no sparse layer"),
        ("dense run --out out --expert 4", "--expert = 4: must be one of 0 to 3"),
        ("dense run --out out --expert best", "must be mean, heaviest, none or a number"),
        ("upcycle run --out out", "has experts already"),
        ("upcycle dense --out out --experts 4 --k 5", "--k = 5: must be at most --experts (4)"),
        ("upcycle dense --out out --split 5", "--split = 5: must be a divisor of d_ff (12)"),
        ("upcycle dense --out out --capacity much", "--capacity much: must be a number or none"),
        ("upcycle dense --out out --optimizer keep", "holds no optimiser state"),
        ("grow run --out out --more 1 --of 7", "expert = 7: must be one of 0 to 3"),
        ("domains run --out out", "takes --add or --remove LABEL, one of them"),
        ("domains run --out out --add", "must be 'label'"),
        ("domains run --out out --remove 1 --noise 0.1", "--remove: takes neither --of nor"),
        ("grow run --out out --more 1 --of 0 --router-std 0.1", "--router-std: goes with --of"),
        ("grow run --out out --more 1 --of \u00b2", "must be numbers with commas"),
        ("dense run --out out --expert \u00b2", "must be mean, heaviest, none or a number"),
        ("choices run --out out --k 3 --seed 9999999999999999999999", "in 0 .. 2^63 - 1"),
        ("btx dense --out out", "name two runs or more"),
        ("btx dense wide --out out", "model.d_model = 16: must be 8, as in dense"),
        ("btx dense wide --out out --optimizer keep", "model.d_model = 16"),
        ("btx dense dense --out out --optimizer keep", "goes with one run"),
        ("ensemble dense", "name two runs or more"),
        ("ensemble dense dense", "--data: required"),
        ("prune run --out out --keep 3 --model.d_model 16", "of another width"),
        ("prune run --out out --keep 3 --rows 0 --data notes", "--rows = 0"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(arguments, message, surgery, tmp_path):
    from dataclasses import replace

    saved(decoder(moe=sparse()), tmp_path / "run")
    saved(decoder(), tmp_path / "dense")
    wide = replace(decoder(), d_model=16)
    saved(wide, tmp_path / "wide")
    before = sorted(tmp_path.rglob("*"))
    code, _, error = surgery(*arguments.split())
    assert code == 2 and error.count("\n") == 1 and error.startswith("error: ")
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [*KINDS, "ensemble"])
def test_help(name, surgery):
    code, said, _ = surgery(name, "--help")
    assert code == 0 and f"turnout surgery {name}" in said
    code, said, _ = surgery()
    assert code == 0 and f"  {name} " in said
