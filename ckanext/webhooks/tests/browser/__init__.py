"""A browser that fills in CKAN's forms: Chromium, driven by chromedriver.

WebDriver is JSON over HTTP, and the few commands needed here need no library,
whose own requirements would pull at the versions that CKAN pins. Chromium's headless shell
is preferred: it is the same engine without windows, and takes a third of the processor's time.
"""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import requests

from ..site import Process, free_port

# What runs as root, shows nothing and asks nobody on the network.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,800",
    # What scrolls smoothly cannot be clicked meanwhile.
    "--force-prefers-reduced-motion",
)
HEADLESS_SHELL = "chromium-headless-shell"
# How WebDriver names a reference to an element, by its specification.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_PATIENCE = 60.0

T = TypeVar("T")


def missing() -> str | None:
    """Say which program is missing, if one is."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return name
    return None


class Browser:
    """``with Browser(folder) as browser:`` is a browser that knows nobody yet.

    :param folder: for its profile and its log
    :param scripts: whether it runs those of the pages
    """

    def __init__(self, folder: Path, scripts: bool = True) -> None:
        self.folder = folder / "browser"
        self.scripts = scripts
        self.url = f"http://127.0.0.1:{free_port()}"
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> Browser:
        self.folder.mkdir(parents=True)
        port = self.url.rsplit(":", 1)[1]
        self._driver = Process(
            "chromedriver", ["chromedriver", f"--port={port}"], self.folder, os.environ
        )
        try:
            _await(self._is_ready, "chromedriver is not ready")
            self._session = self._begin()
        except BaseException:
            self._driver.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._driver.kill()
        self._http.close()

    def _is_ready(self) -> bool:
        try:
            return bool(self._http.get(f"{self.url}/status", timeout=5).json()["value"]["ready"])
        except requests.ConnectionError:
            return False

    def _begin(self) -> str:
        chromium: dict[str, Any] = {
            "args": [*ARGUMENTS, f"--user-data-dir={self.folder / 'profile'}"]
        }
        if shell := shutil.which(HEADLESS_SHELL):
            chromium["binary"] = str(self._with_a_page(shell))
        options = {"goog:chromeOptions": chromium, "goog:loggingPrefs": {"browser": "SEVERE"}}
        answer = self._send("POST", "/session", capabilities={"alwaysMatch": options})
        session = f"/session/{answer['sessionId']}"
        if not self.scripts:
            command = {"cmd": "Emulation.setScriptExecutionDisabled", "params": {"value": True}}
            self._send("POST", f"{session}/goog/cdp/execute", **command)
        return session

    def _with_a_page(self, shell: str) -> Path:
        """Have the headless shell open a page: chromedriver waits for one, and asks for none."""
        program = self.folder / HEADLESS_SHELL
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(shell)} "$@" about:blank\n')
        program.chmod(0o755)
        return program

    def _send(self, method: str, path: str, **data: Any) -> Any:
        sent = data if method == "POST" else None
        answer = self._http.request(method, self.url + path, json=sent, timeout=60)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        self._send("POST", f"{self._session}/url", url=url)

    @property
    def location(self) -> str:
        return str(self._send("GET", f"{self._session}/url"))

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self.run("return document.body.innerText"))

    def type(self, selector: str, text: str) -> None:
        """Type into a field, in place of what it holds."""
        element = self._find(selector)
        self._send("POST", f"{element}/clear")
        self._send("POST", f"{element}/value", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option, also where a script hides the list behind one of its own."""
        self._find(selector)
        self.run(
            "const list = document.querySelector(arguments[0]); list.value = arguments[1];"
            "list.dispatchEvent(new Event('change', {bubbles: true}))",
            selector,
            value,
        )

    def click(self, selector: str) -> None:
        """Click as soon as that can be done."""
        _await(lambda: self._clicked(selector), f"{selector} cannot be clicked")

    def submit(self, selector: str) -> None:
        """Click what leaves the page, and wait for the next one."""
        self.run("window.isOld = true")
        self.click(selector)
        _await(self._is_new, f"no page came after {selector}")

    def has(self, selector: str) -> bool:
        return bool(self.run("return !!document.querySelector(arguments[0])", selector))

    def picture(self, width: int = 1200) -> bytes:
        """Give the whole page as PNG.

        :param width: of the screen, in pixels; a phone's is some 400
        """
        screen = {"width": width, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setScrollbarsHidden", hidden=True)
        self._devtools("Emulation.setDeviceMetricsOverride", **screen, height=800)
        # Pages of thousands of lines are seen by their beginning.
        height = min(int(self.run("return document.documentElement.scrollHeight")), 4000)
        self._devtools("Emulation.setDeviceMetricsOverride", **screen, height=height)
        drawn = "requestAnimationFrame(() => requestAnimationFrame(done))"
        self.run(f"return new Promise(done => {drawn})")
        taken = base64.b64decode(self._send("GET", f"{self._session}/screenshot"))
        self._devtools("Emulation.clearDeviceMetricsOverride")
        return taken

    def _devtools(self, command: str, **parameters: Any) -> None:
        self._send("POST", f"{self._session}/goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """Give the errors that its console has had since this was last asked."""
        found = self._send("POST", f"{self._session}/se/log", type="browser")
        return [entry["message"] for entry in found]

    def wait_until(self, found: Callable[[], bool]) -> None:
        _await(found, f"what was waited for did not come on {self.location}")

    def wait_for(self, selector: str) -> None:
        self._find(selector)

    def _is_new(self) -> bool:
        try:
            return bool(self.run("return !window.isOld && document.readyState == 'complete'"))
        except RuntimeError:  # between two pages
            return False

    def _clicked(self, selector: str) -> bool:
        try:
            self._send("POST", f"{self._find(selector)}/click")
        except RuntimeError:  # it moves, or something is in front of it
            return False
        return True

    def _find(self, selector: str) -> str:
        """Give the path of an element, which may still be to come."""
        _await(lambda: self.has(selector), f"{selector} is not on {self.location}")
        found = self._send("POST", f"{self._session}/element", using="css selector", value=selector)
        return f"{self._session}/element/{found[_ELEMENT]}"

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script of ours in the page, also where the page's own do not run.

        :returns: what it returns, of a promise what that comes to
        """
        return self._send(
            "POST", f"{self._session}/execute/sync", script=script, args=list(arguments)
        )


def _await(found: Callable[[], T], complaint: str) -> T:
    deadline = time.monotonic() + _PATIENCE
    while not (value := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.05)
    return value
