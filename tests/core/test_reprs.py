"""What objects print: shape and origin in a few lines, never arrays."""

import dataclasses

import numpy as np
import pytest

from lbae.core.bundle import Bundle
from lbae.core.moments.attribute_table import AttributeRow, html_table, text_table
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.bundle_tensors import save_arrays
from lbae.io.artifacts.latent_table import open_latent_table
from tests.golden.make import HERE
from tests.io.mutate_artifacts import write_artifacts

GOLDEN = HERE / "v1"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """A bundle with two attributes and models of their values."""
    root = tmp_path_factory.mktemp("artifacts")
    write_artifacts(root)
    return load_bundle(str(root / "bundle"), "cpu")


def test_a_bundle_says_shape_and_origin():
    bundle = load_bundle(str(GOLDEN / "bundle"), "cpu")
    assert repr(bundle) == (
        f"Bundle(fingerprint='{bundle.fingerprint[:12]}',\n"
        "       codec=Codec(image_shape=(16, 16, 1), latent_dim=11, precision='float32', device='cpu'),\n"
        "       prior=Prior(sampler='hyperplane', components=1, latent_dim=11,"
        " attributes=0, temperature=1),\n"
        "       attributes=1, examples=0)"
    )


def test_parts_print_no_arrays(bundle):
    sums = sum_packed(np.zeros((5, 2), dtype=np.uint8), 11)
    table = open_latent_table(str(GOLDEN / "latents"))
    assert repr(sums) == "MomentSums(rows=5, latent_dim=11, attributes=0)"
    assert repr(table) == f"LatentTable('{GOLDEN}/latents', rows=40, latent_dim=11)"
    for part in (bundle, bundle.codec, bundle.prior, bundle.normals, bundle.values, bundle.variations):
        assert "array" not in repr(part)
        assert len(repr(part)) < 500


def test_attributes_are_a_table_and_a_mapping(bundle):
    attributes = bundle.attributes
    header, *lines = repr(attributes).splitlines()
    assert header.split() == ["name", "share", "rows", "trusted"]
    assert [line.split()[0] for line in lines] == list(attributes) == list(attributes.names)
    first = attributes.names[0]
    assert first in attributes
    assert "no such" not in attributes
    row = attributes[first]
    known = attributes.set_count[0] + attributes.unset_count[0]
    assert (row.name, row.rows) == (first, int(known))
    assert row.share == pytest.approx(attributes.set_count[0] / known)
    assert row.trusted is bundle.values.trusted(0)
    with pytest.raises(UserError, match="unknown attribute 'no such'"):
        attributes["no such"]


def test_what_is_trusted_is_not_stored(bundle):
    statistics = bundle.attributes
    assert save_arrays(statistics) == save_arrays(dataclasses.replace(statistics, trusted=None))


def test_attributes_without_models_have_no_trust():
    attributes = load_bundle(str(GOLDEN / "bundle"), "cpu").attributes
    assert repr(attributes) == "name   share  rows  trusted\nlabel  50.0%    40        -"


def test_hostile_names_change_neither_terminal_nor_page():
    rows = [AttributeRow("\x1b[2J<b>", 0.5, 1234, True), *[AttributeRow("a" * 99, 0, 0, False)] * 60]
    text, page = text_table(rows), html_table(rows)
    assert "\x1b" not in text + page
    assert "<b>" not in page
    assert max(map(len, text.splitlines())) < 90
    assert text.splitlines()[-1] == "and 11 more"
    assert page.endswith("</table>and 11 more")
    assert "1,234" in text
