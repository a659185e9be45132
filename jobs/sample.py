"""Draw new images from a bundle: a PNG grid, or an image table when --out has no image suffix."""

from typing import Any

from lbae.cli import Names, run
from lbae.errors import UserError
from lbae.io import artifact
from lbae.io.bundle import load_bundle
from lbae.io.image_table import KIND, save_image_table
from lbae.io.images import encode_png, is_picture, square_grid
from lbae.io.storage import resolve
from lbae.report.pictures import decoded


def sample(
    *,
    bundle: str,
    out: str,
    num: int = 64,
    seed: int = 0,
    given: Names = (),
    given_not: Names = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw new images.

    Args:
        bundle: URI of the bundle.
        out: a picture (*.png), or the URI of an image table.
        num: number of images.
        seed: seed; image i depends on the bundle, the seed, the attributes given and i only.
        given: attribute the images are to have, a column or column=value; may be given several times.
        given_not: attribute the images are not to have.
        overwrite: replace another image table at ``out``.
    """
    if num < 1 or seed < 0:
        raise UserError(f"num is {num} and seed is {seed}; allowed: num from 1, seed from 0")
    if both := set(given) & set(given_not):
        raise UserError(f"{min(both)!r} is both given and given-not")
    loaded = load_bundle(bundle)
    wanted = {**dict.fromkeys(given, True), **dict.fromkeys(given_not, False)}
    settings = {"num": num, "seed": seed, "given": wanted}
    if not is_picture(out) and (done := artifact.begin(out, KIND, {"bundle": loaded.fingerprint}, settings, overwrite)):
        return done
    facts = {**settings, "bundle": loaded.fingerprint}
    latents, facts["acceptance"] = loaded.prior.sample_given(num, seed, wanted)
    if is_picture(out):
        resolve(out).write_bytes(encode_png(square_grid(loaded.decode(latents))))
        return {"out": out, **facts}
    parents = {"bundle": loaded.fingerprint}
    return {**save_image_table(out, decoded(loaded, latents), parents=parents, config=settings), **facts}


if __name__ == "__main__":
    run(sample)
