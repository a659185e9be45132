import json
import re

import pytest

from lbae.report.pages.tour import write_tour
from tests.conftest import picture_size


def test_a_tour_writes_pictures_a_report_and_a_page(pipeline, tmp_path):
    results = dict(zip(("train", "encode", "reduce", "fit"), pipeline.results, strict=False))
    places = {"bundle": pipeline.bundle, "moments": pipeline.moments, "data": str(pipeline.data)}
    report = write_tour(str(tmp_path), **places, results=results, change=("label=1", "label=7"))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (
        picture_size(tmp_path / "samples.png")
        == picture_size(tmp_path / "samples_direct.png")
        == (16 * 58 + 2, 4 * 58 + 2)
    )
    assert picture_size(tmp_path / "reconstructions.png") == (16 * 58 + 2, 4 * 58 + 2)
    assert picture_size(tmp_path / "interpolation.png") == (12 * 58 + 2, 4 * 58 + 2)
    assert picture_size(tmp_path / "edit.png")[1] == 5 * 58 + 2
    prior, _, direct = report["moments_of_samples"].values()
    assert prior["pairs_rms"] < direct["pairs_rms"]
    assert report["edit"]["mean_bits_changed"]["0.0"] == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 9
    assert not re.search(r"(src|href)=.?https?:|url\(|@import", page)


@pytest.mark.slow
def test_the_demo_runs_all_stages(job, ray_session, tmp_path):
    outcome = job("demo", "--epochs", 1, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out.strip().splitlines()[-1])
    assert facts["stages"]["encode"]["rows"] == 10_000
    assert (tmp_path / "report.html").exists()
