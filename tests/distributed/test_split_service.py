"""The deployments of the split topology: what each holds, and that no request is lost when one dies."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lbae.distributed.serve.packed_latents import PackedLatents, packed, unpacked
from lbae.distributed.serve.split_topology import INGRESS, ROLES
from lbae.web.backend.backend import Backend
from tests.bundles import untrained_bundle
from tests.conftest import ROOT

VERBS = (
    "draw",
    "vary",
    "path",
    "edit",
    "edit_at_all",
    "confidence",
    "move_to_given",
    "encode",
    "decode",
    "reconstruct",
    "recode",
)


def test_every_verb_has_one_deployment_and_only_the_codec_runs_the_network():
    assert sorted(verb for role in ROLES.values() for verb in role.verbs) == sorted(VERBS)
    assert all(hasattr(Backend, verb) for verb in VERBS)
    assert [name for name, role in ROLES.items() if role.runs_network] == ["Codec"]
    assert {name: role.parts for name, role in ROLES.items()} == {
        "Codec": ("codec",),
        "Sampler": ("prior",),
        "Interpolator": ("normals",),
        "Editor": ("attributes", "values"),
        INGRESS: ("facts",),
    }


@pytest.mark.parametrize("bits", [8, 13])
def test_only_latents_are_packed_between_deployments(bits):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (5, bits))
    sent = packed(latents)
    assert isinstance(sent, PackedLatents)
    assert sent.rows.nbytes == 5 * -(-bits // 8)
    assert unpacked(sent).dtype == np.int8
    assert (unpacked(sent) == latents).all()
    for other in (np.zeros((2, 4, 4, 1), np.uint8), np.array([0.5]), "exchange", 0.5, {"a": True}):
        assert packed(other) is other
        assert unpacked(other) is other


@pytest.mark.parametrize(
    "modules",
    [
        ("lbae.web.app", "lbae.distributed.serve.ingress", "lbae.distributed.serve.split_topology"),
        ("lbae.web.backend.path_verbs", "lbae.distributed.serve.verb_deployment"),
    ],
    ids=["ingress", "interpolator"],
)
def test_deployments_that_need_no_torch_do_not_load_it(modules):
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_the_split_service_answers_as_the_fused_one_while_its_replicas_die(pipeline, tmp_path):
    other = untrained_bundle(pipeline, tmp_path)
    command = [sys.executable, "-m", "tests.distributed.split_service", pipeline.bundle, other]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["deployments"] == ["BundleRegistry", "Codec", "Editor", "Interpolator", "LBAE", "Sampler"]
    assert {name for name, wants in facts["gpus"].items() if wants} == {"Codec"}
    assert facts["gpus_taken"] == 1
    assert {name for name, loaded in facts["torch"].items() if loaded == [False]} == {"Interpolator", "LBAE"}
    assert not facts["registry_on_head"], "it has no CPUs"
    assert facts["differ"] == []
    assert set(facts["killed"]) == set(ROLES)
    # No request failed or differs from the fused service's answer, before and after the swap.
    assert set(facts["seen"]) == set(facts["bundles"]), facts
