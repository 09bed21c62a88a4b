"""Conversions hold the tensors of one rule: when the next is read, nothing of the one before lives.

What lives is counted, in bytes, of every tensor that is read, made or copied on the way, so that it
depends on no machine; ``benchmarks/convert_memory.py`` measures what is resident.
"""

import weakref

import pytest
import torch

from tests.convert.cases import saved
from turnout.checkpoint import stream
from turnout.convert.conversion import to_foreign, to_native
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.convert.native import open_native

# Nine experts a layer, of which a copy of one is a ninth of a stack.
NAME = "deepseek_v2, groups"


class Ledger:
    """Bytes that live now, the most that lived at a time, and the largest that came."""

    def __init__(self):
        self.alive, self.most, self.largest = 0, 0, 0

    def came(self, size):
        self.alive += size
        self.most, self.largest = max(self.most, self.alive), max(self.largest, size)

    def went(self, size):
        self.alive -= size


@pytest.fixture
def ledger(monkeypatch):
    found = Ledger()

    class Buffer(bytearray):
        """What a tensor is read into; it goes with the last tensor that looks at it."""

        def __init__(self, size):
            super().__init__(size)
            found.came(size)

        def __del__(self):
            found.went(len(self))

    def counted(method):
        def call(tensor, *given, **words):
            made = method(tensor, *given, **words)
            if made is not tensor and not made.is_meta:
                found.came(made.nbytes)  # a view of it keeps it, and so its weak reference
                weakref.finalize(made, found.went, made.nbytes)
            return made

        return call

    monkeypatch.setattr(stream, "bytearray", Buffer, raising=False)
    monkeypatch.setattr(torch, "empty", counted(torch.empty))
    monkeypatch.setattr(stream, "MOST_READ", 64)  # of small tensors, too, a part at a time
    for name in ("new_empty", "contiguous"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    return found


def test_the_ledger_sees_what_is_kept(ledger, tmp_path):
    foreign = open_foreign(saved(NAME, tmp_path / "hf"))
    ledger.most = ledger.largest = 0
    name = "model.embed_tokens.weight"
    size = 60 * 16 * 4
    kept = foreign.read(name)[:1]
    assert ledger.alive == ledger.most == ledger.largest == size
    again = foreign.read(name).T
    copy = again.contiguous()
    assert (ledger.alive, ledger.largest) == (3 * size, size)
    del kept, again
    assert (ledger.alive, ledger.most) == (size, 3 * size)
    del copy
    assert ledger.alive == 0


def converted(ledger, tmp_path, layout):
    """Peaks over the largest tensor of either kind: to a run, and back."""
    saved(NAME, tmp_path / "hf", save_original_format=layout == "experts")
    foreign = open_foreign(tmp_path / "hf")
    assert any(name.endswith("gate_up_proj") for name in foreign.names) == (layout == "fused")
    mapped = map_foreign(foreign)
    peaks = []
    for convert in (
        lambda: to_native(foreign, mapped, tmp_path / "run"),
        lambda: to_foreign(open_native(tmp_path / "run"), tmp_path / "back", layout=layout),
    ):
        ledger.most = ledger.largest = 0
        convert()
        assert ledger.alive == 0 < ledger.largest
        peaks.append(ledger.most / ledger.largest)
    return peaks


def test_an_expert_at_a_time(ledger, tmp_path):
    # A stack of nine, and the matrix that is on its way into or out of it.
    there, back = converted(ledger, tmp_path, "experts")
    assert there == pytest.approx(1 + 1 / 9)
    assert back == pytest.approx(1 + 1 / 9)


def test_fused_experts(ledger, tmp_path):
    # One tensor with the gate and input matrices of all; of ours, two, one expert is copied at a
    # time. The way back makes the one of the two, which are read one after the other.
    there, back = converted(ledger, tmp_path, "fused")
    assert there == pytest.approx(1 + 1 / 18)
    assert back == pytest.approx(1.5, abs=0.02)  # and the part that is being read
