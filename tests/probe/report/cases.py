"""Run folders written by hand, and pages taken apart."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HOSTILE = (
    "</script><script>alert(1)</script> <!-- ]]> <img src=http://127.0.0.1:9/x onerror=alert(2)> "
    "\0\x1b[31m\x7f\u2028\u2029 \u202e\u2066\u05e9\u05dc\u05d5\u05dd مرحبا "
    "\U0001f600\U0001f468\u200d\U0001f469 "
    "&amp;&lt; {{x}} \ud800 'quoted\" \\u0041 __proto__"
)


def step(number: int, **changes: Any) -> dict[str, Any]:
    """The record of a step: 100 tokens in a second, two experts that share 3 to 1."""
    layer = {"assigned": [75, 25], "dropped": 0.25, "balance": 1.5, "entropy": 0.5}
    record = {
        "kind": "step",
        "step": number,
        "loss": 2.0 / number,
        "bits": 3.0 / number,
        "terms": {"language": 2.0 / number, "balance": 1.5},
        "learning_rate": 0.1,
        "gradient_norm": 1.0,
        "targets": 100,
        "tokens": 100 * number,
        "tokens_per_second": 100.0,
        "layers": {"decoder.1.moe": layer},
        "skipped": "",
    }
    return {**record, **changes}


def evaluation(number: int, bits: float | None = 2.5) -> dict[str, Any]:
    """The record of an evaluation that took half a second."""
    return {"kind": "evaluation", "step": number, "loss": 1.7, "bits": bits, "seconds": 0.5}


def event(number: int, name: str, text: str, layer: str | None = None) -> dict[str, Any]:
    """The record of an event."""
    return {"kind": "event", "step": number, "name": name, "layer": layer, "text": text}


def run_folder(folder: Path, records: list[Any], tail: str = "") -> Path:
    """A run without checkpoint; ``tail`` follows the last whole line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + tail, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Element:
    """An element's name and attributes, and the text directly behind its start."""

    name: str
    attributes: dict[str, str | None]
    text: str


class _Parts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), ""))
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            last = self.elements[-1]
            self.elements[-1] = Element(last.name, last.attributes, last.text + data)


def elements(page: Path) -> list[Element]:
    """The elements of an HTML file, as a parser sees them."""
    parser = _Parts()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    return parser.elements


def document(page: Path) -> dict[str, Any]:
    """The content of the page's island; there must be one."""
    (island,) = [e for e in elements(page) if e.attributes.get("type") == "application/json"]
    return json.loads(island.text)


def frame(page: Path) -> str:
    """The page without the content of its island."""
    text = page.read_text(encoding="utf-8")
    begin = text.index(">", text.index('<script type="application/json"')) + 1
    return text[:begin] + text[text.index("</script>", begin) :]


def strings(value: Any) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def blocks(page: Path, section: str) -> list[dict[str, Any]]:
    """The blocks of one section of a page."""
    (found,) = [each for each in document(page)["sections"] if each["name"] == section]
    return found["blocks"]


def charts(value: Any) -> dict[str, dict[str, Any]]:
    """The charts anywhere in a JSON value, by name."""
    if isinstance(value, list):
        return {name: chart for part in value for name, chart in charts(part).items()}
    if not isinstance(value, dict):
        return {}
    if value.get("type") == "chart":
        return {value["chart"]["name"]: value["chart"]}
    return charts(list(value.values()))
