"""Set and unset attributes of an image, such as a label."""

from typing import Any

from lbae.core.bundle import Bundle, Images
from lbae.core.latents.editing import Method
from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png, is_picture
from lbae.io.picture_file import check_not_read, write_picture
from lbae.jobs.options import Names
from lbae.report.figures.pictures import load_image, strip


def edit(
    *,
    bundle: str,
    image: str,
    out: str,
    set: Names = (),
    unset: Names = (),
    strength: float | None = None,
    until: float | None = None,
    method: Method = "exchange",
) -> dict[str, Any]:
    """Set and unset attributes of an image; `lbae show BUNDLE` lists the attributes.

    Args:
        bundle: URI of the bundle.
        image: Image file to edit.
        out: PNG file to write (*.png): the reconstruction, then the edited image.
        set: Attribute to set: a column, or column=value. Repeat for several.
        unset: Attribute to unset. Repeat for several.
        strength: From 0 (no change) through 1 (a typical image with the attributes; the default) to 2; to
            1 with bits.
        until: In place of a strength: take the least one at which the image has the attributes with this
            confidence (0.9, say). If none reaches it, take the surest.
        method: exchange splits the unit vectors of images with the attributes by this image's
            hyperplane; bits flips the bits with the largest lift.
    """
    if not is_picture(out):
        raise UserError(f"out is {out!r}; allowed: a file name that ends in .png")
    check_not_read(out, image)
    if until is not None and (strength is not None or method != "exchange"):
        raise UserError(
            "until chooses the strength of the method exchange: leave --strength and --method out, or --until"
        )
    loaded = load_bundle(bundle)
    original = load_image(loaded.codec.config, image)[None]
    facts: dict[str, Any]
    if until is None:
        edited, changed = loaded.edit(original, set, unset, 1.0 if strength is None else strength, method)
        facts = {"bits_changed": int(changed[0])}
    else:
        edited, facts = _until(loaded, original, set, unset, until)
    write_picture(out, encode_png(strip([loaded.reconstruct(original)[0], edited[0]])))
    return {
        "out": out,
        "method": method,
        **facts,
        "latent_dim": loaded.prior.latent_dim,
        "bundle": loaded.fingerprint,
    }


def _until(
    bundle: Bundle, image: Images, set_: Names, unset: Names, until: float
) -> tuple[Images, dict[str, Any]]:
    """The edited image, and what its strength was and how sure it is."""
    found = bundle.edit_until(image, set_, unset, until)
    changed = int((found.latents != bundle.encode(image)).sum())
    strength, sure = float(found.strengths[0]), round(float(found.confidence[0]), 4)
    return found.images, {"strength": strength, "confidence": sure, "bits_changed": changed}
