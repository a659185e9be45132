"""Arguments of a job from a command line and from a TOML table."""

import inspect
from typing import Annotated, Any, Literal

import pytest

from lbae.cli import JOBS, load_job
from lbae.errors import UserError
from lbae.jobs import options
from lbae.jobs.arguments import from_values, from_words
from lbae.jobs.options import Address, Names


def job(
    uri: str,
    /,
    *,
    out: str,
    count: int = 0,
    share: float | None = None,
    keep: bool = False,
    way: Literal["a", "b"] = "a",
    components: int | Literal["auto"] = "auto",
    given: Names = (),
    address: Address = None,
) -> dict[str, Any]:
    return {name: value for name, value in locals().items() if value}


def stage(*, out: str, count: int = 0, share: float = 0.5, keep: bool = False, given: Names = ()) -> Any:
    return {"out": out, "count": count, "share": share, "keep": keep, "given": given}


def reduce(*, out: str) -> Any:
    return out


def words(text: str) -> Any:
    return from_words(job, text.split())()


def test_words_are_converted_to_the_types_of_the_options():
    assert words("u --out=o --count -3 --share 1e-2 --keep --way b --components 7 --address 1.2.3.4:5") == {
        "uri": "u",
        "out": "o",
        "count": -3,
        "share": 0.01,
        "keep": True,
        "way": "b",
        "components": 7,
        "address": "1.2.3.4:5",
    }
    assert words("--out o u --no-keep") == {"uri": "u", "out": "o", "way": "a", "components": "auto"}


def test_a_list_is_given_once_per_value():
    assert words("u --out o --given a,b --given x=y")["given"] == ("a,b", "x=y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--out o", "job needs URI; --help lists all options"),
        ("u", "job needs --out; --help lists all options"),
        ("u v --out o", r"unexpected argument 'v' \(job takes URI\)"),
        ("u --out o --given a b", r"unexpected argument 'b'; give --given once per value \(job takes URI\)"),
        ("u --otu o", r"unknown option --otu; did you mean --out\? \(options: --out, --count, "),
        ("u --out o --no-kep", r"unknown option --no-kep; did you mean --keep\?"),
        ("u --out o --no-count", "unknown option --no-count"),
        ("u --out o --out p", "--out is given more than once"),
        ("u --out o --keep --no-keep", "--keep is given more than once"),
        ("u --out o --keep=true", "--keep takes no value"),
        ("u --out", "--out is given without a value; allowed: text"),
        ("u --out --keep", "--out is given without a value"),
        ("u --out o --count x", "--count is 'x'; allowed: a whole number"),
        ("u --out o --count 1.5", "--count is '1.5'; allowed: a whole number"),
        ("u --out o --share x", "--share is 'x'; allowed: a number"),
        ("u --out o --way c", "--way is 'c'; allowed: a, b"),
        ("u --out o --components many", "--components is 'many'; allowed: a whole number or auto"),
    ],
)
def test_mistakes_in_words_are_named(text, message):
    with pytest.raises(UserError, match=message):
        words(text)


def test_values_from_toml_are_not_converted():
    values = {"out": "o", "count": 3, "share": 1, "keep": True, "given": ["a,b", "c"]}
    assert from_values(stage, values, "s")() == {**values, "given": ("a,b", "c")}
    assert from_values(stage, {"out": "o", "given": "a"}, "s")()["given"] == ("a",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "stage needs s.out"),
        ({"out": 3}, "s.out is 3; allowed: text"),
        ({"out": "o", "count": "3"}, "s.count is '3'; allowed: a whole number"),
        ({"out": "o", "count": True}, "s.count is True; allowed: a whole number"),
        ({"out": "o", "count": [1, 2]}, r"s.count is \[1, 2\]; allowed: a whole number"),
        ({"out": "o", "keep": 1}, "s.keep is 1; allowed: true or false"),
        ({"out": "o", "no_keep": True}, "unknown option s.no_keep"),
        ({"out": "o", "given": [1]}, "s.given is 1; allowed: text"),
        ({"out": "o", "cuont": 1}, "unknown option s.cuont; did you mean s.count"),
    ],
)
def test_mistakes_in_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        from_values(stage, values, "s")


def test_a_removed_option_names_its_replacement():
    with pytest.raises(UserError, match="option --by was removed: `lbae fit --by COLUMN`"):
        from_words(reduce, ["--out", "o", "--by", "label"])
    with pytest.raises(UserError, match=r"option reduce\.by was removed"):
        from_values(reduce, {"out": "o", "by": "label"}, "reduce")


def test_an_invalid_item_in_a_list_of_choices_is_named():
    def choose(*, of: tuple[Annotated[Literal["a", "b"], "note"], ...] = ("a",)) -> Any:
        return of

    assert from_words(choose, ["--of", "b", "--of", "a"])() == ("b", "a")
    with pytest.raises(UserError, match="--of is 'a,b'; allowed: a, b; give it once per value"):
        from_words(choose, ["--of", "a,b"])


def every_job() -> dict[str, Any]:
    loaded = {name: load_job(module) for name, module in JOBS.items()}
    flat = {name: one for name, one in loaded.items() if not isinstance(one, dict)}
    return flat | {
        f"{name} {word}": one
        for name, ones in loaded.items()
        if isinstance(ones, dict)
        for word, one in ones.items()
    }


@pytest.mark.parametrize("name", every_job())
def test_every_option_of_every_job_names_its_allowed_values(name):
    wanted = every_job()[name]
    given = ["a"] * sum(p.kind is p.POSITIONAL_ONLY for p in inspect.signature(wanted).parameters.values())
    for option, parameter in inspect.signature(wanted).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not isinstance(parameter.default, bool):
            with pytest.raises(UserError, match=r"given without a value; allowed: \w"):
                from_words(wanted, [*given, f"--{option}"])


@pytest.mark.parametrize("name", every_job())
def test_options_that_jobs_share_are_declared_once(name):
    shared = {"address": options.Address, "kind": options.SourceKind, "max_bad_fraction": options.BadFraction}
    for option, parameter in inspect.signature(every_job()[name]).parameters.items():
        assert parameter.annotation == shared.get(option, parameter.annotation), f"{name} --{option}"
