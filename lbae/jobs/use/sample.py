"""Draw new images from a bundle, as a PNG or an image table."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import MOST_IN_A_PICTURE, encode_png, is_picture, square_grid
from lbae.io.picture_file import write_picture
from lbae.jobs.options import Address, Names, Overwrite


def sample(
    *,
    bundle: str,
    out: str,
    num: int = 64,
    seed: int = 0,
    given: Names = (),
    given_not: Names = (),
    temperature: float = 1.0,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Draw new images, as a PNG or an image table.

    Image i depends only on the bundle, the seed, the attributes, the temperature and i.

    Args:
        bundle: URI of the bundle.
        out: PNG file to write (*.png), or URI of an image table, which is drawn with Ray.
        num: Number of images, 1 or more.
        seed: Seed of the draw, 0 or more.
        given: Attribute that the images have: a column, or column=value. Repeat for several.
        given_not: Attribute that the images do not have. Repeat for several.
        temperature: From 0 to 2. Below 1, images are more typical and differ less; above 1, they differ more.
    """
    if num < 1 or seed < 0:
        raise UserError(f"num is {num} and seed is {seed}; allowed: num from 1, seed from 0")
    if both := set(given) & set(given_not):
        raise UserError(f"{min(both)!r} is both given and given-not")
    wanted = {**dict.fromkeys(given, True), **dict.fromkeys(given_not, False)}
    if not is_picture(out):
        from lbae.distributed.sample.table_sampler import sample_table  # needs Ray; pictures do not

        return sample_table(
            bundle=bundle,
            out=out,
            num=num,
            seed=seed,
            given=wanted,
            temperature=temperature,
            overwrite=overwrite,
            address=address,
        )
    if num > MOST_IN_A_PICTURE:
        raise UserError(
            f"num is {num:,}; allowed: {MOST_IN_A_PICTURE:,} in one picture. For an image table of any size,"
            " name a folder as --out"
        )
    loaded = load_bundle(bundle)
    latents, acceptance = loaded.prior.at(temperature).sample_given(num, seed, wanted)
    write_picture(out, encode_png(square_grid(loaded.decode(loaded.move_to_given(latents, wanted)))))
    return {
        "out": out,
        "num": num,
        "seed": seed,
        "given": wanted,
        "temperature": temperature,
        "bundle": loaded.fingerprint,
        "acceptance": acceptance,
    }
