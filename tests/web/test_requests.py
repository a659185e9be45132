"""Bad requests: every field of every body, image files, media types. Each gets a 4xx that names the field."""

import base64
import dataclasses
import gzip
import io
import json

import httpx
import pytest
from PIL import Image

from lbae.core.latents.packing import pack
from lbae.web.limits import Limits
from tests.web.conftest import Client, b64, image_file

GOOD = {"image": b64(image_file(1))}
LATENT = {"latent": "AAAA"}
LONG = "a" * 4097

SAMPLE = [
    *[({"n": n}, "n") for n in (0, 1025, "5", True, 2.5, None)],
    *[({"seed": seed}, "seed") for seed in (-1, 2**63, "7", True, 1.5)],
    *[({"given": given}, "given") for given in (["a"], "a", {f"a{i}": True for i in range(65)})],
    *[({"given": {"a": value}}, "given.a") for value in ("yes", 1, None)],
    ({"given": {"c": True}}, "given.c"),
    *[({"component": component}, "component") for component in (-1, 2, "0", True)],
    *[({"temperature": temperature}, "temperature") for temperature in (-0.1, 2.1, "1", True)],
    *[({"format": kind}, "format") for kind in ("gif", 1)],
    ({"count": 3}, "count"),
    ({"n": 2, "format": "png"}, None),
    ([], None),
]
INTERPOLATE = [
    *[({"items": items}, "items") for items in ([], [GOOD], [GOOD] * 17, "a", None)],
    *[({"items": [GOOD, item]}, "items.1") for item in ({}, {**GOOD, **LATENT}, 3)],
    *[({"items": [GOOD, {"latent": text}]}, "items.1.latent") for text in (5, "?", "AA==", b64(b"\xff" * 3))],
    *[({"items": [GOOD, {"image": data}]}, "items.1.image") for data in (5, "?", "", b64(b"GIF89a"))],
    ({"items": [GOOD, {"file": "/etc/hosts"}]}, "items.1.file"),
    *[({"items": [GOOD, GOOD], "steps": steps}, "steps") for steps in (1, 65, "5", True)],
    *[({"items": [GOOD, GOOD], "loop": loop}, "loop") for loop in ("yes", 1)],
    *[({"items": [GOOD, GOOD], "seed": seed}, "seed") for seed in (-1, "7", None)],
    ({"items": [GOOD, GOOD], "format": "gif"}, "format"),
    ({}, "items"),
]
EDIT = [
    *[({"item": item}, "item") for item in ({}, "a", [GOOD])],
    ({"item": {"image": b64(b"GIF89a")}, "set": ["a"]}, "item.image"),
    ({"item": {"latent": "AA=="}, "set": ["a"]}, "item.latent"),
    ({"item": GOOD}, "set"),
    *[({"item": GOOD, side: names}, side) for side in ("set", "unset") for names in ("a", ["a"] * 65)],
    *[({"item": GOOD, side: [name]}, f"{side}.0") for side in ("set", "unset") for name in ("c", 3, LONG)],
    ({"item": GOOD, "set": ["a"], "unset": ["a"]}, "set"),
    *[
        ({"item": GOOD, "set": ["a"], "strength": strength}, "strength")
        for strength in (-0.1, 2.1, "1", True)
    ],
    ({"item": GOOD, "set": ["a"], "strength": 1.5, "method": "bits"}, "strength"),
    *[({"item": GOOD, "set": ["a"], "method": method}, "method") for method in ("magic", 1)],
    ({"item": GOOD, "set": ["a"], "format": "grid"}, "format"),
]
VARIATIONS = [
    *[({"item": item}, "item") for item in ({}, "a", None)],
    ({"item": {"image": b64(b"GIF89a")}}, "item.image"),
    *[({"item": GOOD, "n": n}, "n") for n in (0, 1025, "5")],
    *[({"item": GOOD, "strength": strength}, "strength") for strength in (-0.1, 1.1, "1", True)],
    ({"item": GOOD, "seed": -1}, "seed"),
    ({"item": GOOD, "n": 2, "format": "png"}, None),
    ({"item": GOOD, "set": ["a"]}, "set"),
    ({}, "item"),
]
BATCHES = [
    *[
        (path, {"images": images}, "images")
        for path in ("encode", "reconstruct")
        for images in ([], ["A"] * 257, "A", None)
    ],
    *[(path, {"images": [3]}, "images.0") for path in ("encode", "reconstruct")],
    *[("decode", {"latents": latents}, "latents") for latents in ([], ["A"] * 257, "A")],
    ("decode", {"latents": [3]}, "latents.0"),
    ("encode", {"images": ["A"], "format": "png"}, "format"),
    ("reconstruct", {"images": ["A"], "format": "grid"}, "format"),
    ("decode", {"latents": ["A"], "format": "zip"}, "format"),
]
GENERATION = [
    *[({"prompt": prompt}, "prompt") for prompt in (3, "a" * 32_001, "a cat", "a, not a")],
    *[({"prompt": "", "n": n}, "n") for n in (0, 1025, "1", True)],
    *[({"prompt": "", "seed": seed}, "seed") for seed in (-1, "1")],
    *[({"prompt": "", "size": size}, "size") for size in ("15x15", 16, LONG)],
    *[({"prompt": "", "model": model}, "model") for model in (1, LONG)],
    ({"prompt": "", "response_format": "url"}, "response_format"),
    ({"prompt": "", "output_format": "gif"}, "output_format"),
    ({"prompt": "", "user": 1}, "user"),
    ({"prompt": "", "background": "transparent"}, "background"),
    ({"prompt": "", "partial_images": 2}, "partial_images"),
    ({"prompt": "", "stream": True}, "stream"),
    ({"prompt": "", "count": 3}, "count"),
    ({}, "prompt"),
]
CASES = [
    *[("sample", body, param) for body, param in SAMPLE],
    *[("interpolate", body, param) for body, param in INTERPOLATE],
    *[("edit", body, param) for body, param in EDIT],
    *[("variations", body, param) for body, param in VARIATIONS],
    *BATCHES,
    *[("images/generations", body, param) for body, param in GENERATION],
]


@pytest.mark.parametrize(("path", "body", "param"), CASES, ids=lambda value: str(value)[:60])
def test_a_bad_field_is_refused_by_name(client, path, body, param):
    answer = client.post(f"/v1/{path}", body)
    assert answer.status_code == 422
    assert (answer.json()["error"]["type"], answer.json()["error"]["param"]) == ("invalid_request", param)
    assert answer.headers["x-bundle"] == "abc"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("sample", {"component": 2}, "component is 2; allowed: 0 to 1"),
        ("sample", {"given": {"aa": True}}, "unknown attribute 'aa'; did you mean 'a'? (known: a, b)"),
        ("sample", {"given": {LONG: True}}, "at most 4096 characters"),
        ("sample", {"n": "5"}, "valid integer"),
        ("images/generations", {"prompt": "", "stream": True}, "stream is true, but images are not streamed"),
        ("interpolate", {"items": [GOOD, {}]}, "give either an image or a latent"),
        ("interpolate", {"items": [GOOD, {"latent": "AA=="}]}, "the latent has 1 bytes; this model's have 3"),
        ("edit", {"item": GOOD}, "no attribute to set or unset was given"),
        ("edit", {"item": GOOD, "set": ["c"]}, "unknown attribute 'c' (known: a, b)"),
        ("edit", {"item": GOOD, "set": ["a"], "unset": ["a"]}, "both set and unset"),
        ("edit", {"item": GOOD, "set": ["a"], "method": "magic"}, "'exchange' or 'bits'"),
        (
            "edit",
            {"item": {"image": b64(b"GIF89a")}, "set": ["a"]},
            "not in an allowed format (PNG, JPEG",
        ),
    ],
)
def test_error_messages(client, path, body, message):
    assert message in client.post(f"/v1/{path}", body).json()["error"]["message"]


@pytest.mark.parametrize("body", [{"k" * 10**6: 1}, {"given": {"k" * 4096: True}}], ids=["key", "name"])
def test_errors_do_not_repeat_long_texts_of_the_request(client, body):
    answer = client.post("/v1/sample", body)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert (len(error["param"]), error["param"][-4:]) == (1000, "k...")
    assert len(error["message"]) <= 1000


@pytest.mark.parametrize("charset", ["punycode", "undefined", '"utf-7"', "UTF-16", "none-such", ""])
@pytest.mark.parametrize("path", ["encode", "images/variations"])
def test_forms_in_another_charset_are_refused(client, path, charset):
    part = b'--X\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n--X--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=X; Charset={charset}"}
    answer = client.request("POST", f"/v1/{path}", content=part, headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["message"].endswith("of the form; allowed: utf-8")


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"'])
def test_forms_in_utf_8_are_read(client, charset):
    request = httpx.Request("POST", "http://localhost", files={"image": ("a.png", image_file(1))})
    headers = {"content-type": f"{request.headers['content-type']}; charset={charset}"}
    answer = client.request("POST", "/v1/encode", content=request.read(), headers=headers)
    assert answer.status_code == 200
    assert "error" not in answer.json()["results"][0]


def wrapped(data: bytes) -> str:
    return base64.encodebytes(data).decode()


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    [
        lambda data: f"data:image/png;base64,{b64(data)}",
        lambda data: f"DATA:image/png;charset=utf-8;BASE64,{wrapped(data)}",
        wrapped,
        lambda data: wrapped(data).replace("\n", "\r\n"),
        url_safe,
        lambda data: url_safe(data).rstrip("="),
        lambda data: f" {b64(data).rstrip('=')}\n",
    ],
    ids=[
        "data URI",
        "data URI with parameters",
        "lines",
        "CRLF",
        "URL-safe",
        "unpadded URL-safe",
        "unpadded",
    ],
)
def test_base64_is_read_as_programs_write_it(client, text):
    images = (image_file(seed, kind="jpeg") for seed in range(99))
    image = next(data for data in images if len(data) % 3 == 1 and {"-", "_"} < set(url_safe(data)))
    good, found = client.post("/v1/encode", {"images": [b64(image), text(image)]}).json()["results"]
    assert "error" not in good
    assert found == good
    latents = client.post("/v1/decode", {"latents": [good["base64"], text(base64.b64decode(good["base64"]))]})
    first, second = latents.json()["results"]
    assert first == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.com/a.png", "not valid base64; URLs are not fetched"),
        ("data:image/png,%89PNG", "the data: URI is not in base64; allowed: data:image/png;base64,"),
        ("data:", "the data: URI is not in base64"),
        ("AAAAA", "not valid base64"),
        ("AA=A", "not valid base64"),
        ("é", "not valid base64"),
    ],
)
def test_bad_base64_is_refused(client, text, message):
    (result,) = client.post("/v1/encode", {"images": [text]}).json()["results"]
    assert message in result["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/page.js", "/style.css", "/v1/models"])
def test_head_is_answered_as_get_without_the_body(client, path):
    head, get = (client.request(method, path) for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (200, b"")
    assert get.content
    same = ("content-type", "content-length", "x-bundle")
    assert [head.headers[name] for name in same] == [get.headers[name] for name in same]


def test_head_over_a_socket_leaves_the_connection_usable(url):
    with httpx.Client(base_url=url) as connection:
        answers = [connection.request(method, "/readyz") for method in ("HEAD", "GET", "HEAD")]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[1].json() == {"status": "ready"}


def test_a_final_slash_is_no_redirect_to_whatever_host_the_client_names(client):
    answer = client.request("GET", "/v1/model/", headers={"host": "localhost"})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


def test_head_where_there_is_no_get(client):
    answer = client.request("HEAD", "/v1/sample")
    assert (answer.status_code, answer.content) == (405, b"")


def test_an_impossible_condition(bundle):
    factors = bundle.prior.factors.copy()
    factors[:, 2] = -factors[:, 1]  # an image with "a" never has "b"
    contrary = dataclasses.replace(bundle, prior=dataclasses.replace(bundle.prior, factors=factors))
    given = {"given": {"a": True, "b": True}}
    answer = Client(contrary, Limits()).post("/v1/sample", given)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "given")
    assert "ask for fewer attributes at once" in answer.json()["error"]["message"]


def test_a_lone_surrogate_gets_422_not_500(client):
    for body in (b'{"\\ud800": 1}', b'{"given": {"\\ud800": true}}', b'{"format": "\\ud800"}'):
        answer = client.request(
            "POST", "/v1/sample", content=body, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, "invalid_request")


def test_a_response_beyond_the_pixel_limit_is_refused_before_it_is_made(bundle, monkeypatch):
    client = Client(
        bundle, Limits(max_answer_pixels=20_000)
    )  # 78 images of 16 x 16, 19 in a grid, 4 in an animation
    monkeypatch.setattr(type(bundle.codec), "decode", lambda self, latents: 1 / 0)
    two, many = [LATENT, LATENT], ["AAAA"] * 79
    for path, body, param in [
        ("sample", {"n": 20}, "n"),
        ("sample", {"n": 79, "format": "zip"}, "n"),
        ("interpolate", {"items": two, "steps": 20}, "steps"),
        ("interpolate", {"items": two, "steps": 5, "format": "webp"}, "steps"),
        ("interpolate", {"items": [*two, *two], "steps": 64, "loop": True, "format": "zip"}, "steps"),
        ("decode", {"latents": many}, "latents"),
        ("reconstruct", {"images": many}, "images"),
        ("variations", {"item": LATENT, "n": 20}, "n"),
        ("images/generations", {"prompt": "", "n": 79}, "n"),
    ]:
        answer = client.post(f"/v1/{path}", body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
        assert "allowed: 20000 pixels; ask for fewer images" in answer.json()["error"]["message"]
    assert client.post("/v1/sample", {"n": 1024, "format": "latents"}).status_code == 200


def test_responses_at_the_pixel_limit_are_made(bundle):
    client = Client(bundle, Limits(max_answer_pixels=20_000))
    two = [LATENT, {"latent": b64(pack(bundle.prior.sample(1, 0)).tobytes())}]
    for path, body in [
        ("sample", {"n": 19}),
        ("sample", {"n": 78, "format": "zip"}),
        ("interpolate", {"items": two, "steps": 3, "format": "webp"}),
        (
            "interpolate",
            {"items": two, "steps": 64, "format": "stream"},
        ),  # holds few frames at a time
    ]:
        assert client.post(f"/v1/{path}", body).status_code == 200


def saved(kind: str, *frames: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        kind,
        **({"save_all": True, "append_images": list(frames[1:])} if frames[1:] else {}),
        **options,
    )
    return buffer.getvalue()


def grey(level: int, side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), (level,) * 3)


def test_files_that_are_refused(client):
    """Formats that hold pictures without a pixel limit (ICO) or start programs (EPS), and all others that
    Pillow knows.
    """
    others = {kind: saved(kind, grey(9)) for kind in ("ICO", "EPS", "GIF", "BMP", "TIFF", "PPM")}
    animated = {f"animated {kind}": saved(kind, grey(10), grey(200)) for kind in ("WEBP", "PNG")}
    cut, progressive = image_file(1)[:60], saved("JPEG", grey(9), progressive=True)
    endless = progressive[:-2] + 500 * progressive[progressive.rindex(b"\xff\xda") : -2]
    files = {**others, **animated, "cut": cut, "endless": endless, "empty": b"", "words": b"words"}
    results = client.post("/v1/encode", {"images": [b64(data) for data in files.values()]}).json()["results"]
    said = {name: result["error"]["message"] for name, result in zip(files, results, strict=True)}
    assert [name for name, message in said.items() if "not in an allowed format" in message] == [
        *others,
        "words",
    ]
    assert [name for name, message in said.items() if "it is animated" in message] == [*animated]
    assert "scans; allowed: 500 scans" in said["endless"]
    assert "no bytes" in said["empty"]
    edited = client.post("/v1/edit", {"item": {"image": b64(animated["animated WEBP"])}, "set": ["a"]})
    assert (edited.status_code, edited.json()["error"]["param"]) == (422, "item.image")


def test_a_jpeg_that_holds_more_pictures_is_not_animated(client):
    results = client.post(
        "/v1/encode", {"images": [b64(saved("MPO", grey(10), grey(200))), b64(saved("JPEG", grey(10)))]}
    )
    first, second = results.json()["results"]
    assert first == second


POSTS = [
    "sample",
    "interpolate",
    "variations",
    "edit",
    "encode",
    "decode",
    "reconstruct",
    "images/generations",
]


@pytest.mark.parametrize("path", POSTS)
def test_media_types_and_json(client, path):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.request("POST", f"/v1/{path}", content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["type"]) == (415, "unsupported_media_type")
    for body in (b"{", b"", b"[" * 100_000, b"9" * 10_000):
        answer = client.request(
            "POST", f"/v1/{path}", content=body, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.request("POST", f"/v1/{path}", content=gzip.compress(b"{}"), headers=packed)
    assert (answer.status_code, answer.json()["error"]["type"]) == (415, "unsupported_media_type")
    assert "content encoding 'gzip'; allowed: none" in answer.json()["error"]["message"]
    if path in ("sample", "decode", "images/generations"):
        assert client.request("POST", f"/v1/{path}", files={"image": b"x"}).status_code == 415


def test_multipart(client):
    post = lambda path, **rest: client.request("POST", f"/v1/{path}", **rest)  # noqa: E731
    for strange in (
        {"files": {"picture": b"x"}},
        {"files": [("image", b"x"), ("picture", b"x")]},
        {"files": {"image": b"x"}, "data": {"format": "png"}},
        {"files": {"image": b"x"}, "data": {"request": ["{}", '{"format": "jpeg"}']}},
        {"files": {"image": b"x", "request": b"{}"}},
    ):
        refused = post("reconstruct", **strange)
        assert refused.status_code == 422, "no part may be ignored"
        assert (
            "needs files named image, may have one text part named request"
            in refused.json()["error"]["message"]
        )
    assert post("encode", files={"image": b"x"}, data={"request": "{"}).status_code == 400
    two = post("edit", files=[("image", image_file(1))] * 2, data={"request": '{"set": ["a"]}'})
    assert (two.status_code, two.json()["error"]["param"]) == (422, "items")
    both = post(
        "encode",
        files={"image": image_file(1)},
        data={"request": json.dumps({"images": [b64(image_file(2))]})},
    )
    assert (both.status_code, both.json()["error"]["param"]) == (422, "images"), "neither may be ignored"
    empty = post("edit", files={"image": b""}, data={"request": json.dumps({"set": ["a"]})})
    assert (empty.status_code, empty.json()["error"]["param"]) == (422, "item.image")
    (result,) = post("encode", files={"image": ("empty.png", b"")}).json()["results"]
    assert "no bytes" in result["error"]["message"]
    headers = {"content-type": "multipart/form-data"}
    assert post("encode", content=b"x", headers=headers).status_code == 400
    many = post("encode", files=[("image", b"x")] * 257)
    assert (many.status_code, many.json()["error"]["param"]) == (422, "image")
    assert many.json()["error"]["message"] == "more than 256 files; allowed: 256"


def test_unknown_paths_and_methods(client):
    unknown = client.request("GET", "/v1/nothing")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found")
    assert client.request("GET", "/v1/sample").status_code == 405
