"""Hypothesis profiles: "quick" draws few examples, "long" draws many; new ones in every run."""

import os
from random import SystemRandom

import pytest
from hypothesis import settings
from joblib.externals.loky import get_reusable_executor

settings.register_profile("quick", deadline=None, max_examples=12, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=3000, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Choose the seed of hypothesis here, so that it can be shown, and is that of all processes."""
    config.addinivalue_line("markers", "long: runs in make test-long only, because it takes long")
    if config.option.hypothesis_seed is None:
        shared = getattr(config, "workerinput", {"seed": SystemRandom().randrange(2**32)})
        config.option.hypothesis_seed = shared["seed"]
    if config.getoption("numprocesses", None):
        # The processes of pytest-xdist use all cores; further threads of BLAS would wait in vain.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass the seed to a process of pytest-xdist."""
    node.workerinput["seed"] = node.config.option.hypothesis_seed


def pytest_runtest_setup(item):
    if PROFILE != "long" and item.get_closest_marker("long"):
        pytest.skip("takes long; make test-long")


def pytest_report_header(config):
    return f"the same examples again: pytest --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture
def _own_processes():
    """Stop joblib's processes after the test; idle processes may stop later, with a warning."""
    yield
    get_reusable_executor().shutdown(wait=True)
