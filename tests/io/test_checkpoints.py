from pathlib import Path

import pytest

from lbae import presets
from lbae.errors import OverwriteNeeded, UserError
from lbae.io.artifacts.checkpoints import begin_run, known_options


def test_a_storage_that_is_a_link_is_emptied_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "work").touch()
    folder = tmp_path / "storage"
    folder.symlink_to(tmp_path / "disk")
    begin_run(str(folder), {"seed": 0}, overwrite=False, restart=False)
    (folder / "run").mkdir()
    (folder / "run" / "checkpoint").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    begin_run(str(folder), {"seed": 1}, overwrite=True, restart=False)
    assert [path.name for path in Path(tmp_path / "disk").iterdir()] == ["run.json"]
    assert (tmp_path / "precious" / "work").exists()


@pytest.mark.parametrize("content", ["{", "[]", "null", "3"])
def test_a_damaged_identity_of_a_run_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        begin_run(str(tmp_path), {"seed": 1}, overwrite=False, restart=False)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        known_options(str(tmp_path / "model"), str(tmp_path))


def test_checkpoints_of_another_recipe_are_refused_and_the_differing_fields_named(tmp_path):
    folder = str(tmp_path / "storage")
    for _ in range(2):
        begin_run(folder, presets.get("cifar10").to_dict(), overwrite=False, restart=False)
    with pytest.raises(OverwriteNeeded, match="holds checkpoints of another run") as refused:
        begin_run(folder, presets.get("cifar10", "paper").to_dict(), overwrite=False, restart=False)
    assert "model.latent_dim was 576, is now 600; model.latent_grid was 8, is now absent" in str(
        refused.value
    )
