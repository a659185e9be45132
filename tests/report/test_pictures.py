import pytest

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.report.figures.pictures import load_image


def test_an_image_without_end_or_of_many_bytes_is_not_read(tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(UserError, match=r"large\.png has 268435457 bytes; allowed: at most 268435456"):
        load_image(ModelConfig(), str(large))
    with pytest.raises(UserError, match="/dev/null is a device or a pipe; allowed: a file"):
        load_image(ModelConfig(), "/dev/null")
