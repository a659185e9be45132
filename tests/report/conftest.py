"""Stand-ins for networks of the reports whose weights cannot be downloaded."""

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of Inception in torch's cache, in the file that torch-fidelity reads."""

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """Keep the random weights."""

    torch.save({}, tmp_path / "none.pth")
    torch.manual_seed(0)
    network = Untrained("inception-v3-compat", ["2048"], str(tmp_path / "none.pth"))
    for module in network.modules():
        if isinstance(
            module, torch.nn.Conv2d
        ):  # with the default initialisation all images have nearly the same features
            torch.nn.init.kaiming_normal_(module.weight)
    weights = tmp_path / "hub" / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    weights.parent.mkdir(parents=True)
    torch.save(network.state_dict(), weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return weights
