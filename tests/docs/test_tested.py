"""The table of what is tested names every test there is, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tested.md"
BROWSER = ROOT / "tests" / "probe" / "report" / "test_browser.py"
MARK = r"^(?:@|.*marks? *= *)pytest\.mark\.{}"
TIERS = ("slow", "browser")


def rows() -> list[tuple[list[Path], set[str]]]:
    """The places and the tiers of each line of the table."""
    lines = [line for line in PAGE.read_text().splitlines() if "`tests" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        ([ROOT / name for name in re.findall(r"`(tests[^`]*)`", where)], set(tiers.split(", ")))
        for _, _, where, tiers in cells
    ]


def test_every_place_exists() -> None:
    assert all(place.exists() for places, _ in rows() for place in places)


def test_every_test_has_a_line() -> None:
    named = [place for places, _ in rows() for place in places]
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len(tests) > 90
    missing = [t for t in tests if not any(t == place or place in t.parents for place in named)]
    assert not missing


def tiers_of(test: Path) -> set[str]:
    text = test.read_text()
    found = {tier for tier in TIERS if re.search(MARK.format(tier), text, re.MULTILINE)}
    return found if "browser" in found else found | {"fast"}


def test_a_line_names_its_tiers() -> None:
    for places, tiers in rows():
        files = [f for p in places for f in ([p] if p.is_file() else sorted(p.rglob("test_*.py")))]
        beside = [f for f in files if f != BROWSER] or files  # it has a line of its own
        for tier in TIERS:
            assert (tier in tiers) == any(tier in tiers_of(f) for f in beside), (tier, places)
