import pytest

from lbae.web.limits import Limits
from tests.web.worst_load import measured

# What two images of the largest size take while they are decoded (docs/measurements.md).
DECODED_MB = 2 * 200


@pytest.mark.slow
@pytest.mark.parametrize("load", ["everything at once", "unread answers"])
def test_the_worst_requests_keep_a_replica_below_the_stated_memory(load):
    ((_, idle, peak, statuses),) = measured(load)
    assert statuses[200] > 0
    assert statuses[503] > 0
    assert peak - idle < Limits().max_memory_bytes / 1e6 + DECODED_MB
