"""Hypothesis profiles: "quick" draws the same examples in every run, "long" many others."""

import os

from hypothesis import settings

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
