"""A headless Chromium for tests and screenshots, spoken to by WebDriver's plain HTTP (chromium and chromium-driver of Debian).

    python tests/browser.py results/Phantom/report/report.html docs/report.png --width 1280 --height 1500 [--dark] [--at '#id']
"""
from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMIT_S = 60


def missing() -> str:
    """What is not installed; "" where a browser can be started."""
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


class Browser:
    """One window. Every call waits until the browser has answered; an error of the page or the driver is raised as RuntimeError."""

    def __init__(self, address: str, width: int, height: int, dark: bool, network: bool):
        self._address = address
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        words += [] if network else ["--host-resolver-rules=MAP * ~NOTFOUND"]
        asked = {"browserName": "chrome", "goog:chromeOptions": {"args": words, "binary": shutil.which("chromium")},
                 "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]
        self.look(width, height, dark)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._send("POST", f"/session/{self._session}/{path}", body or {})

    def _order(self, name: str, **values: Any) -> None:
        """A command of Chromium's own protocol."""
        self._call("goog/cdp/execute", {"cmd": name, "params": values})

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Size of what is seen, in CSS pixels, and what the user prefers."""
        self._order("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        wished = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self._order("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in wished.items()])

    def open(self, page: Path) -> None:
        self._call("url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *given: Any) -> Any:
        """What a function body returns in the page."""
        return self._call("execute/sync", {"script": script, "args": list(given)})

    def _found(self, css: str) -> str:
        return next(iter(self._call("element", {"using": "css selector", "value": css}).values()))

    def click(self, css: str) -> None:
        """A click of the mouse, as a user makes it: it fails where something else lies over the place."""
        self._call(f"element/{self._found(css)}/click")

    def type(self, css: str, keys: str) -> None:
        """Keys sent to an element that can have the focus."""
        self._call(f"element/{self._found(css)}/value", {"text": keys})

    def texts(self, css: str) -> list[str]:
        return self.run("return Array.from(document.querySelectorAll(arguments[0]), one => one.innerText.trim())", css)

    def log(self, kind: str = "browser") -> list[dict[str, Any]]:
        """What the page wrote to the console (`browser`), or what it fetched (`performance`), since the last call."""
        return self._call("se/log", {"type": kind})

    def fetched(self) -> list[str]:
        """Addresses that the page has asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._send("GET", f"/session/{self._session}/screenshot"))

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self._call("print", {"background": True}))

    def close(self) -> None:
        self._send("DELETE", f"/session/{self._session}")


@contextmanager
def browser(width: int = 1280, height: int = 900, dark: bool = False, network: bool = False) -> Iterator[Browser]:
    """A browser that is gone afterwards, its driver and its files with it."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as folder:
        process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**_environment(), "HOME": folder, "TMPDIR": folder})
        try:
            assert process.stdout is not None
            port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            opened = Browser(f"http://127.0.0.1:{port}", width, height, dark, network)
            try:
                yield opened
            finally:
                opened.close()
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", default="", help="selector of the element that is scrolled to the top")
    options = parser.parse_args(words)
    with browser(options.width, options.height, options.dark) as window:
        window.open(options.page)
        if options.at:
            window.run("document.querySelector(arguments[0]).scrollIntoView()", options.at)
        time.sleep(0.5)
        options.picture.write_bytes(window.screenshot())


if __name__ == "__main__":
    main()
