"""The page in a real browser: every tab, by mouse and by keyboard, in two widths, and what goes wrong."""

import shutil
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from lbae.web.guard import Limits
from tests.web.conftest import image_file, listening

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


def test_files_come_with_headers_that_forbid_what_is_elsewhere(url):
    page = httpx.get(f"{url}/")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("style.css", "page.js"):
        assert name in page.text
        file = httpx.get(f"{url}/{name}")
        assert file.status_code == 200
        assert "default-src 'none'" in file.headers["content-security-policy"]
        assert file.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/..%2fapp.py").status_code == 404


def test_nothing_outside_is_named():
    files = (Path(__file__).parents[2] / "lbae" / "web" / "static").iterdir()
    assert not [file.name for file in files if "http://" in file.read_text() or "https://" in file.read_text()]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=[1280, 390], ids=["wide", "phone"])
def page(chromium, url, request):
    """The page, with a check that nothing was logged as an error and nothing is wider than the window."""
    opened = chromium.new_page(viewport={"width": request.param, "height": 800})
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.goto(url)
    yield opened
    assert wrong == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= request.param
    opened.close()


def uploaded(page: Page, name: str, seed: int) -> None:
    file = {"name": "a.png", "mimeType": "image/png", "buffer": image_file(seed, (20, 20))}
    page.locator(f"[data-name={name}] input[type=file]").set_input_files(file)


@browser
@pytest.mark.slow
def test_sampling(page):
    expect(page.locator(".grid img")).to_have_count(36)
    first = page.locator(".grid img").first.get_attribute("src")
    page.get_by_label("Images").fill("4")
    page.get_by_text("With attributes").click()
    page.locator("select[name=a]").select_option("with")
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator(".grid img")).to_have_count(4)
    assert page.locator(".grid img").first.get_attribute("src") != first
    page.get_by_text("The same with curl").first.click()
    expect(page.locator("#sample .curl pre")).to_contain_text('{"n":4,"seed":0,"given":{"a":true}}')


@browser
@pytest.mark.slow
def test_a_sample_is_edited(page):
    page.locator(".grid button").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
    page.locator("#edit input[name=a]").fill("1")
    page.locator("#edit input[name=b]").fill("-0.5")
    expect(page.locator("#edit .status")).not_to_have_text("0 bits changed.")
    page.locator("#edit").get_by_text("The same with curl").click()
    assert page.locator("#edit .curl pre").inner_text().count("/v1/edit") == 2
    page.get_by_role("button", name="All to the middle").click()
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")


@browser
@pytest.mark.slow
def test_a_path_between_uploads_and_examples(page):
    page.get_by_role("tab", name="Sample").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Interpolate")).to_be_focused()
    uploaded(page, "from", 1)
    page.locator("[data-name=to] .examples button").last.click()
    expect(page.locator("#interpolate .count")).to_have_text("Frame 13 of 24")
    page.locator("#interpolate input[type=range]").focus()
    page.keyboard.press("End")
    expect(page.locator("#interpolate .count")).to_have_text("Frame 24 of 24")
    page.get_by_label("Frames").fill("5")
    page.keyboard.press("Enter")
    expect(page.locator("#interpolate .count")).to_have_text("Frame 3 of 5")
    with page.expect_download() as download:
        page.get_by_text("Download the animation").click()
    assert Path(download.value.path()).read_bytes()[8:12] == b"WEBP"


@browser
@pytest.mark.slow
def test_what_is_no_image_is_said_where_it_was_dropped(chromium, url):
    page = chromium.new_page()
    page.goto(f"{url}/#edit")
    slot = page.locator("[data-name=edited] input[type=file]")
    slot.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.locator("#edit .status")).to_have_text("a.txt is no image.")
    slot.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"words"})
    expect(page.locator("#edit .status")).to_contain_text("not an image that can be read")
    uploaded(page, "edited", 1)
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
    page.close()


@browser
@pytest.mark.slow
def test_a_service_that_went_away_and_one_that_asks_for_a_key(chromium, bundle):
    page = chromium.new_page()
    with listening(bundle, Limits(keys=("secret",))) as url:
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("a valid API key is needed")
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Use").click()
        expect(page.locator(".grid img")).to_have_count(36)
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator("#sample .status")).to_contain_text("The service does not answer")
    with listening(bundle, Limits(keys=("secret",)), int(url.rsplit(":", 1)[1])):
        page.get_by_role("button", name="By chance").click()
        expect(page.locator("#sample .status")).to_have_text("")
    page.close()
