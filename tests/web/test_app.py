import asyncio
import base64
import dataclasses
import io
import json
import threading
import time
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from lbae.core.latents.editing import edit
from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.packing import pack, unpack
from lbae.io.images import square_grid
from lbae.web.answers import answer_formats
from lbae.web.limits import Limits
from lbae.web.memory import MemoryBudget, MemoryShare
from lbae.web.requests import batches, item_fields
from tests.web.conftest import Client, N, b64, image_file, pixels_of


def latents_in(answer) -> np.ndarray:
    fields = answer.json()["latents"]
    assert all(bytes.fromhex(field["hex"]) == base64.b64decode(field["base64"]) for field in fields)
    return np.concatenate(
        [unpack(np.frombuffer(base64.b64decode(f["base64"]), np.uint8)[None], N) for f in fields]
    )


def packed(latents: np.ndarray) -> list[str]:
    return [b64(row.tobytes()) for row in pack(latents)]


def test_health_readiness_and_facts_of_the_bundle(client):
    assert client.request("GET", "/healthz").json() == {"status": "alive"}
    assert client.request("GET", "/readyz").json() == {"status": "ready"}
    model = client.request("GET", "/v1/model").json()
    assert (model["fingerprint"], model["components"], model["conditions"]) == ("abc", 2, ["a", "b"])
    assert (model["config"]["latent_dim"], model["config"]["image_size"]) == (N, 16)
    attributes = client.request("GET", "/v1/attributes").json()["attributes"]
    assert list(attributes) == ["a", "b"]
    assert sum(attributes["a"][side] for side in ("set", "unset")) == 4000
    assert {bit["bit"] for bit in attributes["a"]["leading_bits"]} == set(range(5))
    assert attributes["a"]["trusted"] is True


def test_a_sample_matches_the_bundles_in_every_format(client, bundle):
    images = bundle.sample(3, 9)
    ask = {"n": 3, "seed": 9}
    grid = client.post("/v1/sample", ask)
    assert (grid.status_code, grid.headers["content-type"]) == (200, "image/png")
    assert (grid.headers["x-seed"], grid.headers["x-bundle"]) == ("9", "abc")
    assert float(grid.headers["server-timing"].partition("dur=")[2]) > 0
    np.testing.assert_array_equal(pixels_of(grid.content), square_grid(images))
    with zipfile.ZipFile(io.BytesIO(client.post("/v1/sample", {**ask, "format": "zip"}).content)) as file:
        assert file.namelist() == ["0000.png", "0001.png", "0002.png"]
        np.testing.assert_array_equal(
            np.stack([pixels_of(file.read(name)) for name in file.namelist()]), images
        )
    latents = latents_in(client.post("/v1/sample", {**ask, "format": "latents"}))
    np.testing.assert_array_equal(latents, bundle.prior.sample(3, 9))
    for kind in ("png", "webp", "jpeg"):
        one = client.post("/v1/sample", {"n": 1, "seed": 9, "format": kind})
        assert one.headers["content-type"] == f"image/{kind}"
        assert np.abs(pixels_of(one.content).astype(int) - images[0]).max() <= (0 if kind != "jpeg" else 160)


def test_a_sample_has_the_requested_attributes_and_component(client, bundle):
    given = latents_in(
        client.post("/v1/sample", {"n": 400, "seed": 1, "given": {"a": True}, "format": "latents"})
    )
    drawn = bundle.prior.sample_given(400, 1, {"a": True})[0]
    np.testing.assert_array_equal(given, bundle.move_to_given(drawn, {"a": True}))
    assert given[:, :5].mean() > 0.25  # 0.34 on average; without the attribute 0
    of_component = [
        latents_in(client.post("/v1/sample", {"n": 400, "seed": 1, "component": c, "format": "latents"}))
        for c in (0, 1)
    ]
    together = [np.corrcoef(latents[:, 0], latents[:, 1])[0, 1] for latents in of_component]
    assert together[0] > 0.2 > abs(together[1])  # the second component draws its bits independently


def test_the_temperature_of_a_sample_reaches_the_prior(client, bundle):
    asked = {"n": 40, "seed": 1, "temperature": 0.4, "format": "latents"}
    np.testing.assert_array_equal(
        latents_in(client.post("/v1/sample", asked)), bundle.prior.at(0.4).sample(40, 1)
    )


@pytest.mark.parametrize("form", ["json", "multipart"])
def test_variations_of_an_image_in_every_format(client, bundle, form):
    image = pixels_of(image_file(1))[None]
    expected = bundle.vary(image, 3, 9, 0.7)

    def ask(**fields: object) -> httpx.Response:
        fields = {"n": 3, "seed": 9, "strength": 0.7, **fields}
        if form == "json":
            return client.post("/v1/variations", {"item": {"image": b64(image_file(1))}, **fields})
        parts = {"files": {"image": image_file(1)}, "data": {"request": json.dumps(fields)}}
        return client.request("POST", "/v1/variations", **parts)

    np.testing.assert_array_equal(bundle.decode(latents_in(ask(format="latents"))), expected)
    assert ask().headers["x-seed"] == "9"
    assert pixels_of(ask().content).shape[1] == 2 * 34 + 2
    np.testing.assert_array_equal(pixels_of(ask(n=1, format="png").content), expected[0])
    np.testing.assert_array_equal(
        pixels_of(ask(n=1, strength=0, format="png").content), bundle.reconstruct(image)[0]
    )


def test_variations_need_a_prior_with_thresholds(bundle):
    other = dataclasses.replace(bundle, prior=dataclasses.replace(bundle.prior, sampler="hyperplane"))
    answer = Client(other, Limits()).post("/v1/variations", {"item": {"latent": "AAAA"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "item")
    assert "fit the bundle with --sampler gaussian" in answer.json()["error"]["message"]


def test_a_seed_is_drawn_when_none_is_given(client):
    answers = [client.post("/v1/sample", {"n": 1}) for _ in range(3)]
    seeds = [int(answer.headers["x-seed"]) for answer in answers]
    assert len(set(seeds)) == 3
    assert client.post("/v1/sample", {"n": 1, "seed": seeds[0]}).content == answers[0].content


def test_a_request_gives_the_same_bytes_alone_and_among_others(client):
    ask = ("POST", "/v1/sample", {"json": {"n": 2, "seed": 5}})
    alone = client.requests(ask)[0].content
    crowd = client.requests(*[("POST", "/v1/sample", {"json": {"n": 3, "seed": i}}) for i in range(6)], ask)
    assert crowd[-1].content == alone


def test_a_path_goes_through_its_items_in_every_format(client, bundle):
    images = np.stack([pixels_of(image_file(seed)) for seed in (1, 2)])
    items = [{"image": b64(image_file(1))}, {"latent": packed(bundle.encode(images[1:]))[0]}]
    ask = {"items": items, "steps": 4}
    path = latents_in(client.post("/v1/interpolate", {**ask, "format": "latents"}))
    np.testing.assert_array_equal(path, interpolate(bundle.normals, bundle.encode(images), 4))
    frames = bundle.decode(path)
    strip = client.post("/v1/interpolate", ask)
    assert (strip.headers["content-type"], strip.headers["x-seed"]) == ("image/png", "0")
    assert pixels_of(strip.content).shape == (16 * 2 + 4, 4 * 34 + 2, 3)
    with Image.open(
        io.BytesIO(client.post("/v1/interpolate", {**ask, "format": "webp"}).content)
    ) as animation:
        assert 2 <= animation.n_frames <= 6  # equal frames become one
    streamed = client.post("/v1/interpolate", {**ask, "format": "stream"})
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    np.testing.assert_array_equal(
        np.stack([pixels_of(base64.b64decode(line["image"])) for line in lines]), frames
    )
    loop = latents_in(client.post("/v1/interpolate", {**ask, "loop": True, "format": "latents"}))
    assert len(loop) == 7
    np.testing.assert_array_equal(loop[0], loop[-1])


def test_few_images_are_decoded_at_a_time(client, monkeypatch):
    """The largest image takes 225 MB while it is decoded."""
    running, seen, guard, read = 0, [], threading.Lock(), batches.decode_image_field

    def watched(*arguments, **options):
        nonlocal running
        with guard:
            running += 1
            seen.append(running)
        time.sleep(0.05)
        with guard:
            running -= 1
        return read(*arguments, **options)

    monkeypatch.setattr(batches, "decode_image_field", watched)
    asks = [{"image": b64(image_file(seed))} for seed in range(12)]
    encodings = [("POST", "/v1/encode", {"json": {"images": [ask["image"]]}}) for ask in asks]
    edits = [("POST", "/v1/edit", {"json": {"item": ask, "set": ["a"]}}) for ask in asks]
    assert {answer.status_code for answer in client.requests(*encodings, *edits)} == {200}
    assert (len(seen), max(seen)) == (24, 2)


@pytest.mark.parametrize(
    ("path", "body", "module", "work", "calls"),
    [
        ("encode", {"images": [b64(image_file(1))] * 3}, batches, "decode_image_field", 3),
        ("edit", {"item": {"image": b64(image_file(1))}, "set": ["a"]}, batches, "decode_image_field", 1),
        ("sample", {"n": 1, "format": "zip"}, answer_formats, "zip_response", 1),
        ("decode", {"latents": ["AAAA"]}, answer_formats, "image_fields", 1),
    ],
)
def test_cancelled_requests_take_no_further_threads_and_no_further_work(
    bundle, monkeypatch, path, body, module, work, calls
):
    """Repeated requests never use more than four threads, and the rest of a cancelled request is dropped."""
    begun, let_go, works = [], threading.Event(), getattr(module, work)

    def stuck(*arguments, **options):
        begun.append(path)
        let_go.wait(60)
        return works(*arguments, **options)

    monkeypatch.setattr(module, work, stuck)
    impatient = Client(bundle, Limits(max_seconds=0.5))
    asks = [("POST", f"/v1/{path}", {"json": body})] * 6
    codes = [answer.status_code for _ in range(2) for answer in impatient.requests(*asks)]
    at_once = len(begun)
    let_go.set()
    assert Client(bundle, Limits()).post(f"/v1/{path}", body).status_code == 200
    assert codes == [504] * 12
    assert 1 <= at_once <= 4
    assert len(begun) == at_once + calls


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sample", {"n": 1, "format": "jpeg"}),
        ("edit", {"item": {"latent": "AAAA"}, "set": ["a"]}),
        ("decode", {"latents": ["AAAA"]}),
        ("images/generations", {"prompt": ""}),
    ],
)
def test_pictures_are_encoded_off_the_event_loop(client, monkeypatch, path, body):
    threads, encode = [], answer_formats.encode_image

    def watched(*arguments):
        threads.append(threading.current_thread().name)
        return encode(*arguments)

    monkeypatch.setattr(answer_formats, "encode_image", watched)
    assert client.post(f"/v1/{path}", body).status_code == 200
    assert threads
    assert all(name.startswith("writer") for name in threads)


def test_uploaded_files_are_not_encoded_as_base64(client, monkeypatch):
    monkeypatch.setattr(item_fields, "decode_base64", lambda *_: 1 / 0)
    for path, request in (("encode", {}), ("edit", {"set": ["a"]}), ("interpolate", {"steps": 2})):
        files = [("image", image_file(seed)) for seed in range(2 if path == "interpolate" else 1)]
        data = {"request": json.dumps(request)}
        assert client.request("POST", f"/v1/{path}", files=files, data=data).status_code == 200


def test_a_stream_sends_every_frame_as_soon_as_it_is_made(monkeypatch):
    made = []
    encode = answer_formats.image_fields
    monkeypatch.setattr(
        answer_formats, "image_fields", lambda images, kind: made.append(len(images)) or encode(images, kind)
    )

    async def decoded():
        yield np.zeros((3, 8, 8, 1), dtype=np.uint8)

    async def read() -> list[list[int]]:
        return [list(made) async for _ in answer_formats.lines(decoded(), MemoryShare(MemoryBudget(0)))]

    assert asyncio.run(read()) == [[1], [1, 1], [1, 1, 1]]


def test_an_edit_matches_the_bundles(client, bundle):
    image = image_file(3, kind="webp")
    edited, changed = bundle.edit(pixels_of(image)[None], ["a"], ["b"], 0.9)
    ask = {"set": ["a"], "unset": ["b"], "strength": 0.9}
    answer = client.post("/v1/edit", {"item": {"image": b64(image)}, **ask})
    np.testing.assert_array_equal(pixels_of(answer.content), edited[0])
    assert int(answer.headers["x-bits-changed"]) == changed[0] > 0
    files = client.request("POST", "/v1/edit", files={"image": image}, data={"request": json.dumps(ask)})
    assert files.content == answer.content
    ask = {"item": {"image": b64(image)}, "set": ["a"], "method": "bits", "format": "latents"}
    by_bits, before = client.post("/v1/edit", ask), bundle.encode(pixels_of(image)[None])
    after = edit(bundle.attributes, None, before, ["a"], method="bits")
    np.testing.assert_array_equal(latents_in(by_bits), after)
    assert by_bits.json()["bits_changed"] == int((after != before).sum())


def test_an_edit_until_a_confidence_matches_the_bundles(client, bundle):
    image = image_file(2)
    found = bundle.edit_until(pixels_of(image)[None], ["a"], ["b"], 0.8)
    ask = {"item": {"image": b64(image)}, "set": ["a"], "unset": ["b"], "until": 0.8}
    response = client.post("/v1/edit", ask)
    np.testing.assert_array_equal(pixels_of(response.content), found.images[0])
    assert float(response.headers["x-strength"]) == found.strengths[0]
    assert float(response.headers["x-confidence"]) == pytest.approx(found.confidence[0], abs=1e-4)
    body = client.post("/v1/edit", ask | {"format": "latents"}).json()
    assert (body["strength"], body["bits_changed"]) == (
        found.strengths[0],
        int(response.headers["x-bits-changed"]),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"until": 1}, "Input should be less than 1"),
        ({"until": 0.9, "method": "bits"}, "until needs the method exchange"),
        ({"until": 0.9, "strength": 0.5}, "give only one of strength and until"),
    ],
)
def test_an_until_that_cannot_be_answered_names_its_field(client, change, message):
    answer = client.post("/v1/edit", {"item": {"latent": "AAAA"}, "set": ["a"], **change})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "until"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("change", ["constant", "without lift"])
def test_the_error_for_an_attribute_that_cannot_be_edited_names_its_field(bundle, change):
    statistics = bundle.attributes
    odd = np.array([False, True])  # "b"
    counts = {"unset_count": np.where(odd, 0, statistics.unset_count)}
    lift = {"lift": np.where(odd[:, None], 0, statistics.lift)}
    changed = dataclasses.replace(statistics, **(counts if change == "constant" else lift))
    client = Client(dataclasses.replace(bundle, attributes=changed), Limits())
    answer = client.post(
        "/v1/edit", {"item": {"latent": "AAAA"}, "set": ["a"], "unset": ["b"], "method": "bits"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "unset.0")
    assert error["message"].startswith("attribute 'b' has ")


def test_batches_have_one_result_or_error_per_item(client, bundle):
    good = [image_file(1), image_file(2, (40, 30), "jpeg")]
    encoded = client.post("/v1/encode", {"images": [b64(good[0]), b64(b"no image"), "?", b64(good[1])]})
    results = encoded.json()["results"]
    assert encoded.status_code == 200
    assert ["error" in result for result in results] == [False, True, True, False]
    assert results[1]["error"]["message"].startswith("the image cannot be read: not in an allowed format")
    assert results[2]["error"] == {"type": "invalid_request", "message": "not valid base64", "param": "2"}
    np.testing.assert_array_equal(
        base64.b64decode(results[0]["base64"]), pack(bundle.encode(pixels_of(good[0])[None])).tobytes()
    )

    by_file = client.request("POST", "/v1/encode", files=[("image", data) for data in good]).json()["results"]
    assert by_file == [results[0], results[3]]

    decoded = client.post(
        "/v1/decode", {"latents": [results[0]["base64"], b64(b"x"), b64(b"\xff\xff\xff")]}
    ).json()["results"]
    rebuilt = client.post("/v1/reconstruct", {"images": [b64(good[0])]}).json()["results"]
    assert decoded[0] == rebuilt[0]
    np.testing.assert_array_equal(
        pixels_of(base64.b64decode(rebuilt[0]["image"])), bundle.reconstruct(pixels_of(good[0])[None])[0]
    )
    assert decoded[1]["error"]["message"] == "the latent has 1 bytes; this model's have 3"
    assert "padding bits are set" in decoded[2]["error"]["message"]


def test_a_batch_may_hold_errors_only(client):
    for path, body in [
        ("encode", {"images": ["?"]}),
        ("reconstruct", {"images": [""]}),
        ("decode", {"latents": ["?"]}),
    ]:
        results = client.post(f"/v1/{path}", body).json()["results"]
        assert [set(result) for result in results] == [{"error"}]
