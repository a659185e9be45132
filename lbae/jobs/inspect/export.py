"""Export a model or latent tables to files that other tools read."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts import exported_model
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.vectors import exported_latents
from lbae.jobs.options import OneOrMore, Overwrite
from lbae.report.progress import ProgressLine


def export(
    *,
    out: str,
    model: str | None = None,
    latents: OneOrMore | None = None,
    format: exported_latents.Format | None = None,
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    """Export a model as torch.export files, or a latent table to files that search tools read.

    A model becomes encoder.pt2 and decoder.pt2 in float32. The encoder maps images (K, C, H, W) in [0, 1],
    padded as the model's config.json says, to latents (K, N) of +1 and -1. The decoder maps latents to
    images. K is any number. Both files are loaded again and compared with the network; a difference is an
    error.

    A latent table becomes its bits, most significant bit first, with the key and the columns of every row.

    Args:
        out: URI of the folder to write.
        model: URI of the model. Give this or --latents.
        latents: URI of the latent table. Give this or --model. Several, or a pattern such as 'OUT/*', are
            exported as one table.
        format: Format of exported latents, needed with --latents. faiss: a FAISS binary index. npy: a NumPy
            array of bytes. lance: a Lance table.
    """
    if (model is None) == (latents is None):
        found = "neither" if model is None else "both"
        raise UserError(f"{found} of --model and --latents were given; give one of them")
    if model is not None:
        if format:
            raise UserError(
                "--format is for --latents only; a model is always exported as torch.export files"
            )
        return _export_model(model, out, overwrite)
    if latents is None or format is None:
        raise UserError("--latents was given without --format; allowed: faiss, npy, lance")
    return _export_latents(latents, out, format, overwrite)


def _export_model(model: str, out: str, overwrite: bool) -> dict[str, Any]:
    network, config, manifest = load_network(model)
    parents = {"model": manifest.fingerprint}
    output = Output(out, exported_model.KIND, parents=parents, config={}, inputs=[model], overwrite=overwrite)
    if done := output.begin():
        return done
    return exported_model.export_model(network, config.model, manifest, output)


def _export_latents(
    latents: OneOrMore, out: str, format: exported_latents.Format, overwrite: bool
) -> dict[str, Any]:
    table = open_latent_tables(latents)
    if not table.rows:
        raise UserError(f"latent table {table} holds no rows; there is nothing to export")
    parents = {"latents": table.fingerprint, "model": table.model_fingerprint}
    output = Output(
        out,
        exported_latents.KIND,
        parents=parents,
        config={"format": format},
        inputs=table.uris,
        overwrite=overwrite,
    )
    if done := output.begin():
        return done
    with ProgressLine("export", table.rows, "rows") as line:
        return exported_latents.export_latents(table, output, format, line.update)
