import unicodedata

import pytest

from lbae.core.latents.attribute_names import match_given, match_name
from lbae.errors import UserError

NFC, NFD = unicodedata.normalize("NFC", "label=café"), unicodedata.normalize("NFD", "label=café")


@pytest.mark.parametrize("name", [NFC, NFD, "label=tench, Tinca tinca", "not safe", "label= lead", "a" * 300])
def test_a_known_name_means_itself(name):
    assert match_name(name, ["other", name]) == name


@pytest.mark.parametrize(("asked", "known"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_in_the_other_unicode_form_is_found(asked, known):
    assert match_name(asked, ["label=cafe", known]) == known


def test_names_that_look_alike_need_an_exact_match():
    both = [NFC, NFD]
    assert [match_name(name, both) for name in both] == both
    forms = ["\u1ed9", unicodedata.normalize("NFD", "\u1ed9")]
    with pytest.raises(UserError, match=r"ambiguous: 2 names .*give one of them exactly"):
        match_name("\u00f4\u0323", forms)


def test_an_unknown_name_is_refused_and_the_nearest_suggested():
    with pytest.raises(UserError, match="unknown attribute 'label=caf'; did you mean 'label=café'"):
        match_name("label=caf", [NFC])


def test_a_name_too_long_to_be_any_known_one_is_refused_before_it_is_normalised(monkeypatch):
    normalised = []

    def watched(form, text):
        normalised.append(text)
        return normalize(form, text)

    normalize = unicodedata.normalize
    monkeypatch.setattr(unicodedata, "normalize", watched)
    known, marks = ["a", "label=b"], "\u0301\u0327"
    with pytest.raises(UserError, match="unknown attribute"):
        match_name(marks * 14, known)
    assert normalised.count(marks * 14) == 1
    normalised.clear()
    with pytest.raises(UserError, match="unknown attribute"):
        match_name(marks * 15, known)
    assert marks * 15 not in normalised


def test_the_longest_form_of_a_name_is_found():
    short = "\u1f82"  # four characters in form NFD
    assert match_name(unicodedata.normalize("NFD", short), [short]) == short


def test_both_forms_of_a_name_are_one_condition():
    assert match_given({NFC: True, NFD: True, "b": False}, [NFD, "b"]) == {NFD: True, "b": False}
    with pytest.raises(UserError, match="asked for and excluded"):
        match_given({NFC: True, NFD: False}, [NFD])
