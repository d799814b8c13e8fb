"""A headless Chromium, spoken to over two pipes: a page as it is rendered, at a width and in a colour scheme.

https://chromedevtools.github.io/devtools-protocol/; with ``--remote-debugging-pipe`` each message ends with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
"""Where ``npm install --no-save axe-core`` puts the accessibility checker."""
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-extensions", "--disable-component-update", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One Chromium with one page. Used as a context manager; ``heard`` are the events of the page that is open."""

    def __init__(self, profile: Path) -> None:
        (its_input, self._out), (self._in, its_output) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_input, its_output)]
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *command],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for end in (its_input, its_output, *ends):
            os.close(end)
        self._rest, self._number, self._session = b"", 0, ""
        self.heard: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, file: Path, width: int, scheme: str, *, paper: bool = False) -> None:
        """Shows a file in a window that wide, ``light`` or ``dark``, or as it is printed; returns when it is loaded."""
        self.heard = []
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=[scheme_feature])
        self.ask("Page.navigate", url=file.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.heard):
            self._hear()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def inaccessible(self) -> list[str]:
        """What axe-core finds on the page: rule and element."""
        self.ask("Runtime.evaluate", expression=AXE.read_text())
        run = "axe.run().then(found => found.violations.map(one => one.id + ': ' + one.nodes[0].html))"
        answer = self.ask("Runtime.evaluate", expression=run, awaitPromise=True, returnByValue=True)
        found: list[str] = answer["result"]["value"]
        return found

    def faults(self) -> list[dict[str, Any]]:
        """Errors, warnings and messages of the console since the page was opened, and requests for anything but itself."""
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        asked = [event for event in self.heard if event["method"] == "Network.requestWillBeSent"]
        abroad = [event for event in asked if not event["params"]["request"]["url"].startswith(("file:", "data:"))]
        return [event for event in self.heard if event["method"] in said] + abroad

    def picture(self, path: Path, height: int | None = None) -> None:
        """The page as a PNG, as far down as ``height``; None: all of it."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Gives a command and waits for its answer; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._hear()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            got = os.read(self._in, 1 << 16)
            assert got, "Chromium has ended"
            self._rest += got
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if "method" in message:
            self.heard.append(message)
        return message
