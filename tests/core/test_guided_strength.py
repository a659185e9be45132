import numpy as np
import pytest
import torch

from lbae.config import ModelConfig
from lbae.core.latents.editing import confidence, edit
from lbae.core.latents.guided_strength import edit_at_all, edit_until
from lbae.core.latents.strengths import STRENGTHS, least_strengths
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec
from lbae.errors import UserError
from tests.core.test_attributes import BITS, LATENTS, STATISTICS
from tests.core.test_editing import MODELS


@pytest.fixture(scope="module")
def codec() -> Codec:
    config = ModelConfig(latent_dim=BITS, image_size=16, channels=(8, 8))
    return Codec(LatentBernoulliAutoencoder(config, torch.Generator().manual_seed(0)), "float32")


def test_the_least_strength_that_reaches_the_confidence_is_taken_else_the_surest():
    found = np.full((len(STRENGTHS), 3), 0.2)
    found[4:, 0] = 0.95  # reached at strength 1 and above
    found[0, 1] = 0.99  # has it already
    found[6, 2] = 0.5  # never reached, surest at 1.5
    rows, strengths = least_strengths(found.ravel(), 0.9)
    np.testing.assert_array_equal(strengths, [1, 0, 1.5])
    np.testing.assert_array_equal(found.ravel()[rows], [0.95, 0.99, 0.5])


def test_an_edit_until_a_confidence_is_one_of_the_edits_at_a_strength(codec):
    latents = LATENTS[:30]
    found = edit_until(codec, STATISTICS, MODELS, latents, ["a"], ["b"], 0.9)
    for latent, edited, image, strength, sure in zip(latents, *found, strict=True):
        by_strength = [
            edit(STATISTICS, MODELS, latent[None], ["a"], ["b"], float(s), sure=np.inf) for s in STRENGTHS
        ]
        shown = [codec.decode(one) for one in by_strength]
        all_sure = [
            float(confidence(STATISTICS, MODELS, codec.encode(one), ["a"], ["b"])[0]) for one in shown
        ]
        place = STRENGTHS.tolist().index(strength)
        np.testing.assert_array_equal(edited, by_strength[place][0])
        np.testing.assert_array_equal(image, shown[place][0])
        assert sure == pytest.approx(all_sure[place])
        reached = [one >= 0.9 for one in all_sure]
        assert place == (reached.index(True) if any(reached) else int(np.argmax(all_sure)))
    assert len(set(found.strengths)) > 1


def test_latents_that_probably_have_the_attribute_are_tried_at_all_strengths():
    likely = LATENTS[confidence(STATISTICS, MODELS, LATENTS, ["a"]) >= 0.75][:50]
    np.testing.assert_array_equal(edit(STATISTICS, MODELS, likely, ["a"]), likely)
    tried = edit_at_all(STATISTICS, MODELS, likely, ["a"], ()).reshape(len(STRENGTHS), len(likely), -1)
    assert (tried[STRENGTHS >= 1] != likely).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(tried[0], likely)


@pytest.mark.parametrize("until", [0.0, 1.0, float("nan")])
def test_a_confidence_outside_its_range_is_refused(codec, until):
    with pytest.raises(UserError, match=r"until is .*; allowed: above 0, below 1"):
        edit_until(codec, STATISTICS, MODELS, LATENTS[:2], ["a"], (), until)
