"""Open every page of the built site in headless Chromium or Chrome, and list the problems.

    .venv/bin/python docs/check.py [--screenshots FOLDER]

The program follows all links from the start page, and opens reports that ``sklearn-conv classify``
and ``sklearn-conv regress`` write. It reports errors on the console, pictures that do not load,
broken links and anchors, requests to another host, pages without a title, and pages that are wider
than the window, on a desktop or on a phone.
"""

import argparse
import json
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urldefrag, urljoin

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from sklearn.datasets import load_sample_images

from sklearn_conv._commands.main import main as run_command

SITE = Path(__file__).parent / "_build" / "html"
DESKTOP, PHONE = (1280, 900), (390, 844)
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
DRIVERS = ["chromedriver", "chromium.chromedriver"]
"""Names of programs; if there is no driver, Selenium fetches the one for the browser."""

REPORTS = ["classification", "regression"]
"""Names of the reports, which are written into the site."""

SHOWN = ["index", "gallery/plot_explain_decision", "api/generated/sklearn_conv.conv2d", *REPORTS]

LOOK = """
const done = arguments[0];
document.querySelectorAll("details").forEach(element => { element.open = true; });
const images = [...document.images];
images.forEach(image => { image.loading = "eager"; });
Promise.allSettled(images.map(image => image.decode())).then(() => done({
    title: document.title,
    broken: images.filter(image => !image.naturalWidth).map(image => image.src),
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    anchors: [...document.querySelectorAll("[id]")].map(element => element.id),
}));
"""


def write_reports() -> None:
    """Write reports on parts of photographs to the site: their classes, and their contrast."""
    with TemporaryDirectory() as folder:
        table, names = Path(folder) / "contrast.csv", ["temple & trees", "flower <red>"]
        rows = ["path,contrast in % & more"]
        for name in names:
            (Path(folder) / name).mkdir()
        for k, photograph in enumerate(load_sample_images().images):
            for i in range(40):
                row, column = 30 * (i // 8), 60 * (i % 8)
                part = photograph[row : row + 60, column : column + 60]
                is_wrong = i % 13 == 0  # so that there are mistakes
                path = f"{names[k ^ is_wrong]}/{k} {i}.png"
                Image.fromarray(part).save(Path(folder) / path)
                rows.append(f"{path},{part.std() / 1.28:.1f}")
        table.write_text("\n".join(rows))
        options = ["--kind", "textures", "--effort", "fast", "--size", "32,32", "--quiet"]
        numbers = ["--table", str(table), "--target", "contrast in % & more"]
        for name, command in zip(REPORTS, (["classify"], ["regress", *numbers]), strict=True):
            if run_command([*command, folder, *options, "-o", str(SITE / f"{name}.html")]):
                sys.exit(f"sklearn-conv {command[0]} wrote no report.")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without logging each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def start_browser() -> webdriver.Chrome:
    """Start the browser, and log its console and its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(which, BROWSERS)), "")
    driver = next(filter(None, map(which, DRIVERS)), None)
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        return webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        sys.exit(
            "docs/check.py needs Chromium or Chrome, and its driver; Debian's package "
            f"chromium-driver installs both. Selenium's error: {error.msg}"
        )


def is_loaded(browser: webdriver.Chrome, page: str) -> bool:
    """Return whether a page is complete; on a busy machine, `get` sometimes returns before."""
    state = browser.execute_script("return document.readyState")
    return state == "complete" and urldefrag(browser.current_url)[0] == page


def resize(browser: webdriver.Chrome, size: tuple[int, int]) -> None:
    """Set the size of the page to that of a desktop window or of a phone."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1}
    metrics["mobile"] = size is PHONE
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(browser: webdriver.Chrome) -> list[str]:
    """Return the addresses that were requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [message["params"]["request"]["url"] for message in sent]


def check(browser: webdriver.Chrome, origin: str) -> tuple[list[str], int]:
    """Follow all links from the start page, and return the problems and the number of pages."""
    problems, anchors, wanted = [], {}, {}
    waiting = [f"{origin}/{name}.html" for name in ["index", *REPORTS]]
    while waiting:
        page = waiting.pop(0)
        if page in anchors:
            continue
        name = page.removeprefix(f"{origin}/")
        resize(browser, DESKTOP)
        browser.get(page)
        WebDriverWait(browser, 30).until(partial(is_loaded, page=page))
        look = browser.execute_async_script(LOOK)
        anchors[page] = set(look["anchors"])
        problems += [f"{name}: picture {image} did not load" for image in look["broken"]]
        if not look["title"].strip() or "404" in look["title"]:
            problems.append(f"{name}: no title")
        for size in (DESKTOP, PHONE):
            resize(browser, size)
            width = browser.execute_script("return document.documentElement.scrollWidth")
            if width > size[0]:
                problems.append(f"{name}: {width} pixels wide in a window of {size[0]}")
        for entry in browser.get_log("browser"):
            if entry["level"] == "SEVERE":
                problems.append(f"{name}: {entry['message']}")
        remote = {
            url for url in requests(browser) if not url.startswith((origin, "data:", "blob:"))
        }
        problems += [f"{name}: requests {url}" for url in sorted(remote)]
        for link in look["links"]:
            target, anchor = urldefrag(urljoin(page, link))
            if target.startswith(origin):
                wanted.setdefault((target, unquote(anchor)), name)
                if target.endswith((".html", "/")) and target not in anchors:
                    waiting.append(target)
    for (target, anchor), name in wanted.items():
        path = SITE / unquote(target.removeprefix(f"{origin}/"))
        if not path.exists():
            problems.append(f"{name}: no page {target}")
        elif anchor and target in anchors and anchor not in anchors[target]:
            problems.append(f"{name}: no #{anchor} in {target}")
    return problems, len(anchors)


def take_screenshots(browser: webdriver.Chrome, origin: str, folder: Path) -> None:
    """Write screenshots of the pages in `SHOWN`, for a desktop window and for a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in SHOWN:
        for size in (DESKTOP, PHONE):
            resize(browser, size)
            browser.get(f"{origin}/{page}.html")
            browser.execute_async_script(LOOK)
            browser.save_screenshot(str(folder / f"{page.replace('/', '-')}-{size[0]}.png"))


def main() -> None:
    """Check the site that `make docs` built."""
    parser = argparse.ArgumentParser(description="Check the built documentation in a browser.")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    folder = parser.parse_args().screenshots
    if not (SITE / "index.html").exists():
        sys.exit(f"{SITE} has no index.html; run make docs to build it.")
    handler = partial(QuietHandler, directory=str(SITE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = start_browser()
    try:
        write_reports()
        origin = f"http://127.0.0.1:{server.server_port}"
        problems, n_pages = check(browser, origin)
        if folder is not None:
            take_screenshots(browser, origin, folder)
    finally:
        browser.quit()
        server.shutdown()
    print("\n".join([*problems, f"{n_pages} pages, {len(problems)} problems"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
