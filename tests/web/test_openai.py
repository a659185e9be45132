"""OpenAI's own client against the service."""

import base64

import numpy as np
import openai
import pytest

from tests.web.conftest import image_file, pixels_of


@pytest.fixture(scope="module")
def images(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_model_is_listed(images):
    (model,) = images.models.list().data
    assert (model.id, model.object) == ("lbae", "model")
    assert model.created > 1_700_000_000


def test_images_match_the_bundles_for_a_seed(images, bundle):
    answer = images.images.generate(model="lbae", prompt="", n=2, size="16x16", extra_body={"seed": 5})
    found = np.stack([pixels_of(base64.b64decode(image.b64_json)) for image in answer.data])
    np.testing.assert_array_equal(found, bundle.sample(2, 5))
    assert (answer.size, answer.output_format) == ("16x16", "png")


def test_a_prompt_names_attributes(images, bundle):
    answer = images.images.generate(prompt="a, not b", n=3, extra_body={"seed": 1})
    found = np.stack([pixels_of(base64.b64decode(image.b64_json)) for image in answer.data])
    np.testing.assert_array_equal(found, bundle.sample(3, 1, {"a": True, "b": False}))


# OpenAI's client marks this call as deprecated; programs still use it.
deprecated = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@deprecated
def test_variations_of_an_image(images, bundle):
    extra = {"seed": 5, "strength": 0.6}
    answer = images.images.create_variation(image=image_file(1), n=2, size="16x16", extra_body=extra)
    found = np.stack([pixels_of(base64.b64decode(image.b64_json)) for image in answer.data])
    np.testing.assert_array_equal(found, bundle.vary(pixels_of(image_file(1))[None], 2, 5, 0.6))


@deprecated
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"n": 0}, openai.UnprocessableEntityError, "greater than or equal to 1"),
        ({"size": "1024x1024"}, openai.UnprocessableEntityError, "size is '1024x1024'; allowed: auto, 16x16"),
        ({"model": "dall-e-2"}, openai.NotFoundError, "model 'dall-e-2' does not exist; allowed: lbae"),
        ({"response_format": "url"}, openai.UnprocessableEntityError, "b64_json"),
        ({"extra_body": {"strength": 2}}, openai.UnprocessableEntityError, "less than or equal to 1"),
        ({"extra_body": {"prompt": "a"}}, openai.UnprocessableEntityError, "Extra inputs are not permitted"),
        ({"image": b"no image"}, openai.UnprocessableEntityError, "the image cannot be read"),
    ],
)
def test_a_bad_request_for_variations_says_why(images, options, kind, message):
    with pytest.raises(kind, match=message):
        images.images.create_variation(**{"image": image_file(1), **options})


def test_an_image_that_cannot_be_read_is_named_by_its_field(client):
    answer = client.request("POST", "/v1/images/variations", files={"image": ("a.png", b"no image")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "image")


def test_a_part_is_sent_once(client):
    parts = [("image", ("a.png", image_file(1))), ("image", ("b.png", image_file(2)))]
    answer = client.request("POST", "/v1/images/variations", files=parts)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "image")


@pytest.mark.parametrize(
    "extra",
    [
        {"stream": False},
        {"quality": "standard", "style": "natural", "user": "u", "response_format": "b64_json"},
        {"background": "auto", "moderation": "auto", "output_compression": 100, "partial_images": 0},
        dict.fromkeys(["n", "size", "response_format", "output_format", "quality", "stream", "user"]),
    ],
)
def test_fields_without_effect_are_ignored(client, extra):
    plain = client.post("/v1/images/generations", {"prompt": "a", "seed": 1}).json()
    found = client.post("/v1/images/generations", {"prompt": "a", "seed": 1, **extra}).json()
    assert found["data"] == plain["data"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"prompt": "a cat"}, openai.UnprocessableEntityError, "unknown attribute 'a cat'"),
        ({"prompt": "a, not a"}, openai.UnprocessableEntityError, "asks for both 'a' and not 'a'"),
        (
            {"prompt": "a", "size": "1024x1024"},
            openai.UnprocessableEntityError,
            "size is '1024x1024'; allowed: auto, 16x16",
        ),
        (
            {"prompt": "a", "model": "dall-e-3"},
            openai.NotFoundError,
            "model 'dall-e-3' does not exist; allowed: lbae",
        ),
        ({"prompt": "a", "response_format": "url"}, openai.UnprocessableEntityError, "b64_json"),
        (
            {"prompt": "a", "stream": True},
            openai.UnprocessableEntityError,
            "stream is true, but images are not streamed; allowed: false",
        ),
        ({"prompt": "a", "n": 0}, openai.UnprocessableEntityError, "greater than or equal to 1"),
    ],
)
def test_unsupported_requests_get_a_clear_error(images, options, kind, message):
    with pytest.raises(kind, match=message):
        images.images.generate(**options)
