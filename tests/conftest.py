"""Hypothesis profiles: "quick" draws the same examples in every run, "long" draws many new ones."""

import os

import pytest
from hypothesis import settings
from joblib.externals.loky import get_reusable_executor

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def _own_processes():
    """Stop joblib's processes after the test; idle processes may stop later, with a warning."""
    yield
    get_reusable_executor().shutdown(wait=True)
