import pytest

from lbae.errors import UserError
from lbae.io.storage.json_file import MOST_BYTES, read_object
from lbae.io.storage.location import resolve


def nested(levels: int) -> bytes:
    return b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(nested(32))
    assert list(read_object(resolve(str(tmp_path / "a.json")))) == ["a"]
    with pytest.raises(UserError, match=r"b\.json is damaged: there is no such file"):
        read_object(resolve(str(tmp_path / "b.json")))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (nested(100_000), "is not JSON|nested"),
        (nested(33), "nested more than 32 levels"),
        (b'{"a": [' + b"[]," * 2_000_000 + b"1]}", "holds more than 2000000 values"),
        (b"[1]", "holds a list; allowed: one object"),
        (b"null", "holds a NoneType; allowed: one object"),
        (b'{"a": "' + b"x" * MOST_BYTES + b'"}', "has 16777225 bytes; allowed: at most 16777216"),
    ],
)
@pytest.mark.parametrize("place", ["{}", "memory://test_json_file"])
def test_anything_else_is_refused(tmp_path, place, content, match):
    location = resolve(place.format(tmp_path)) / "a.json"
    location.write_bytes(content)
    match = match if location.is_local else match.replace("has 16777225", "has more than 16777216")
    with pytest.raises(UserError, match=rf"a\.json .*({match})"):
        read_object(location)
