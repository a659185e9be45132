"""The direction of imports between the layers, and the names of the jobs."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from lbae.cli import JOBS

ROOT = Path(__file__).parent.parent
LAYERS = ["", "core", "io", "report", "web", "distributed", "jobs"]
BANNED = {  # what each layer must not import
    "": {"ray", "torch", "numpy", "pyarrow", "PIL", "fastapi", "tyro", "rich"},
    "core": {"ray", "pyarrow", "fsspec", "s3fs", "PIL", "fastapi", "matplotlib", "safetensors", "rich"},
    "io": {"ray", "fastapi", "matplotlib"},
    "report": {"ray", "fastapi"},
    "web": {"ray"},
    "distributed": set(),
    "jobs": set(),
}
MODULES = sorted((ROOT / "lbae").rglob("*.py"))
BESIDE_THE_LAYERS = {"lbae/cli.py"}


def layer(path: Path) -> str:
    parts = path.relative_to(ROOT / "lbae").parts
    return parts[0] if len(parts) > 1 else ""


def stage_of(module: str) -> str | None:
    """The stage of a module of the distributed layer; None for modules that all stages share.

    A folder named after a job holds that job's stage. Every other folder is shared.
    """
    package, _, rest = module.partition("lbae.distributed.")
    room = rest.partition(".")[0]
    return room if not package and (ROOT / "jobs" / f"{room}.py").exists() else None


def imports(path: Path) -> list[str]:
    """Modules that importing the file imports; imports inside functions do not count."""
    found: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_layer_and_those_above(path):
    if str(path.relative_to(ROOT)) in BESIDE_THE_LAYERS:
        return
    mine = layer(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in BANNED[mine], f"{path} imports {name}"
        if top == "lbae":
            target = rest.split(".")[0] if rest.split(".")[0] in LAYERS else ""
            assert LAYERS.index(target) <= LAYERS.index(mine), f"{path} imports {name}"
        if mine == "jobs" and path.parent.name != "jobs" and name.startswith("lbae.jobs."):
            assert name.startswith("lbae.jobs.options."), (
                f"{path} imports {name}: only demo and pipeline run other jobs"
            )
        if mine == "distributed" and (
            stage := stage_of(f"lbae.{'.'.join(path.relative_to(ROOT / 'lbae').parts)}")
        ):
            assert stage_of(name) in (stage, None), f"{path} imports {name}"


def test_the_layers_above_distributed_do_not_load_ray():
    layers = [
        path for name in ("core", "io", "report", "web") for path in (ROOT / "lbae" / name).rglob("*.py")
    ]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in layers]
    names = [name.removesuffix(".__init__") for name in modules]
    code = f"import sys, {', '.join(names)}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_check_for_ray_finds_ray():
    code = "import sys, lbae.distributed.cluster.session; assert 'ray' not in sys.modules"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT).returncode
        == 1
    )


def test_shapes_are_checked_in_core():
    """A test of the tests: the jaxtyping hook is active in this run."""
    import numpy as np

    from lbae.core.latents.packing import pack

    with pytest.raises(Exception, match="Type-check error"):
        pack(np.zeros(3, dtype=np.int8))


@pytest.mark.parametrize("job", ["sample", "interpolate", "vary", "edit", "reconstruct", "show", "export"])
def test_pictures_and_exports_are_made_without_ray(job):
    """Their layers do not load Ray, and they import the distributed layer only inside functions."""
    body = ROOT / f"{JOBS[job].replace('.', '/')}.py"
    assert not [name for name in imports(body) if name.startswith(("ray", "lbae.distributed"))]


def private_names_of_ray(path: Path) -> list[str]:
    """Private modules and names of Ray that a file uses, including inside functions."""
    tree, found, roots = ast.parse(path.read_text()), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                name = f"{module}.{alias.name}" if module else alias.name
                if name.partition(".")[0] == "ray":
                    found.append(name)
                    roots.add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.partition(".")[0] in roots:
                found.append(name)
    return [name for name in found if any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_apis_of_ray_are_used_in_two_modules(path):
    used = private_names_of_ray(path)
    if path.name == "ray_private.py":
        assert {"ray._private.services.find_bootstrap_address", "serve._run"} <= set(used)
    elif path.name == "private_haproxy.py":
        assert set(used) == {"ray.serve._private.haproxy"}
    else:
        assert not used, f"{path} uses {used}; move this to lbae/distributed/cluster/ray_private.py"


def test_every_job_has_a_script():
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(JOBS)


def test_no_job_shadows_a_module():
    taken = set(sys.stdlib_module_names) | {
        name for name in importlib.metadata.packages_distributions() if name != "jobs"
    }
    assert not taken & {path.stem for path in (ROOT / "jobs").glob("*.py")}
