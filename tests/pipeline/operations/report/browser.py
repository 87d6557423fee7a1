"""Opens a page in Chromium, away from all networks, and prints as JSON what became of it.

    python browser.py PAGE WIDTH light|dark PICTURE

A program of its own: Qt's threads end with it. PICTURE is a PNG of the whole page.
"""

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"  # root has none

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtGui import QImage
from PySide6.QtWebEngineCore import (
    QWebEnginePage,
    QWebEngineProfile,
    QWebEngineSettings,
    QWebEngineUrlRequestInfo,
    QWebEngineUrlRequestInterceptor,
)
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

SCHEMES = {"dark": 0, "light": 1}
"""Chromium's numbers for what `prefers-color-scheme` asks for."""

LOOK = (Path(__file__).parent / "browser.js").read_text()
POLL_MS = 20


class Guard(QWebEngineUrlRequestInterceptor):
    """Lets the page through and data in it, nothing else; notes all that was asked for."""

    def __init__(self, page: QUrl) -> None:
        super().__init__()
        self.page = page
        self.requests: list[str] = []

    def interceptRequest(self, info: QWebEngineUrlRequestInfo) -> None:
        url = info.requestUrl()
        if url.scheme() != "data":
            self.requests.append(url.toString())
            info.block(url != self.page)


class Page(QWebEnginePage):
    """Keeps the messages of the console."""

    def __init__(self, profile: QWebEngineProfile) -> None:
        super().__init__(profile)
        self.messages: list[str] = []
        wanted = QWebEngineSettings.WebAttribute
        self.settings().setAttribute(wanted.ShowScrollBars, False)
        # So that the guard sees what a page on disk would not be allowed anyway.
        self.settings().setAttribute(wanted.LocalContentCanAccessRemoteUrls, True)

    def javaScriptConsoleMessage(self, level: Any, message: str, line: int, source: str) -> None:
        self.messages.append(message)


def picture(view: QWebEngineView, seen: dict[str, Any]) -> QImage | None:
    """Return the page as it is painted; None until its last heading is."""
    image: QImage = view.grab().toImage()
    left, top, right, bottom = map(int, seen["headings"][-1]["box"])
    line = image.copy(left, top, right - left, bottom - top)
    pixels = {line.pixel(x, y) for x in range(line.width()) for y in range(line.height())}
    return image if len(pixels) > 1 else None


def steps(page: Page, view: QWebEngineView, path: str) -> Generator[str, Any, dict[str, Any]]:
    """Yield scripts to run one after another, each gets its value; return what was seen."""
    yield LOOK
    while not (text := (yield "window.seen")):
        pass
    width, height = view.width(), json.loads(text)["height"]
    view.resize(width, height)
    while (yield "innerHeight") != height:
        pass
    yield f"window.seen = null; {LOOK}"
    while not (text := (yield "window.seen")):
        pass
    seen: dict[str, Any] = json.loads(text)
    while (image := picture(view, seen)) is None:
        yield ""
    image.save(path)
    return seen


def main(path: str, width: str, scheme: str, png: str) -> None:
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
        " --disable-dev-shm-usage"  # of which containers have little
    )
    app = QApplication([])
    url = QUrl.fromLocalFile(str(Path(path).resolve()))
    profile = QWebEngineProfile()  # off the record
    guard = Guard(url)
    profile.setUrlRequestInterceptor(guard)
    page = Page(profile)
    view = QWebEngineView(page)
    view.resize(int(width), 800)
    work = steps(page, view, png)

    def go_on(value: Any) -> None:
        try:
            script = work.send(value)
        except StopIteration as end:
            print(json.dumps({**end.value, "requests": guard.requests, "messages": page.messages}))
            page.deleteLater()  # before its profile
            page.destroyed.connect(app.quit)
        else:
            QTimer.singleShot(POLL_MS, lambda: page.runJavaScript(script, go_on))

    def loaded(good: bool) -> None:
        if not good:
            sys.exit(f"{path}: not loaded")
        go_on(None)

    page.loadFinished.connect(loaded)
    page.load(url)
    view.show()
    app.exec()


if __name__ == "__main__":
    main(*sys.argv[1:])
