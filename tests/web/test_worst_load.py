import pytest

from lbae.config import ModelConfig
from lbae.web.limits import Limits
from lbae.web.requests.item_fields import decode_image_field
from tests.web.worst_load import SIDE, measured, uploads

# What two images of the largest size take while they are decoded (docs/measurements.md).
DECODED_MB = 2 * 225


@pytest.mark.slow
def test_the_uploads_are_within_the_limits():
    config = ModelConfig(latent_dim=21, image_size=SIDE, channels=(8,) * 6)
    for data in uploads().values():
        assert decode_image_field(data, config, Limits().max_pixels).shape == (SIDE, SIDE, 3)


@pytest.mark.slow
@pytest.mark.parametrize("load", ["everything at once", "unread answers"])
def test_the_worst_requests_keep_a_replica_below_the_stated_memory(load):
    ((_, idle, peak, statuses),) = measured(load)
    assert statuses[200] > 0
    assert statuses[503] > 0
    assert peak - idle < Limits().max_memory_bytes / 1e6 + DECODED_MB
