import pytest

from lbae import presets
from lbae.errors import OverwriteNeeded
from lbae.io.artifacts.checkpoints import begin_run


def test_checkpoints_of_another_recipe_are_refused_and_the_differing_fields_named(tmp_path):
    folder = str(tmp_path / "storage")
    for _ in range(2):
        begin_run(folder, presets.get("cifar10").to_dict(), overwrite=False, restart=False)
    with pytest.raises(OverwriteNeeded, match="holds checkpoints of another run") as refused:
        begin_run(folder, presets.get("cifar10", "paper").to_dict(), overwrite=False, restart=False)
    assert "model.latent_dim was 576, is now 600; model.latent_grid was 8, is now absent" in str(
        refused.value
    )
