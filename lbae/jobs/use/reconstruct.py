"""Reconstruct images: a PNG of originals above reconstructions, or an image table."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts import image_table
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png, is_picture
from lbae.io.picture_file import check_not_read, write_picture
from lbae.io.sources.plan import plan
from lbae.jobs.options import OneOrMore, Overwrite, SourceKind
from lbae.report.figures.pictures import load_images, reconstructions


def reconstruct(
    *,
    bundle: str,
    data: OneOrMore,
    out: str,
    num: int = 32,
    kind: SourceKind = None,
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    """Encode and decode images: a PNG of originals above reconstructions, or an image table.

    Args:
        bundle: URI of the bundle.
        data: Images: Parquet, WebDataset tars, image files or torchvision:NAME.
            Its NAME is mnist, cifar10 or celeba; torchvision:NAME:test is the test split.
            Several are read as one, and keys then begin with the names of their sources: NAME of NAME=URI,
            else the last part of the path.
        out: PNG file to write (*.png), or URI of an image table with the reconstructions only.
        num: Number of images, 1 or more: the first ones of the source.
    """
    if num < 1:
        raise UserError(f"num is {num}; allowed: 1 or more")
    picture_wanted = is_picture(out)
    source = plan(data, kind)
    check_not_read(out, *source.uris)
    loaded = load_bundle(bundle)
    source.check_output(out)
    source.check_stored(loaded.codec.config.content_size, loaded.codec.config.image_channels)
    images, bad = load_images(loaded.codec.config, source, num)
    picture, result = reconstructions(loaded, images)
    result |= {"bad": bad, "source_images": source.rows, **source.skipped_result}
    if picture_wanted:
        write_picture(out, encode_png(picture))
        return {"out": out, **result}
    parents = {"bundle": loaded.fingerprint, "data": source.fingerprint}
    inputs = [bundle, *source.folders]
    output = Output(
        out, image_table.KIND, parents=parents, config={"num": num}, inputs=inputs, overwrite=overwrite
    )
    if done := output.begin():
        return done
    part = image_table.write_part(out, 0, 0, loaded.reconstruct(images))
    return image_table.publish_images(output, [part], result)
