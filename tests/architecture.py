"""Checkers of the house rules: each takes parsed source and returns what breaks the rule.

tests/test_architecture.py applies them to the repository, and shows each of them failing.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "turnout"

# What each package may import: another package of ours, or one module of it.
ARROWS: dict[str, frozenset[str]] = {
    "config": frozenset(),
    "pytree": frozenset(),
    "kernels": frozenset({"config"}),
    "nn": frozenset({"config", "pytree", "kernels"}),
    "moe": frozenset({"config", "pytree", "kernels", "nn"}),
    "data": frozenset({"config", "pytree"}),
    "models": frozenset({"config", "pytree", "nn", "moe", "data.batch"}),
    "objectives": frozenset({"config", "pytree", "moe", "models", "data.batch"}),
    "conformance": frozenset({"config", "moe", "models", "data.batch"}),
    "integrations": frozenset(
        {"config", "kernels", "nn", "moe", "models", "conformance", "checkpoint", "convert"}
        | {"evaluate"}
    ),
    "checkpoint": frozenset({"config"}),
    "plan": frozenset({"config"}),
    "simulate": frozenset(
        {
            "config",
            "data.batch",
            "data.keys",
            "moe",
            "models",
            "objectives",
            "checkpoint",
            "train",
            "parallel",
            "plan",
            "probe.style",
        }
    ),
    "generate": frozenset({"config", "data", "moe", "models", "checkpoint"}),
    # A run may begin with a model of any format.
    "train": frozenset(
        {"config", "pytree", "data", "moe", "models", "objectives", "checkpoint", "convert"}
    ),
    "finetune": frozenset(
        {"config", "data", "models", "checkpoint", "convert", "train", "probe.curve"}
        | {"evaluate.metrics"}
    ),
    # A picture begins with a run folder, which train.session opens.
    "probe": frozenset(
        {"config", "pytree", "data", "moe", "models", "checkpoint", "train.session"}
    ),
    "convert": frozenset({"config", "data", "models", "checkpoint"}),
    # What is written must be what `turnout train --resume` reads: the state of its loop, too.
    "surgery": frozenset(
        {"config", "data", "moe", "models", "checkpoint", "convert", "train.control"}
    ),
    # A subject begins with a run folder, which train.session opens.
    "evaluate": frozenset({"config", "data", "models", "generate", "convert", "train.session"}),
    # The trainer knows an abstract Ranks alone, which this package makes real.
    "parallel": frozenset(
        {
            "config",
            "data.batch",
            "nn",
            "moe",
            "models",
            "checkpoint",
            "train.ranks",
            "train.stopping",
        }
    ),
    # Other libraries are what it is held against: of them ``bench.peers`` alone knows.
    "bench": frozenset(
        {
            "config",
            "data.batch",
            "kernels",
            "nn",
            "moe",
            "models",
            "objectives",
            "generate",
            "train",
            "integrations",
            "probe.style",
            "probe.characters",
        }
    ),
    "compare": frozenset(
        {"config", "checkpoint", "train", "probe.style", "probe.curve", "probe.characters"}
    ),
}
# The ends of the graph: they may import anything, and only __main__ imports the command line.
OPEN = frozenset({"cli", "__init__", "__main__"})

MAX_LINES = 400
MAX_FUNCTION = 60
MARKERS = frozenset({"slow", "gpu", "browser"})
PLAIN_MARKS = frozenset({"parametrize", "filterwarnings", "usefixtures"})
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "X" * 3)


@dataclass(frozen=True)
class Source:
    """A file: its path below the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @staticmethod
    def of(text: str, path: str = "moe/sample.py") -> "Source":
        return Source(path, text, ast.parse(text))

    @property
    def package(self) -> str:
        """``moe`` for moe/routers/base.py, ``pytree`` for pytree.py."""
        return self.path.split("/")[0].removesuffix(".py")


def sources(folder: Path) -> list[Source]:
    """All Python files below ``folder``."""
    return [
        Source.of(path.read_text(), path.relative_to(folder).as_posix())
        for path in sorted(folder.rglob("*.py"))
    ]


def imports(source: Source) -> Iterator[tuple[str, int]]:
    """Every module or name that is imported, anywhere in the file, absolute, with its line."""
    parent = ("turnout", *source.path.removesuffix(".py").split("/")[:-1])
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else ())))
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def wrong_arrows(source: Source, arrows: Mapping[str, frozenset[str]] = ARROWS) -> list[str]:
    """Imports of our own packages that the table does not allow."""
    if source.package in OPEN:
        return []
    if source.package not in arrows:
        return [f"{source.path}: {source.package} is not in the table of arrows"]
    found = []
    for name, line in imports(source):
        top, *rest = name.split(".")
        if top != "turnout" or (rest and rest[0] == source.package):
            continue
        allowed = {rest[0], ".".join(rest[:2])} & arrows[source.package] if rest else set()
        if not allowed:
            found.append(f"{source.path}:{line}: {source.package} may not import {name}")
    return found


def hidden_imports(source: Source) -> list[str]:
    """Imports by a name that is computed or ours: the table of arrows cannot see them."""
    found = [] if source.package in OPEN else _calls(source, {"__import__", "exec", "eval"}, False)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or _called(node) != "import_module":
            continue
        name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "turnout"
        if source.package not in OPEN and str(name).startswith("turnout"):
            found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
    return found


def package_graph(files: list[Source]) -> dict[str, set[str]]:
    """Package -> packages it imports, of what is really there."""
    graph: dict[str, set[str]] = {}
    for source in files:
        edges = graph.setdefault(source.package, set())
        for name, _ in imports(source):
            top, *rest = name.split(".")
            if top == "turnout" and rest and rest[0] != source.package:
                edges.add(rest[0])
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """Packages left when those without imports are taken away again and again."""
    left = {name: set(edges) & graph.keys() for name, edges in graph.items()}
    while free := [name for name, edges in left.items() if not edges]:
        left = {name: edges - set(free) for name, edges in left.items() if name not in free}
    return sorted(left)


def foreign_imports(source: Source, allowed: frozenset[str]) -> list[str]:
    """Third-party imports beside ``allowed``."""
    known = sys.stdlib_module_names | allowed | {"turnout"}
    return [
        f"{source.path}:{line}: may not import {name}"
        for name, line in imports(source)
        if name.split(".")[0] not in known
    ]


def globals_used(source: Source) -> list[str]:
    """``global`` statements."""
    nodes = (node for node in ast.walk(source.tree) if isinstance(node, ast.Global))
    return [f"{source.path}:{node.lineno}: global {', '.join(node.names)}" for node in nodes]


def too_long(source: Source) -> list[str]:
    """Files and functions above the limits."""
    lines = len(source.text.splitlines())
    found = [f"{source.path}: {lines} lines, at most {MAX_LINES}"] if lines > MAX_LINES else []
    for node in _functions(source.tree):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION:
            found.append(
                f"{source.path}:{node.lineno}: {node.name} has {length} lines, "
                f"at most {MAX_FUNCTION}"
            )
    return found


def unfinished(source: Source) -> list[str]:
    """Marks of unfinished work, functions without a body, and tests that do not run."""
    found = [
        f"{source.path}:{number}: {mark}"
        for number, line in enumerate(source.text.splitlines(), 1)
        for mark in UNFINISHED
        if mark in line
    ]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
    protocols = {id(node) for node in ast.walk(source.tree) for node in _protocol(node)}
    for function in _functions(source.tree):
        if id(function) not in protocols and _is_stub(function):
            found.append(f"{source.path}:{function.lineno}: {function.name} has no body")
    return found


def forbidden_marks(source: Source) -> list[str]:
    """Skips, expected failures, and markers beside those of the tiers."""
    calls = _calls(source, {"skip", "skipif", "skipIf", "xfail", "importorskip"})
    marks = [
        f"{source.path}:{node.lineno}: the marker {node.attr}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "pytest.mark"
        and node.attr not in MARKERS | PLAIN_MARKS
    ]
    return calls + marks


def undocumented(source: Source) -> list[str]:
    """Modules, public classes and public functions without a docstring."""
    found = []
    if source.tree.body and not ast.get_docstring(source.tree):
        found.append(f"{source.path}: the module has no docstring")
    for node in source.tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or "overload" in _decorators(node):
            continue
        if not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(f"{source.path}:{node.lineno}: {node.name} has no docstring")
    return found


def stateful_forward(source: Source) -> list[str]:
    """Attributes of ``self`` written in a forward pass: what is learnt there is returned."""
    found = []
    for function in _functions(source.tree):
        if function.name != "forward":
            continue
        for node in ast.walk(function):
            stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if stored and ast.unparse(node.value) == "self":
                found.append(f"{source.path}:{node.lineno}: forward writes self.{node.attr}")
    return found


def host_reads(source: Source) -> list[str]:
    """Reads that wait for the device or depend on data, and unkeyed randomness, as code."""
    names = {"item", "tolist", "bincount", "manual_seed", "nonzero", "masked_select"}
    return [
        f"{source.path}: {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and _called(node) in names
    ]


def computed_indices(source: Source) -> list[str]:
    """``x[index]`` with an index that is neither constant nor a slice, as code.

    The backward of indexing by a tensor adds repeated entries in no fixed order.
    """
    types = {id(inner) for node in ast.walk(source.tree) for inner in _annotation(node)}
    return [
        f"{source.path}: {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Subscript)
        and id(node) not in types
        and not _is_plain(node.slice)
        and not _is_type(node.value)
        and not ast.unparse(node.value).endswith(".shape")
    ]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _calls(source: Source, names: set[str], methods: bool = True) -> list[str]:
    """Uses of these names; with ``methods`` also as attributes of anything."""
    found = []
    for node in ast.walk(source.tree):
        name = node.id if isinstance(node, ast.Name) else ""
        if methods and isinstance(node, ast.Attribute):
            name = node.attr
        if name in names:
            found.append(f"{source.path}:{node.lineno}: {name}")
    return found


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """No statement but a docstring, ``pass`` or ``...``, and nothing that makes it abstract.

    A function that returns nothing may do nothing, if its docstring says so.
    """
    if _decorators(function) & {"abstractmethod", "overload"}:
        return False
    if ast.get_docstring(function) and function.returns and ast.unparse(function.returns) == "None":
        return False
    return all(
        isinstance(node, ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def _protocol(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a class that is a protocol."""
    if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
        yield from ast.walk(node)


def _annotation(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes inside the annotations of ``node``, and inside the bases of a class."""
    roots: list[ast.AST | None] = []
    if isinstance(node, ast.arg | ast.AnnAssign):
        roots = [node.annotation]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        roots = [node.returns]
    if isinstance(node, ast.ClassDef):
        roots = list(node.bases)
    for root in roots:
        if root is not None:
            yield from ast.walk(root)


def _is_plain(index: ast.expr) -> bool:
    if isinstance(index, ast.Tuple):
        return all(_is_plain(part) for part in index.elts)
    if isinstance(index, ast.UnaryOp):
        return _is_plain(index.operand)
    if isinstance(index, ast.BinOp):
        return _is_plain(index.left) and _is_plain(index.right)
    return isinstance(index, ast.Constant | ast.Slice | ast.Starred)


def _is_type(value: ast.expr) -> bool:
    """``Literal[..]``, ``tuple[..]``, ``Dispatcher[..]`` and the like in a type alias."""
    name = ast.unparse(value)
    return name in {"tuple", "list", "dict", "type"} or (name[:1].isupper() and not name.isupper())
