"""Types of the public names are known to mypy, although those of scikit-learn are not."""

import pytest

CODE = """
from collections.abc import Iterator
from typing import assert_type

import numpy as np

from sklearn_conv import (
    OutputSize,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    conv2d,
    save_batches,
)

X = np.zeros((4, 8, 8))
y = np.array([0, 1, 0, 1])


class Mine(StridedConv2DTransformer):
    pass


def fitted() -> StridedConv2DTransformer:
    return StridedConv2DTransformer(8, random_state=0).fit(X)


def measured() -> OutputSize:
    return fitted().output_size()


def features() -> np.ndarray:
    return fitted().transform(X)


assert_type(StridedConv2DTransformer().fit(X), StridedConv2DTransformer)
assert_type(Mine().fit(X, y), Mine)
assert_type(fitted().output_size((8, 8)), OutputSize)
assert_type(fitted().output_size().multiply_adds, int)
assert_type(fitted().transform(X), np.ndarray)
assert_type(Mine().fit_transform(X, y), np.ndarray)
assert_type(Mine().set_output(transform="pandas").set_params(stride=2), Mine)
assert_type(fitted().transform_batches(X), Iterator[tuple[slice, np.ndarray]])
assert_type(fitted().get_feature_names_out(), np.ndarray)
model = StreamingRidgeClassifier().fit(X, y).partial_fit(X, y)
assert_type(model, StreamingRidgeClassifier)
assert_type(model.merge(model).score(X, y), float)
assert_type(model.set_params(alphas=1.0), StreamingRidgeClassifier)
assert_type(model.coef_, np.ndarray)
stored: np.memmap = save_batches("f.npy", fitted().transform_batches(X))
assert_type(conv2d(X, X), np.ndarray)
StridedConv2DTransformer().fit()  # type: ignore[call-arg]
StreamingRidgeClassifier().fit(X)  # type: ignore[call-arg]
StridedConv2DTransformer(n_kernel=3)  # type: ignore[call-arg]
fitted().set_output("pandas")  # type: ignore[call-arg]
"""


def test_strict_checks_of_a_script(tmp_path):
    """mypy also reports comments that ignore an error, but at which it finds none."""
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(CODE)
    cache = f"--cache-dir={tmp_path / 'cache'}"
    out, errors, status = api.run(["--strict", "--config-file=", cache, str(script)])
    assert not errors
    assert status == 0, out
