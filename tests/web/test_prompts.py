import unicodedata

import pytest

from lbae.errors import UserError
from lbae.web.requests.prompts import parse_prompt
from tests.web.conftest import Client, renamed

NFC, NFD = (unicodedata.normalize(form, "label=café") for form in ("NFC", "NFD"))
WITH_COMMAS = "label=tench, Tinca tinca"
NAMES = [
    "a",
    WITH_COMMAS,
    "label=tench",
    "not safe",
    "label=not safe",
    "label= lead",
    NFD,
    "x" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_every_known_name_can_be_asked_for_and_excluded(name):
    assert parse_prompt(name, NAMES) == {name: True}
    assert parse_prompt(f"not {name}", NAMES) == {name: False}
    found = parse_prompt(f"label=last ,not {name} ,, ", [*NAMES, "label=last"])
    assert found == {"label=last": True, name: False}


@pytest.mark.parametrize("name", [*NAMES, " lead", ",", 'say "a", b', "not not a", "\u00f4\u0323"])
def test_every_name_can_be_quoted(name):
    known, quoted = [*NAMES, name], '"{}"'.format(name.replace('"', '""'))
    assert parse_prompt(quoted, known) == {name: True}
    assert parse_prompt(f"not {quoted},", known) == {name: False}


def test_the_longest_known_name_wins():
    assert parse_prompt("label=tench, Tinca tinca, a", NAMES) == {WITH_COMMAS: True, "a": True}
    assert parse_prompt("label=tench, a", NAMES) == {"label=tench": True, "a": True}
    assert parse_prompt('not safe, not "a"', NAMES) == {"not safe": True, "a": False}


@pytest.mark.parametrize(("asked", "known"), [(NFC, NFD), (NFD, NFC)])
def test_either_unicode_form_is_understood(asked, known):
    assert parse_prompt(f"not {asked}", [known]) == {known: False}
    assert parse_prompt(asked, [NFC, NFD]) == {asked: True}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a cat", "unknown attribute 'a cat'"),
        ("a, not a", "asks for both 'a' and not 'a'"),
        ("not , a", "unknown attribute ''"),
        ('"a', "unknown attribute '\"a'"),
        ("label=tench, Tinca", "unknown attribute 'Tinca'"),
        ("a," * 65, "more than 64 names; allowed: 64"),
    ],
)
def test_bad_prompts_are_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        parse_prompt(prompt, NAMES)


@pytest.mark.parametrize("prompt", ["", " ", ",", " , ,\n"])
def test_a_prompt_may_be_empty(prompt):
    assert parse_prompt(prompt, NAMES) == {}


@pytest.mark.parametrize("names", [(NFD, WITH_COMMAS), ("not safe", "x" * 300)])
def test_a_bundles_names_can_be_asked_for_over_http(bundle, limits, names):
    client = Client(renamed(bundle, names), limits)
    for name in names:
        for asked in {name, unicodedata.normalize("NFC", name)}:
            drawn = [
                client.post("/v1/sample", {"n": 1, "seed": 1, "given": {asked: True}, "format": "latents"}),
                client.post("/v1/edit", {"item": {"latent": "AAAA"}, "set": [asked], "format": "latents"}),
                client.post("/v1/images/generations", {"prompt": asked, "seed": 1}),
            ]
            assert [answer.status_code for answer in drawn] == [200] * 3
    assert list(client.request("GET", "/v1/attributes").json()["attributes"]) == list(names)


def test_a_name_in_both_forms_cannot_be_asked_for_and_excluded(bundle, limits):
    client = Client(renamed(bundle, (NFD, "b")), limits)
    answer = client.post("/v1/sample", {"given": {NFC: True, NFD: False}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "given")
    answer = client.post("/v1/edit", {"item": {"latent": "AAAA"}, "set": [NFC], "unset": [NFD]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "set")
