"""Headless Chromium over its debugging pipe: opens a file, listens, and asks.

Messages are JSON objects that end in a zero byte; the browser reads them from descriptor 3 and
writes to 4 (``--remote-debugging-pipe``).
"""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # a container's root may not use it
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

WAIT = """new Promise(done => {
  const look = () => {
    const drawn = document.documentElement.dataset.drawn;
    if (drawn) done(drawn); else setTimeout(look, 30);
  };
  look();
})"""


@dataclass
class Page:
    """One page of the browser, and everything that happened on it."""

    to: int
    back: int
    session: str = ""
    number: int = 0
    unread: bytes = b""
    happened: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        session = {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps({**message, **session}).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.happened.append(answer)

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            part = os.read(self.back, 1 << 20)
            assert part, "chromium has gone"
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def value(self, expression: str) -> Any:
        """What an expression comes to; a promise is waited for."""
        result = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, path: Path, *, width: int = 1600, height: int = 1200, dark: bool = False) -> int:
        """Show a file of a report; returns how many charts were drawn."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.happened):
            self.happened.append(self.read())
        return self.charts()

    def charts(self) -> int:
        """Wait until the charts are drawn; returns how many."""
        return int(self.value(WAIT))

    def messages(self) -> list[str]:
        """Console messages, exceptions and complaints of the browser, its policy's included."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.happened if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """The addresses that the page asked for, those refused included."""
        sent = [e for e in self.happened if e.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def picture(self, path: Path, height: int) -> None:
        """A PNG of the page from its top."""
        width = self.value("window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with one empty page; ``profile`` is a folder for what it writes."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "browser tests need chromium: apt-get install chromium"
    (read_there, write_here), (read_here, write_there) = os.pipe(), os.pipe()
    started = subprocess.Popen(
        [
            *("bash", "-c", f'exec "$@" 3<&{read_there} 4>&{write_there}', "bash"),
            *(program, *OPTIONS, f"--user-data-dir={profile}"),
        ],
        pass_fds=(read_there, write_there),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        page = Page(write_here, read_here)
        target = page.ask("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        yield page
    finally:
        started.kill()
        started.wait()
        os.close(write_here)
        os.close(read_here)
