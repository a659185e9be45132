"""Several latent tables on a real Ray: sums and bundle of one table with all rows; refusals by name."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from lbae.core.latents.packing import pack
from lbae.distributed.fit.table_fit import read_fit_inputs
from lbae.distributed.latent_table.grouped_sums import write_grouped
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.distributed.latent_table.table_scan import scan
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import KIND, latent_rows, open_latent_table, packed_latents
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_lineage, load_moments
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.storage.parquet_file import write_parquet
from lbae.jobs.build.encode import encode
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from lbae.jobs.inspect.moments import add, subtract
from lbae.report.evaluation.inputs import read_inputs
from tests.conftest import Pipeline, write_latents

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(700, 21))
LABELS = ["cat", "dog", None, "eel"] * 175
CUTS = [slice(0, 100), slice(100, 450), slice(450, 700)]


@pytest.fixture(scope="module", autouse=True)
def connected(ray_session):
    return ray_session


@pytest.fixture
def tables(tmp_path) -> list[str]:
    """Three tables, which hold the rows of a fourth."""
    return [
        write_latents(
            tmp_path / "tables" / str(i), LATENTS[rows], {"label": LABELS[rows]}, numbers=np.arange(700)[rows]
        )
        for i, rows in enumerate((*CUTS, slice(None)))
    ]


def test_the_sums_of_many_tables_are_those_of_one_and_of_added_sums(tables, tmp_path):
    *many, whole = tables
    result = reduce(latents=many, out=f"{tmp_path}/many")
    reduce(latents=whole, out=f"{tmp_path}/whole")
    for i, uri in enumerate(many):
        reduce(latents=uri, out=f"{tmp_path}/m{i}")
    add(f"{tmp_path}/m2", f"{tmp_path}/m0", out=f"{tmp_path}/m20")
    add(f"{tmp_path}/m20", f"{tmp_path}/m1", out=f"{tmp_path}/added")
    found = {name: load_moments(f"{tmp_path}/{name}") for name in ("many", "whole", "added")}
    for sums, manifest in found.values():
        np.testing.assert_array_equal(sums.sums, found["whole"][0].sums)
        assert manifest.fingerprint == result["fingerprint"]
    lineages = [load_lineage(f"{tmp_path}/{name}", found[name][1]) for name in ("many", "added")]
    assert lineages[0] == lineages[1]
    assert result["tables"] == {read_manifest(uri).fingerprint: read_manifest(uri).rows for uri in many}
    again = reduce(latents=(many[2], many[0], many[1]), out=f"{tmp_path}/many")
    assert again == {**result, "already": True}, "the order of the tables does not matter"


def test_an_update_adds_a_table(tables, tmp_path):
    *many, whole = tables
    reduce(latents=many[:2], out=f"{tmp_path}/m")
    result = reduce(latents=many, out=f"{tmp_path}/m", update=True)
    assert (result["added_rows"], result["rows"]) == (250, 700)
    reduce(latents=whole, out=f"{tmp_path}/whole")
    np.testing.assert_array_equal(
        load_moments(f"{tmp_path}/m")[0].sums, load_moments(f"{tmp_path}/whole")[0].sums
    )
    with pytest.raises(UserError, match=r"contains 3 part files that .*tables/0, .* does not have"):
        reduce(latents=many[:2], out=f"{tmp_path}/m", update=True)


def test_a_table_without_a_column_does_not_know_its_attributes(tmp_path, tables):
    bare = write_latents(tmp_path / "bare", LATENTS[:50], numbers=np.arange(900, 950))
    reduce(latents=[tables[0], bare], out=f"{tmp_path}/m")
    sums, _ = load_moments(f"{tmp_path}/m")
    reduce(latents=tables[0], out=f"{tmp_path}/labelled")
    reduce(latents=bare, out=f"{tmp_path}/unlabelled")
    labelled, unlabelled = (load_moments(f"{tmp_path}/{name}")[0] for name in ("labelled", "unlabelled"))
    assert (sums.attributes, sums.count) == (labelled.attributes, 150)
    expected = labelled.sums.copy()
    expected[:21, :21] += unlabelled.sums[:21, :21]
    expected[:21, -1] += unlabelled.sums[:21, -1]
    expected[-1, :21] += unlabelled.sums[-1, :21]
    expected[-1, -1] += 50
    np.testing.assert_array_equal(sums.sums, expected)


def test_sums_by_group_read_all_tables(tables, tmp_path):
    by_bits = lambda rows: packed_latents(rows)[:, 0].astype(np.int64) % 4  # noqa: E731
    found = {}
    for name, latents in (("many", tables[:3]), ("whole", tables[3])):
        table = open_latent_tables(latents)
        grouped = write_grouped(
            table, scan(table, []).row_groups, by_bits, 4, ["latent", "label"], f"{tmp_path}/{name}-copy"
        )
        found[name] = {index: ray.get(ref).sums for index, ref in grouped.sums(())}
        grouped.remove()
    assert sorted(found["many"]) == [0, 1, 2, 3]
    for index, sums in found["many"].items():
        np.testing.assert_array_equal(sums, found["whole"][index])


def test_a_search_of_many_tables_finds_what_a_search_of_one_finds(tables):
    query = pack(LATENTS[[3, 690]])
    many, whole = open_latent_tables(tables[:3]), open_latent_tables(tables[3])
    found, expected = nearest_in(many, query, 20), nearest_in(whole, query, 20)
    np.testing.assert_array_equal(found.distances, expected.distances)
    for index, (key, uri) in enumerate((("k3", tables[0]), ("k690", tables[2]))):
        hit = found.hits(index)[0]
        assert (hit.distance, many.row(hit.part, hit.row_group, hit.row)["key"]) == (0, key)
        assert many.holder(hit.part).uri == uri


def test_rows_that_two_tables_share_are_refused_by_name(tables, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(tables[0], copied)
    extra = latent_rows(pa.array(["new"]), pack(-LATENTS[:1]), pa.table({"label": ["cat"]}), 21, "m1")
    write_parquet(str(copied), "data/part-00009.parquet", extra)
    files = [*read_manifest(tables[0]).files, "data/part-00009.parquet"]
    Output(str(copied), KIND, parents={"model": "m1"}, config={"latent_dim": 21}).publish(
        fingerprint="continued", rows=101, files=files, result={"precision": "float32"}
    )
    with pytest.raises(
        UserError, match=r"share rows: .*tables/0/data/part-00000.parquet .*another one continues"
    ):
        reduce(latents=[tables[0], str(copied)], out=f"{tmp_path}/m")
    same = write_latents(tmp_path / "same", -LATENTS[:5], {"label": LABELS[:5]})
    with pytest.raises(UserError, match=r"keys of \S+, \S+ occur more than once: k\d+"):
        reduce(latents=[tables[0], same], out=f"{tmp_path}/m", unique=True)


def halves(pipeline: Pipeline, out: Path) -> list[str]:
    """Two tables with the rows of the pipeline's table, in another order."""
    table = open_latent_table(pipeline.latents)
    rows = pa.concat_tables([table.read(part) for part in table.parts])
    rest, uris = rows.drop_columns(["key", "latent"]), []
    for index, some in enumerate(np.array_split(np.random.default_rng(1).permutation(len(rows)), 2)):
        part = latent_rows(
            rows["key"].take(some), packed_latents(rows.take(some)), rest.take(some), table.latent_dim,
            table.model_fingerprint,
        )  # fmt: skip
        uris.append(str(out / f"half{index}"))
        write_parquet(uris[-1], "data/part-00000.parquet", part)
        Output(uris[-1], KIND, parents=table.manifest.parents, config=table.manifest.config).publish(
            fingerprint=f"half{index}",
            rows=len(some),
            files=["data/part-00000.parquet"],
            result={name: table.manifest.result[name] for name in ("precision", "model", "data")},
        )
    return uris


@pytest.mark.parametrize("exact", [False, True])
def test_the_bundle_of_many_tables_is_that_of_one(pipeline, tmp_path, exact):
    uris = halves(pipeline, tmp_path)
    for uri in uris:
        reduce(latents=uri, out=f"{uri}-moments")
    added = add(f"{uris[0]}-moments", f"{uris[1]}-moments", out=f"{tmp_path}/added")
    options = {"model": pipeline.model, "components": 3, "exact": exact, "seed": 5}
    one = fit(**options, latents=pipeline.latents, moments=pipeline.moments, out=f"{tmp_path}/one")
    many = fit(**options, latents=uris, moments=added["out"], out=f"{tmp_path}/many")
    assert many["fingerprint"] == one["fingerprint"]
    assert many["fidelity"] == one["fidelity"]
    parents = read_manifest(f"{tmp_path}/many").parents
    assert parents["latents"] == open_latent_tables(uris).fingerprint
    for path in ("prior.safetensors", "values.safetensors"):
        assert (tmp_path / "many" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()


def test_sums_of_other_tables_than_those_given_are_refused_by_name(pipeline, tmp_path):
    a, b = halves(pipeline, tmp_path)
    for uri in (a, b):
        reduce(latents=uri, out=f"{uri}-moments")
    add(f"{a}-moments", f"{b}-moments", out=f"{tmp_path}/added")
    add(f"{tmp_path}/added", f"{a}-moments", out=f"{tmp_path}/twice", force=True)
    subtract(f"{tmp_path}/added", f"{a}-moments", out=f"{tmp_path}/less")
    for latents, moments in (
        (a, f"{tmp_path}/added"),
        ([a, b], f"{a}-moments"),
        ([a, b], f"{tmp_path}/twice"),
        ([a, b], f"{tmp_path}/less"),
        (pipeline.latents, f"{tmp_path}/added"),
    ):
        with pytest.raises(UserError, match=r"cover latent tables with the fingerprints and rows .*half0 "):
            read_fit_inputs(pipeline.model, latents, moments)
    read_fit_inputs(pipeline.model, [b, a], f"{tmp_path}/added")
    read_fit_inputs(pipeline.model, b, f"{tmp_path}/less")  # what is left are the sums of this table


def test_a_fit_refuses_keys_that_occur_in_two_tables(pipeline, tmp_path):
    a, _ = halves(pipeline, tmp_path)
    table = open_latent_table(a)
    rows = table.read(table.parts[0]).slice(0, 200)
    rest = rows.drop_columns(["key", "latent"])
    other = latent_rows(
        rows["key"], packed_latents(rows) ^ 1, rest, table.latent_dim, table.model_fingerprint
    )
    b = str(tmp_path / "other")
    write_parquet(b, "data/part-00000.parquet", other)
    Output(b, KIND, parents=table.manifest.parents, config=table.manifest.config).publish(
        fingerprint="other", rows=200, files=["data/part-00000.parquet"], result=table.manifest.result
    )
    reduce(latents=[a, b], out=f"{tmp_path}/m")
    for given in itertools.permutations([a, b]):
        with pytest.raises(UserError, match=r"key '[ab].parquet:\d+' occurs in latent table .* and again in"):
            fit(
                model=pipeline.model,
                latents=given,
                moments=f"{tmp_path}/m",
                out=f"{tmp_path}/bundle",
                components=1,
            )


def test_a_second_image_table_with_equal_file_names_is_appended_under_a_name(pipeline, digits, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(digits, more)  # the same files, as of two tables by `lbae ingest`
    out = str(tmp_path / "latents")
    first = encode(model=pipeline.model, data=f"one={digits}", out=out)
    table = open_latent_table(out)
    assert table.images() == [f"one={digits}"]
    assert plan(table.images()).fingerprint == table.manifest.parents["data"]
    both = encode(model=pipeline.model, data=[str(more), f"one={digits}"], out=out, append=True)
    assert (first["rows"], both["known_rows"], both["rows"]) == (600, 600, 1200)
    table = open_latent_table(out)
    rows = pa.concat_tables([table.read(part, ["key"]) for part in table.parts])
    keys = {key.partition(":")[0] for key in rows["key"].to_pylist()}
    assert keys == {"one/a.parquet", "one/b.parquet", "more/a.parquet", "more/b.parquet"}
    whole = encode(model=pipeline.model, data=(f"one={digits}", str(more)), out=f"{tmp_path}/whole")
    assert whole["fingerprint"] == both["fingerprint"]


def test_an_evaluation_takes_the_tables_that_the_bundle_was_fitted_from(pipeline, tmp_path):
    uris = halves(pipeline, tmp_path)
    reduce(latents=uris, out=f"{tmp_path}/m")
    fit(model=pipeline.model, latents=uris, moments=f"{tmp_path}/m", out=f"{tmp_path}/b", components=1)
    found = read_inputs(f"{tmp_path}/b", str(pipeline.data), str(pipeline.data), uris[::-1], f"{tmp_path}/m")
    assert found.latents is not None
    assert found.latents.rows == 600
    for latents in (uris[:1], [*uris, pipeline.latents], pipeline.latents):
        with pytest.raises(UserError, match="was fitted from latents with the fingerprint"):
            read_inputs(f"{tmp_path}/b", str(pipeline.data), None, latents, None)


def test_the_jobs_take_tables_as_words_and_patterns(job, pipeline, tmp_path):
    a, b = halves(pipeline, tmp_path)
    (tmp_path / "a.png").write_bytes(Path("docs/images/seven.png").read_bytes())
    for words in (("--latents", a, b), ("--latents", a, "--latents", b), ("--latents", f"{tmp_path}/half?")):
        found = job("search", *words, "--image", tmp_path / "a.png", "--k", 3, "--out", tmp_path / "h.png")
        assert found.code == 0, found.err
        assert re.findall(r'"latents": "([^"]+)"', found.out)[0] in (a, b)
    shown = job("show", a, b, "--picture", tmp_path / "p.png")
    assert shown.code == 0, shown.err
    assert '"rows": 600' in shown.out
    assert (tmp_path / "p.png").exists()
