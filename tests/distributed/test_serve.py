"""The service on real Ray Serve, over real HTTP: both topologies answer as the bundle does in this process."""

import importlib

import httpx
import numpy as np
import pytest
import ray
import ray.serve
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from lbae.core.packing import pack
from lbae.distributed.deployments import Deployed
from lbae.distributed.serve import serving
from lbae.errors import UserError
from lbae.io.bundle import load_bundle
from lbae.io.images import encode_png
from lbae.web import client as web
from lbae.web.guard import KEYS_VARIABLE, Limits
from tests.conftest import ROOT
from tests.web.conftest import pixels_of

PORT = 18125
LIMITS = Limits(keys=("one",), max_running=16)


def config(bundle: str, **changes) -> ServeApplicationSchema:
    tree = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(tree).applications
    application.args |= {"bundle": bundle, **changes}
    return application


def test_the_config_file_builds_the_application(pipeline, monkeypatch):
    application = config(pipeline.bundle)
    target = getattr(*_imported(application.import_path))
    assert isinstance(target(Deployed(**application.args)), ray.serve.Application)
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(UserError, match="there are no API keys"):
        target(Deployed(**config(pipeline.bundle, insecure=False).args))
    with pytest.raises(ValidationError, match="replica"):
        Deployed(**config(pipeline.bundle, replica=2).args)


def _imported(path: str) -> tuple[object, str]:
    module, _, name = path.partition(":")
    return importlib.import_module(module), name


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["fused", "split"])
def test_every_verb_answers_as_the_bundle(pipeline, topology):
    bundle = load_bundle(pipeline.bundle, "cpu")
    images = bundle.sample(2, 5)
    files = [encode_png(image) for image in images]
    latents = bundle.encode(images)
    with (
        serving(pipeline.bundle, PORT, replicas=2, topology=topology, limits=LIMITS) as facts,
        web.Client(facts["url"], "one") as service,
    ):
        assert (facts["url"], facts["bundle"]) == (f"http://127.0.0.1:{PORT}", bundle.fingerprint)
        drawn = [service.send(web.sample(1, seed=5, format="png")) for _ in range(6)]  # by either replica
        assert len({answer.content for answer in drawn}) == 1
        assert np.abs(pixels_of(drawn[0].content).astype(int) - images[0, ..., 0]).max() <= 2  # other numbers of threads
        given = service.send(web.sample(3, seed=1, given={"label=7": True}, format="latents"))
        assert given.seed == 1
        (found, bad) = service.send(web.encode([files[0], b"no image"]))
        assert (np.frombuffer(found.packed, np.uint8) != pack(latents[:1])).mean() < 0.1
        assert bad.status == 422
        (decoded,) = service.send(web.decode([found]))
        assert pixels_of(decoded).shape == (28, 28)
        assert service.send(web.interpolate(files, steps=3, format="stream")).content.count(b"\n") == 3
        edited = service.send(web.edit(files[0], set=["label=7"], unset=["label=1"]))
        assert edited.bits_changed >= 0
        with pytest.raises(web.ServiceError, match="unknown attribute 'label=x'"):
            service.send(web.edit(files[0], set=["label=x"]))
        with pytest.raises(web.ServiceError, match="component is 999999; allowed: 0 to"):
            service.send(web.sample(1, component=999_999))
        assert httpx.post(f"{facts['url']}/v1/sample", json={}).status_code == 401
    assert not any(actor["name"].startswith("SERVE_REPLICA") for actor in ray.util.list_named_actors(all_namespaces=True))
