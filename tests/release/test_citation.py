"""One version everywhere."""

import tomllib
from pathlib import Path

import turnout

ROOT = Path(__file__).parent.parent.parent


def test_package_metadata_and_citation_name_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert project["version"] == turnout.__version__
    assert f"version: {turnout.__version__}" in citation
    assert f"license: {project['license']}" in citation
    assert f"## [{turnout.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
