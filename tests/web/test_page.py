"""The page in a real browser: every tab, by mouse and by keyboard, in two widths, and its errors."""

import base64
import dataclasses
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from lbae.web.backend.bundle_backend import BundleBackend
from lbae.web.limits import Limits
from tests.web.conftest import image_file, listening, pixels_of

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


def test_files_have_headers_that_forbid_loading_from_elsewhere(url):
    page = httpx.get(f"{url}/")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("style.css", "page.js"):
        assert name in page.text
        file = httpx.get(f"{url}/{name}")
        assert file.status_code == 200
        assert "default-src 'none'" in file.headers["content-security-policy"]
        assert file.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/..%2fapp.py").status_code == 404


def test_no_file_names_another_server():
    files = (Path(__file__).parents[2] / "lbae" / "web" / "page" / "static").iterdir()
    assert not [
        file.name for file in files if "http://" in file.read_text() or "https://" in file.read_text()
    ]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=[1280, 390], ids=["wide", "phone"])
def page(chromium, url, request):
    """The page. Afterwards the console must hold no error and nothing may be wider than the window."""
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


def sources(page: Page) -> list[str | None]:
    """The pictures of the grid."""
    return [image.get_attribute("src") for image in page.locator(".grid img").all()]


@browser
@pytest.mark.slow
def test_sampling(page):
    expect(page.locator(".grid img")).to_have_count(36)
    free = sources(page)
    page.get_by_label("Images").fill("4")
    page.get_by_text("Choose attributes").click()
    page.locator("select[name=a]").select_option("with")
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator(".grid img")).to_have_count(4)
    assert sources(page) != free[:4]
    page.get_by_text("The same with curl").first.click()
    expect(page.locator("#sample .curl pre")).to_contain_text('{"n":4,"seed":0,"given":{"a":true}}')
    seed = page.get_by_label("Seed")
    page.get_by_label("Images").fill("300")
    page.get_by_role("button", name="Random seed").click()
    assert seed.input_value() != "0"
    expect(page.locator(".grid img")).to_have_count(
        4
    )  # 300 exceeds the form's maximum, so no request was sent
    page.locator(".grid button").first.click()
    with page.expect_download() as download:
        page.locator("#sample").get_by_text("Download").click()
    assert download.value.suggested_filename == "sample.png"
    assert pixels_of(Path(download.value.path()).read_bytes()).shape == (16, 16, 3)


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
    expect(page.locator("#edit .curl pre")).to_have_text(re.compile("(/v1/edit[^$]*){2}"))
    page.get_by_role("button", name="Reset sliders").click()
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")


@browser
@pytest.mark.slow
def test_variations_of_an_upload_by_strength(page, tmp_path):
    page.get_by_role("tab", name="Vary").click()
    page.get_by_role("button", name="Vary", exact=True).click()
    expect(page.locator("#vary .status")).to_contain_text("Choose an image first")
    uploaded(page, "varied", 1)
    variations = page.locator("#vary .grid img")
    expect(variations).to_have_count(16)
    page.get_by_label("Variations").fill("3")
    page.locator("#vary input[type=range]").fill("0")
    expect(variations).to_have_count(3)
    same = [image.get_attribute("src") for image in variations.all()]
    assert len(set(same)) == 1
    page.locator("#vary input[type=range]").fill("1")
    expect(page.locator("#vary .curl pre")).to_contain_text('"n":3,"strength":1,"seed":0')
    expect(variations.first).not_to_have_attribute("src", same[0])
    page.get_by_role("button", name="Draw others").click()
    expect(page.locator("#vary .curl pre")).to_contain_text('"seed":1')
    page.locator("#vary").get_by_text("The same with curl").click()
    command = page.locator("#vary .curl pre").inner_text()
    subprocess.run([*shlex.split(command), "--silent", "--fail"], cwd=tmp_path, check=True)
    assert pixels_of((tmp_path / "variations.png").read_bytes()).shape == (2 * 34 + 2, 2 * 34 + 2, 3)
    variations.first.click()
    page.locator("#vary").get_by_role("button", name="Edit").click()
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")


@browser
@pytest.mark.slow
def test_a_path_between_uploads_and_examples(page):
    page.get_by_role("tab", name="Sample").focus()
    for key, tab in (("End", "Edit"), ("ArrowRight", "Sample"), ("ArrowLeft", "Edit"), ("Home", "Sample")):
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=tab)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Interpolate")).to_be_focused()
    uploaded(page, "from", 1)
    page.locator("[data-name=to] .examples button").last.click()
    expect(page.locator("#interpolate .count")).to_have_text("Frame 13 of 24")
    page.locator("#interpolate input[type=range]").focus()
    page.keyboard.press("End")
    expect(page.locator("#interpolate .count")).to_have_text("Frame 24 of 24")
    with page.expect_download() as frame:
        page.get_by_text("Download frame").click()
    assert pixels_of(Path(frame.value.path()).read_bytes()).shape == (16, 16, 3)
    page.get_by_label("Frames").fill("5")
    page.keyboard.press("Enter")
    expect(page.locator("#interpolate .count")).to_have_text("Frame 3 of 5")
    with page.expect_download() as download:
        page.get_by_text("Download animation").click()
    assert Path(download.value.path()).read_bytes()[8:12] == b"WEBP"


@browser
@pytest.mark.slow
def test_a_file_that_is_not_an_image_is_reported_on_its_tab(chromium, url):
    page = chromium.new_page()
    page.goto(f"{url}/#edit")
    slot = page.locator("[data-name=edited] input[type=file]")
    slot.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.locator("#edit .status")).to_have_text("a.txt is not an image.")
    slot.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"words"})
    expect(page.locator("#edit .status")).to_contain_text("the image cannot be read")
    for _ in range(2):  # choosing the same file again reads it again
        uploaded(page, "edited", 1)
        expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
    page.close()


@browser
@pytest.mark.slow
def test_a_dropped_file_is_sent_once_and_the_curl_command_gives_the_shown_image(page, tmp_path, url):
    page.get_by_role("tab", name="Edit").click()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    data = image_file(7, (40, 40))
    page.evaluate(
        """text => {
            const files = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            files.items.add(new File([bytes], "a.png", {type: "image/png"}));
            const slot = document.querySelector("[data-name=edited] .drop");
            for (const kind of ["dragenter", "dragover", "drop"])
                slot.dispatchEvent(
                    new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true}));
        }""",
        base64.b64encode(data).decode(),
    )
    expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
    for strength in ("0.4", "1"):
        page.locator("#edit input[name=a]").fill(strength)
        expect(page.locator("#edit .curl pre")).to_contain_text(f'"strength":{strength}')
    assert len([body for body in sent if base64.b64encode(data[:300]).decode() in body]) == 1
    page.locator("#edit").get_by_text("The same with curl").click()
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )  # as on a page by plain HTTP
    page.locator("#edit .curl button").click()
    expect(page.locator("#edit .curl button")).to_have_text("Copied")
    command = page.locator("#edit .curl pre").inner_text()
    assert len(command) < 500
    subprocess.run([*shlex.split(command), "--silent", "--fail"], cwd=tmp_path, check=True)
    with page.expect_download() as download:
        page.locator("#edit").get_by_text("Download").click()
    assert Path(download.value.path()).read_bytes() == (tmp_path / "edited.png").read_bytes()


@browser
@pytest.mark.slow
def test_the_page_follows_the_readers_colour_scheme(chromium, url):
    backs = []
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(url)
        expect(page.locator(".grid img")).to_have_count(36)
        levels = [
            page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color")
        ]
        backs.append([sum(map(int, re.findall(r"\d+", level))) for level in levels])
        page.close()
    (light, dark_ink), (dark, light_ink) = backs
    assert light > 700 > 150 > dark
    assert light_ink > 600 > 150 > dark_ink


@browser
@pytest.mark.slow
def test_after_a_hot_swap_nothing_of_the_previous_bundle_is_used(chromium, bundle):
    other = dataclasses.replace(
        bundle, fingerprint="another", attributes=dataclasses.replace(bundle.attributes, names=("c", "d"))
    )
    answering = [BundleBackend(bundle)]

    async def opened():
        answering[0] = BundleBackend(answering[0].bundle)  # made in the event loop that it runs in
        return lambda: answering[0]

    page = chromium.new_page()
    with listening(opened, Limits()) as url:
        page.goto(url)
        page.locator(".grid button").first.click()
        page.get_by_role("button", name="Edit", exact=True).click()
        page.locator("#edit input[name=a]").fill("1")
        expect(page.locator("#edit .status")).to_contain_text("bits changed.")
        answering[0] = BundleBackend(other)
        page.locator("#edit input[name=b]").fill("1")
        expect(page.locator("#edit .status")).to_contain_text("The service now uses another bundle")
        expect(page.locator("#model")).to_contain_text("bundle another")
        expect(page.locator("#edit .strengths")).to_contain_text("c")
        expect(page.locator("#edit .slot .drop img")).to_have_count(0)
        uploaded(page, "edited", 1)
        expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
        answering[0] = BundleBackend(bundle)
        page.locator("#edit input[name=c]").fill("1")
        expect(page.locator("#model")).to_contain_text("bundle abc")
        expect(page.locator("#edit .slot .drop img")).to_have_count(1)  # a file can be encoded by any bundle
        expect(page.locator("#edit .status")).to_have_text("0 bits changed.")
    page.close()


@browser
@pytest.mark.slow
def test_the_page_under_a_prefix(chromium, bundle):
    page = chromium.new_page()
    with listening(bundle, Limits(), root_path="/models/faces") as url:
        page.goto(f"{url}/models/faces/")
        expect(page.locator(".grid img")).to_have_count(36)
        expect(page.locator("#sample .curl pre")).to_contain_text(f"{url}/models/faces/v1/sample")
    page.close()


@browser
@pytest.mark.slow
def test_a_stopped_service_and_one_that_needs_a_key(chromium, bundle):
    page = chromium.new_page()
    with listening(bundle, Limits(keys=("secret",))) as url:
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("a valid API key is needed")
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Use").click()
        expect(page.locator(".grid img")).to_have_count(36)
    port = int(url.rsplit(":", 1)[1])
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator("#sample .status")).to_contain_text("The service does not respond")
    with listening(bundle, Limits(keys=("secret",)), port):
        page.get_by_role("button", name="Random seed").click()
        expect(page.locator("#sample .status")).to_have_text("")
    with listening(bundle, Limits(keys=("changed",)), port):
        page.get_by_role("button", name="Sample", exact=True).click()
        expect(page.locator("#sample .status")).to_contain_text("a valid API key is needed")
        page.get_by_label("API key").fill("changed")
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_label("API key")).to_be_hidden()
        page.get_by_role("button", name="Sample", exact=True).click()
        expect(page.locator("#sample .status")).to_have_text("")
    assert page.locator(".slot .drop").count() == 4  # nothing was built twice
    assert page.locator("#edit .strengths input").count() == 2
    page.close()


@browser
@pytest.mark.slow
def test_a_page_whose_service_fails_at_first_offers_a_retry(chromium, url):
    page = chromium.new_page()
    page.route("**/v1/model", lambda route: route.abort())
    page.goto(url)
    expect(page.locator("#model")).to_contain_text("The service does not respond")
    page.unroute("**/v1/model")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".grid img")).to_have_count(36)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    page.close()
