"""What tests of steps share."""

from __future__ import annotations

import pytest

import sclip_plugin as sp


@pytest.fixture
def kept(own_registries) -> list:
    """What the step "kept" is given wherever it stands among the steps; it changes no scores."""
    given_to_it = []

    @sp.register_step("kept")
    class Kept(sp.Step):
        on = "patches"

        def __call__(self, given):
            given_to_it.append(given)
            return given.scores

    return given_to_it
