import torch
from hypothesis import given
from hypothesis import strategies as st

from lbae.core.network.binarize import binarize

FINITE = st.floats(-20, 20, width=32)


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_forward_is_the_sign_with_zero_positive(values):
    z = binarize(torch.tensor(values))
    assert z.tolist() == [1.0 if v >= 0 else -1.0 for v in values]


def test_zero_of_either_sign_is_positive():
    assert binarize(torch.tensor([0.0, -0.0])).tolist() == [1.0, 1.0]


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=20))
def test_gradient_passes_the_sign_and_differentiates_the_tanh(pairs):
    x = torch.tensor([a for a, _ in pairs], requires_grad=True)
    upstream = torch.tensor([b for _, b in pairs])
    binarize(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream * (1 - torch.tanh(x.detach()) ** 2))


def test_bfloat16_stays_bfloat16():
    assert binarize(torch.tensor([0.5, -0.5], dtype=torch.bfloat16)).dtype == torch.bfloat16
