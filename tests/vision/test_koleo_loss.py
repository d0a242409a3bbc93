"""KoLeo equals lightly's, gradients included."""

import pytest
import torch
from lightly.loss import KoLeoLoss as LightlyKoLeo

from vision.losses import KoLeoLoss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_lightly(dtype: torch.dtype) -> None:
    x = torch.randn(16, 12, dtype=dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    loss, expected = KoLeoLoss()(x), LightlyKoLeo()(other)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert x.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_equal_features_stay_finite() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    loss = KoLeoLoss()(x)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_one_image_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="at least two"):
        KoLeoLoss()(torch.ones(1, 3))
