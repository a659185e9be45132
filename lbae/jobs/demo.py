"""Run the whole pipeline on the bundled MNIST sample and write a report page."""

from pathlib import Path
from typing import Any

import lbae
from lbae.distributed.cluster.session import session
from lbae.jobs.build.encode import encode
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from lbae.jobs.build.train import train
from lbae.jobs.options import Address, Overwrite
from lbae.report.pages.tour import write_tour

# As many as `auto` takes for these digits; it would first fit 200, which memorise them.
_COMPONENTS = 50
_EXAMPLES = 8  # MNIST's licence, CC BY-SA 3.0, allows redistribution


def demo(
    *,
    out: str = "runs/demo",
    epochs: int | None = None,
    workers: int | None = None,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Run train, encode, reduce and fit on the bundled MNIST sample, and write a report page.

    A second run keeps the stages that are finished with the same options.

    Args:
        out: Folder for the artifacts, the pictures and the report.
        epochs: Passes over the images. If omitted: 12, as in the preset demo.
        workers: Training processes. If omitted: one per GPU; without GPUs one per CPU, at most four.
    """
    data = str(Path(lbae.__file__).parent / "sample" / "mnist")
    model, latents, moments, bundle = (f"{out}/{name}" for name in ("model", "latents", "moments", "bundle"))
    with session(address):
        results = {
            "train": train(
                data=data, out=model, preset="demo", epochs=epochs, workers=workers, overwrite=overwrite
            ),
            "encode": encode(model=model, data=data, out=latents, overwrite=overwrite),
            "reduce": reduce(latents=latents, out=moments, overwrite=overwrite),
            "fit": fit(
                model=model,
                latents=latents,
                moments=moments,
                out=bundle,
                components=_COMPONENTS,
                examples=_EXAMPLES,
                overwrite=overwrite,
            ),
        }
    change = ("label=1", "label=7")
    report = write_tour(out, bundle=bundle, moments=moments, data=data, results=results, change=change)
    return {"out": out, "page": f"{out}/report.html", **report}
