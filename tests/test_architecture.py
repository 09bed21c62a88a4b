"""The house rules, enforced; and each checker, shown to fail on a small bad source."""

import re

import pytest

from tests.architecture import (
    ARROWS,
    MAX_FUNCTION,
    MAX_LINES,
    OPEN,
    ROOT,
    SOURCE,
    UNFINISHED,
    Source,
    computed_indices,
    cycles,
    forbidden_marks,
    foreign_imports,
    globals_used,
    hidden_imports,
    host_reads,
    package_graph,
    sources,
    stateful_forward,
    too_long,
    undocumented,
    unfinished,
    wrong_arrows,
)

OURS = sources(SOURCE)
CORE = [source for source in OURS if source.package == "moe"]
EVERYTHING = [
    Source(f"{folder}/{source.path}", source.text, source.tree)
    for folder in ("src", "tests", "examples")
    for source in sources(ROOT / folder)
]

# Code in moe/ that reads data on the host or indexes by a computed value, and why it may.
EXCUSED = {
    "moe/product_backends.py: offsets.tolist()": "the slice and bmm backends of a custom op, "
    "opaque to compile, need the ends of each expert's rows as integers",
    "moe/product_backends.py: padded[place]": "a store to distinct rows, in an op without "
    "autograd inside",
    "moe/products.py: BACKENDS[backend]": "a dict by name",
    "moe/dispatch/__init__.py: dispatchers[name]": "a dict by name",
    "moe/hash_tables.py: counts.index_select(0, order).tolist()": "a table is made on the host, "
    "once, outside any forward pass",
    "moe/losses.py: BALANCE_FORMS[variant]": "a dict by name",
    "moe/losses.py: {'experts': float(experts), 'experts_per_choice': experts / choices, "
    "'one_over_experts': 1 / experts}[form.normaliser]": "a dict by name",
    "moe/priority.py: orders[name]": "a dict by name",
    "moe/routers/custom.py: _CLASSES[target]": "a dict by name",
    "moe/record.py: tensors[f'{name}.expert']": "a dict by name",
}


def broken(rule, files):
    return [finding for source in files for finding in rule(source)]


def test_import_arrows():
    assert broken(wrong_arrows, OURS) == []


def test_the_table_names_what_is_there():
    packages = {source.package for source in OURS}
    assert packages == ARROWS.keys() | OPEN


def test_the_design_shows_the_table():
    design = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", design, re.MULTILINE)
    shown = {name: set(re.findall("`([a-z.]+)`", text.split(";")[0])) for name, text in rows}
    shown = {name: names for name, names in shown.items() if name not in OPEN}
    assert shown == {name: set(names) for name, names in ARROWS.items()}


def test_the_readme_names_every_package():
    named = set(re.findall(r"`src/turnout/(\w+)/`", (ROOT / "README.md").read_text()))
    assert named == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def test_no_imports_by_name():
    assert broken(hidden_imports, OURS) == []


def test_no_cycles_between_packages():
    assert cycles(package_graph(OURS)) == []


def test_config_imports_neither_torch_nor_numpy():
    files = [source for source in OURS if source.package == "config"]
    assert broken(lambda source: foreign_imports(source, frozenset({"tomli_w"})), files) == []


def test_checkpoints_are_torch_and_safetensors():
    files = [source for source in OURS if source.package == "checkpoint"]
    allowed = frozenset({"torch", "safetensors"})
    assert broken(lambda source: foreign_imports(source, allowed), files) == []


@pytest.mark.parametrize("rule", [globals_used, too_long, unfinished])
def test_everywhere(rule):
    assert broken(rule, EVERYTHING) == []


@pytest.mark.parametrize("rule", [undocumented, stateful_forward])
def test_in_the_package(rule):
    assert broken(rule, OURS) == []


def test_no_test_is_skipped():
    tests = [source for source in EVERYTHING if source.path.startswith("tests/")]
    assert broken(forbidden_marks, tests) == []


def test_the_core_excuses_are_complete_and_none_is_stale():
    found = broken(host_reads, CORE) + broken(computed_indices, CORE)
    assert sorted(set(found)) == sorted(EXCUSED)


def long_function(lines):
    return "def f():\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (wrong_arrows, "import turnout.nn.init", "import turnout.models.base"),
        (wrong_arrows, "from turnout.nn import init", "from turnout.train import trainer"),
        (wrong_arrows, "from turnout.moe.build import x", "from turnout import objectives"),
        (wrong_arrows, "from ..config import moe", "from ..data import batch"),
        (wrong_arrows, "import torch", "def f():\n    from turnout.cli import main"),
        (wrong_arrows, "from typing import Any", "from turnout import build_layer"),
        (hidden_imports, "import_module('altair')", "import_module('turnout.train')"),
        (hidden_imports, "x.eval()", "import_module(name)"),
        (hidden_imports, "x.exec()", "eval('1')"),
        (globals_used, "x = 1", "def f():\n    global x\n    x = 1"),
        (too_long, "x = 1\n" * MAX_LINES, "x = 1\n" * (MAX_LINES + 1)),
        (too_long, long_function(MAX_FUNCTION), long_function(MAX_FUNCTION + 1)),
        (unfinished, "# to do so", f"x = 1  # {UNFINISHED[0]} later"),
        (unfinished, "raise ValueError('no')", "raise NotImplementedError('later')"),
        (unfinished, "raise TypeError", "raise NotImplementedError"),
        (unfinished, "@abstractmethod\ndef f():\n    '''Doc.'''", "def f():\n    '''Doc.'''"),
        (unfinished, "def f():\n    return None", "def f(): ..."),
        (unfinished, "def f() -> None:\n    '''No-op.'''", "def f() -> int:\n    '''One.'''"),
        (unfinished, "class A(Protocol):\n    def f(self): ...", "class A:\n    def f(self): ..."),
        (forbidden_marks, "@pytest.mark.slow\ndef f(): ...", "@pytest.mark.skip\ndef f(): ..."),
        (forbidden_marks, "@pytest.mark.gpu\ndef f(): ...", "pytest.importorskip('torch')"),
        (forbidden_marks, "pytest.raises(ValueError)", "@pytest.mark.flaky\ndef f(): ..."),
        (forbidden_marks, "xs.index(1)", "from pytest import xfail\nxfail('no')"),
        (undocumented, "'''Doc.'''\ndef _f(): ...", "'''Doc.'''\ndef f(): ..."),
        (undocumented, "", "import os"),
        (undocumented, "'''Doc.'''\nclass A:\n    '''Doc.'''", "'''Doc.'''\nclass A:\n    x = 1"),
        (stateful_forward, "def forward(self): x = self.y", "def forward(self): self.y = 1"),
        (stateful_forward, "def __init__(self): self.y = 1", "def forward(self): self.n += 1"),
        (host_reads, "x.sum()", "x.item()"),
        (host_reads, "x.view(1)", "torch.bincount(x)"),
        (host_reads, "torch.Generator()", "torch.manual_seed(0)"),
        (host_reads, "x.list()", "x.sum().tolist()"),
        (computed_indices, "x[:, 0]", "x[index]"),
        (computed_indices, "x[start:end]", "x[:, index]"),
        (computed_indices, "x[-1]", "x[mask > 0]"),
        (computed_indices, "x.shape[axis]", "x.data[axis]"),
        (computed_indices, "def f(x: Float[Tensor, 'T D']): ...", "x[index] = 1"),
        (computed_indices, "Names = Literal['a', 'b']", "x[index()]"),
        (computed_indices, "x[..., None]", "TABLE[name]"),
    ],
)
def test_each_rule_can_fail(rule, good, bad):
    assert rule(Source.of(good)) == []
    assert len(rule(Source.of(bad))) >= 1


def test_a_module_alone_may_be_allowed():
    allowed = Source.of("from turnout.data.batch import Batch", "models/base.py")
    refused = Source.of("from turnout.data import pipeline", "models/base.py")
    assert wrong_arrows(allowed) == []
    assert wrong_arrows(refused) == [
        "models/base.py:1: models may not import turnout.data.pipeline"
    ]


def test_a_package_outside_the_table_is_named():
    assert wrong_arrows(Source.of("", "serve/page.py")) == [
        "serve/page.py: serve is not in the table of arrows"
    ]


def test_a_cycle_is_found():
    files = [
        Source.of("import turnout.b", "a/x.py"),
        Source.of("import turnout.c", "b/x.py"),
        Source.of("from turnout.a import x", "c/x.py"),
        Source.of("import turnout.a", "d.py"),
    ]
    assert {"a", "b", "c"} <= set(cycles(package_graph(files)))
    assert cycles(package_graph(files[:2])) == []


def test_torch_in_config_is_found():
    bad = Source.of("def f():\n    import torch.nn", "config/counts.py")
    assert foreign_imports(bad, frozenset({"tomli_w"})) == [
        "config/counts.py:2: may not import torch.nn"
    ]
    assert foreign_imports(Source.of("import json, tomli_w"), frozenset({"tomli_w"})) == []
