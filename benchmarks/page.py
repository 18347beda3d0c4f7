"""What the visitor's page costs: requests, bytes, time to the first answer on a slow phone; looks and processor of the camera.

    python -m benchmarks.page                    weight and first answer, of a service that it starts itself
    python -m benchmarks.page --camera 30        the live camera for 30 seconds instead
    python -m benchmarks.page --url URL          of a service that runs already, such as one of an earlier version

The phone is emulated by Chromium: 390 x 844 pixels, a processor four times as slow, 1.6 Mbit/s down, 0.75 Mbit/s up, 150 ms of
latency. The weight is that of the first page before anything is asked.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import psutil
from PIL import Image

from benchmarks.quiet import wait_for_quiet
from fruits.photos.generated import samples
from fruits.photos.generated.generator import VARIETIES, photo

PHONE: Final = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
SLOWER: Final = 4
NETWORK: Final = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 1.6e6 / 8,
    "uploadThroughput": 0.75e6 / 8,
}
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
                "--disable-component-update", "--disable-dev-shm-usage")  # fmt: skip
#: When everything has come that the page asks for by itself.
_IDLE_S: Final = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--url", help="of a running service; one is started by default")
    parser.add_argument("--repeat", type=int, default=5, help="visits; the median is told")
    parser.add_argument("--camera", type=float, metavar="SECONDS", help="measure the live camera instead")
    parser.add_argument("--busy", action="store_true", help="do not wait for a quiet machine")
    parser.add_argument("--json", action="store_true")
    choices = parser.parse_args()
    with _service(choices.url) as url:
        if not choices.busy:
            wait_for_quiet()
        found = camera(url, choices.camera) if choices.camera else visits(url, choices.repeat)
    if choices.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:32} {value}")


def visits(url: str, repeat: int) -> dict[str, Any]:
    """Open the page as a new visitor some times, and ask about a photo as soon as that is possible."""
    picture = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": samples.sample(next(iter(samples.SAMPLES)))}
    with chromium() as browser:
        found = [_visit(browser, url, picture) for _ in range(repeat)]
    told: dict[str, Any] = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in told.items()}


def _visit(browser: Any, url: str, picture: dict[str, Any]) -> dict[str, float]:
    context = browser.new_context(**PHONE, locale="en-GB", service_workers="block")
    page = context.new_page()
    wire = context.new_cdp_session(page)
    sizes: list[float] = []
    wire.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
    wire.send("Network.enable")
    wire.send("Network.setCacheDisabled", {"cacheDisabled": True})
    wire.send("Network.emulateNetworkConditions", NETWORK)
    wire.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    page.goto(url, wait_until="commit")
    page.wait_for_function("() => document.querySelector('[data-language][aria-pressed]')")
    usable = page.evaluate("performance.now()") / 1000
    page.set_input_files("#files", [picture])
    page.wait_for_function("() => document.querySelector('.card:not([aria-busy]) h2')", polling=50)
    answered = page.evaluate("performance.now()") / 1000
    context.close()

    # The weight on its own: nothing asked.
    context = browser.new_context(**PHONE, locale="en-GB", service_workers="block")
    page = context.new_page()
    wire = context.new_cdp_session(page)
    sizes.clear()
    wire.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
    wire.send("Network.enable")
    page.goto(url, wait_until="networkidle")
    page.wait_for_timeout(1000 * _IDLE_S)
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
    context.close()
    return {
        "requests": len(sizes),
        "kB on the wire": sum(sizes) / 1000,
        "first paint, unthrottled, s": first / 1000,
        "usable on the phone, s": usable,
        "first answer on the phone, s": answered,
    }


def camera(url: str, seconds: float) -> dict[str, Any]:
    """Run the live camera on a made video; return answers per second and the share of one core of browser and page."""
    with tempfile.TemporaryDirectory(prefix="fruits-camera-") as folder:
        found: dict[str, Any] = {}
        for name, moving in (("moving", True), ("still", False)):
            video = Path(folder) / f"{name}.mjpeg"
            video.write_bytes(made_video(moving=moving))
            found |= {f"{name}: {what}": value for what, value in _watch(url, video, seconds).items()}
    return found


def made_video(*, moving: bool, frames: int = 40) -> bytes:
    """Return a video of generated fruit on a turntable as motion JPEG; a still one repeats one frame."""
    size = (640, 480)
    pictures = []
    for number in range(frames if moving else 1):
        variety = VARIETIES[number // 20 % len(VARIETIES)]
        fruit = Image.fromarray(photo(variety, "", 6 * number, seed=3, size=360))
        frame = Image.new("RGB", size, "white")
        frame.paste(fruit, (140 + 4 * (number % 10), 60))
        out = BytesIO()
        frame.save(out, "JPEG", quality=85)
        pictures.append(out.getvalue())
    return b"".join(pictures if moving else pictures * frames)


def _watch(url: str, video: Path, seconds: float) -> dict[str, Any]:
    with chromium(*fake_camera(video)) as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB", service_workers="block",
                                      permissions=["camera"])  # fmt: skip
        page = context.new_page()
        page.goto(url)
        page.locator("#live").click()
        page.wait_for_function(
            "() => Number(document.querySelector('.viewfinder')?.dataset.answers) > 0", timeout=120_000
        )
        processes = _of(browser)
        before, looked, started = _seconds(processes), _counts(page), time.perf_counter()
        page.wait_for_timeout(1000 * seconds)
        used, last = _seconds(processes) - before, _counts(page)
        wall = time.perf_counter() - started
        context.close()
    return {
        "answers per second": round((last[0] - looked[0]) / wall, 2),
        "frames compared per second": round((last[1] - looked[1]) / wall, 2),
        "share of one core": round(used / wall, 2),
    }


def fake_camera(video: Path) -> tuple[str, ...]:
    """Return Chromium's options for a camera that shows a video (.mjpeg or .y4m), allowed without a question."""
    return (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", f"--use-file-for-fake-video-capture={video}",
    )  # fmt: skip


def _counts(page: Any) -> tuple[int, int]:
    told = page.evaluate("() => ({ ...document.querySelector('.viewfinder').dataset })")
    return int(told["answers"]), int(told["frames"])


def _of(browser: Any) -> list[psutil.Process]:
    """Return the browser's processes: the children of this one that are Chromium, with theirs."""
    del browser
    return [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]


def _seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for one in processes:
        with suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a developer's tool

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        sys.exit("no browser: found neither chromium nor google-chrome; install chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


@contextmanager
def _service(url: str | None) -> Iterator[str]:
    """Yield the address of a service: the given one, or one on the recogniser of the package."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="fruits-page-") as data, served(Path(data)) as own:
        yield own


@contextmanager
def served(data: Path) -> Iterator[str]:
    """Yield the address of a service on the recogniser of the package that keeps its data in a folder."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fruits",
            "serve",
            "--port",
            "0",
            "--data",
            str(data),
            "--rate",
            "0",
            "--token-rate",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://[0-9.]+:\d+", process.stdout.readline())
        if address is None:
            sys.exit("'fruits serve' did not start; run it by hand to see why")
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{address[0]}/readyz"):
                break
            time.sleep(0.1)
        yield address[0]
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
