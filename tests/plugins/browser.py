"""A real Chromium for tests of pages; without one they are skipped, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--window-size=1280,900",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A selenium driver that logs the console and every request."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, server = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or server is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    driver.get("about:blank")
    try:
        yield driver
    finally:
        driver.quit()


def resized(driver: Any, width: int, height: int = 844) -> None:
    """Give the page a screen of that size, as a phone has it: windows have a smallest width."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def darkened(driver: Any, scheme: str) -> None:
    """Say that the user likes the `dark` or the `light`."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})


def requests(driver: Any) -> list[str]:
    """The URLs that pages asked for since the last call, but for the browser's own pages."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("chrome://", "chrome-untrusted://"))]


def console(driver: Any) -> list[str]:
    """What the console said since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]
