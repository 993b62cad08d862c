"""The rule for tolerances: what rounding does to a result is allowed, and nothing more."""

import pytest
import torch
from rounding import ULPS, assert_same, movement_of, nudged
from torch import nn

X = torch.rand(400, generator=torch.Generator().manual_seed(0)) + 1


def test_a_well_conditioned_result_has_the_bar_and_no_more():
    for factor in (1 + 2e-5, 1 - 2e-5):
        with pytest.raises(AssertionError, match="of 400 values are up to 2.0e-05"):
            assert_same(2 * X * factor, 2 * X, lambda factor=factor: 2 * X * factor, [X])
    assert_same(2 * X * (1 + 5e-6), 2 * X)


def test_what_cancels_may_differ_by_what_is_lost():
    """Numbers of about 100 in single precision have a last place of 8e-6: so much says nothing of their difference."""
    y = X + 99

    def difference():
        return y - (X + 99)

    theirs = difference() + torch.linspace(-7e-6, 7e-6, 400)
    with pytest.raises(AssertionError):
        assert_same(difference(), theirs)
    assert_same(difference(), theirs, difference, [y])
    with pytest.raises(AssertionError):
        assert_same(difference() + 1e-2, theirs, lambda: difference() + 1e-2, [y])


def test_a_value_at_a_threshold_may_jump_and_one_away_from_it_may_not():
    x = torch.linspace(0, 1, 401)
    x[100:300] = 0.5 + 2**-24 * torch.arange(-100, 100).sign()

    def computed():
        return (x > 0.5).float()

    theirs = computed()
    theirs[150:250:3] = 1 - theirs[150:250:3]
    assert_same(computed(), theirs, computed, [x])
    theirs[:2] = 1
    theirs[390:] = 0
    with pytest.raises(AssertionError):
        assert_same(computed(), theirs, computed, [x])


def test_weights_and_inputs_are_put_back_to_the_bit():
    model, x = nn.Linear(8, 8), X.clone()
    before = [t.clone() for t in model.state_dict().values()]
    with pytest.raises(ZeroDivisionError), nudged([model, x], 3):
        step = (x / X - 1).abs().max()
        assert 0 < step <= (ULPS + 1) * torch.finfo(torch.float32).eps
        raise ZeroDivisionError
    assert torch.equal(x, X) and all(map(torch.equal, before, model.state_dict().values()))
    assert (movement_of(lambda: 3 * x, 3 * X, [x]) > 0).float().mean() > 0.9
