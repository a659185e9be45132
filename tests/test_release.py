"""A release: the workflow that a tag starts, and the packages that it builds."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import lbae
from tests.conftest import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
SCRIPTS = "\n".join(step["run"] for step in STEPS if "run" in step)


def test_only_the_job_that_publishes_may_write():
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    assert WORKFLOW["permissions"] == {}
    granted = {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()}
    writing = {"contents": "write", "id-token": "write", "attestations": "write"}
    assert granted.pop("publish") == writing
    assert all(rights == {"contents": "read"} for rights in granted.values())
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(granted)
    assert not any("checkout" in step.get("uses", "") for step in WORKFLOW["jobs"]["publish"]["steps"])


def test_actions_are_pinned_by_commit():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", name)] == []


def test_scripts_take_nothing_from_expressions():
    """A tag's name or a variable inside a script would be run as shell; the environment is not."""
    assert "${{" not in SCRIPTS


def test_what_the_workflow_calls_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bmake ([\w-]+)", SCRIPTS))
    assert {"dist", "sbom"} == called <= targets
    named = re.findall(r"(?:bash|-f) ([\w./-]+)", SCRIPTS)
    assert {".ci/run", "cluster/Dockerfile"} == set(named)
    assert all((ROOT / name).exists() for name in named)


def begin(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow's first script in ``folder`` as for a tag."""
    (script,) = (step["run"] for step in STEPS if "changelog" in step.get("name", ""))
    variables = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag}
    command = ["bash", "-e", "-c", script]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_a_tag_must_be_the_version_and_have_notes(tmp_path):
    (tmp_path / "lbae").mkdir()
    shutil.copy(ROOT / "lbae" / "__init__.py", tmp_path / "lbae")
    version = lbae.__version__
    sections = (
        f"# Changelog\n\n## Unreleased\n\nnext\n\n## {version} - 2027-01-01\n\nnew\n\n## 0.0.1\n\nold\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(sections)
    assert begin(tmp_path, f"v{version}").returncode == 0
    assert (tmp_path / "notes.md").read_text() == "\nnew\n\n"
    refused = begin(tmp_path, "v99.0.0")
    assert refused.returncode == 1
    assert f"the tag is v99.0.0, but lbae/__init__.py says {version}: tag v{version}" in refused.stdout
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\nnext\n")
    refused = begin(tmp_path, f"v{version}")
    assert refused.returncode == 1
    assert f"CHANGELOG.md has no section '## {version}'" in refused.stdout


def recipe(target: str) -> str:
    """The commands of a target of the Makefile, with the tools of this environment."""
    (lines,) = re.findall(rf"^{target}: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return lines.replace("\t", "").replace("$(BIN)", str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files of a clean checkout of what stands here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make dist`` builds of a clean tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    command = ["bash", "-e", "-c", recipe("dist")]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tree / "dist"


def test_the_wheel_holds_the_package_and_nothing_else(dist, tracked):
    (wheel,) = dist.glob(f"lbae-{lbae.__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    facts = f"lbae-{lbae.__version__}.dist-info/"
    package = {name for name in tracked if name.startswith("lbae/")}
    assert {name for name in names if not name.startswith(facts)} == package
    assert {"lbae/py.typed", "lbae/sample/mnist/part-00000.parquet"} <= package
    assert {f"{facts}METADATA", f"{facts}entry_points.txt", f"{facts}licenses/LICENSE"} <= names


def test_the_sdist_holds_what_a_checkout_holds(dist, tracked):
    with tarfile.open(dist / f"lbae-{lbae.__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked) <= names
    assert names - set(tracked) == {"PKG-INFO"}


def test_the_wheel_offers_the_extras(dist):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        facts = email.message_from_bytes(archive.read(f"lbae-{lbae.__version__}.dist-info/METADATA"))
    assert set(facts.get_all("Provides-Extra")) == {"hf", "mlflow", "wandb", "lance", "dev"}
    needed = facts.get_all("Requires-Dist")
    for extra in ("hf", "mlflow", "wandb", "lance"):  # nobody else pays for them
        assert len([one for one in needed if f"extra == '{extra}'" in one]) == 1


@pytest.mark.slow
def test_the_sbom_names_every_pinned_package_with_its_hashes(tmp_path):
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["bash", "-e", "-c", recipe("sbom")], cwd=tmp_path, capture_output=True, check=True)
    bill = json.loads((tmp_path / "dist" / "lbae.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == "lbae"
    named = {
        (one["name"], one["version"]): {
            file["content"] for link in one["externalReferences"] for file in link["hashes"]
        }
        for one in bill["components"]
    }
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==([^ ;]+)(.*(?:\n    --hash.*)+)", lock, re.MULTILINE)
    assert len(pins) > 100
    assert named == {(name, version): set(re.findall(r"sha256:(\w+)", rest)) for name, version, rest in pins}
