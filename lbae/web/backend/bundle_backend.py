"""A bundle in this process as the backend of the service."""

from lbae.core.bundle import Bundle
from lbae.core.moments.attribute_statistics import leading_bits
from lbae.web.backend.backend import BundleFacts, OnBatch
from lbae.web.backend.codec_verbs import CodecVerbs
from lbae.web.backend.edit_verbs import EditVerbs
from lbae.web.backend.path_verbs import PathVerbs
from lbae.web.backend.prior_verbs import PriorVerbs

_LEADING = 5


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Return the facts of a bundle that clients may see."""
    statistics, values = bundle.attributes, bundle.values
    leading = leading_bits(statistics, _LEADING)
    trusted = [values is not None and values.trusted(i) for i in range(len(statistics.names))]
    rows = zip(statistics.names, statistics.set_count, statistics.unset_count, trusted, strict=True)
    return BundleFacts(
        fingerprint=bundle.fingerprint,
        config=bundle.codec.config,
        precision=bundle.codec.precision,
        sampler=bundle.prior.sampler,
        components=len(bundle.prior.weights),
        conditions=bundle.prior.attributes,
        attributes={
            name: {
                "set": int(set_),
                "unset": int(unset),
                "trusted": trusted,
                "leading_bits": leading.get(name, []),
            }
            for name, set_, unset, trusted in rows
        },
        examples=bundle.examples,
    )


class BundleBackend:
    """Runs all verbs on a bundle, in threads of this process."""

    def __init__(self, bundle: Bundle, on_batch: OnBatch = lambda verb, rows, waiting: None) -> None:
        self.bundle, self.facts = bundle, bundle_facts(bundle)
        prior, edits = PriorVerbs(bundle.prior), EditVerbs(bundle.attributes, bundle.values)
        codec = CodecVerbs(bundle.codec, on_batch)
        self.draw, self.vary = prior.draw, prior.vary
        self.path = PathVerbs(bundle.normals).path
        self.edit, self.edit_at_all, self.confidence = edits.edit, edits.edit_at_all, edits.confidence
        self.move_to_given = edits.move_to_given
        self.encode, self.decode = codec.encode, codec.decode
        self.reconstruct, self.recode = codec.reconstruct, codec.recode
        self.check = codec.check
