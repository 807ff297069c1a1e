"""`fit` reports its progress to the callbacks of scikit-learn 1.9 and later."""

from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StreamingRidge, StreamingRidgeClassifier, StridedConv2DTransformer

HAS_CALLBACKS = find_spec("sklearn.callback") is not None
needs_callbacks = pytest.mark.skipif(not HAS_CALLBACKS, reason="needs scikit-learn 1.9")

IMAGES = np.random.default_rng(0).random((40, 6, 6))
LABELS = np.arange(40) % 2


class Recorder:
    """Callback that records the names of tasks that begin (+) and end (-)."""

    max_propagation_depth = None

    def __init__(self):
        self.events = []
        self.n_steps = None

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"+{context.task_name}")
        self.n_steps = self.n_steps or context.max_subtasks

    def on_fit_task_end(self, estimator, context):
        self.events.append(f"-{context.task_name}")

    def teardown(self, estimator, context):
        self.events.append("teardown")


@needs_callbacks
@pytest.mark.parametrize(
    ("estimator", "X", "steps"),
    [
        (StridedConv2DTransformer(), IMAGES, ["kernels", "preprocessing", "bias"]),
        (StreamingRidgeClassifier(), IMAGES.reshape(40, -1), ["sums", "alphas"]),
        (StreamingRidge(), IMAGES.reshape(40, -1), ["sums", "alphas"]),
    ],
    ids=["transformer", "classifier", "regressor"],
)
def test_each_step_begins_and_ends(estimator, X, steps):
    recorder = Recorder()
    attributes = set(vars(estimator))
    estimator.set_callbacks(recorder).fit(X, LABELS)
    inner = [event for step in steps for event in (f"+{step}", f"-{step}")]
    assert recorder.events == ["setup", "+fit", *inner, "-fit", "teardown"]
    assert recorder.n_steps == len(steps)
    left = {name for name in set(vars(estimator)) - attributes if "callback" in name}
    assert left == {"_skl_callbacks"}


@needs_callbacks
def test_without_callbacks_there_is_no_context(monkeypatch):
    for estimator in (StridedConv2DTransformer, StreamingRidgeClassifier):
        monkeypatch.setattr(estimator, "_init_callback_context", None)
        estimator().fit(np.ones((4, 9)) * np.arange(9), [0, 1, 0, 1])


@needs_callbacks
def test_a_failed_fit_tears_callbacks_down():
    recorder = Recorder()
    transformer = StridedConv2DTransformer(kernels="pca", n_kernels=100).set_callbacks(recorder)
    with pytest.raises(ValueError, match="pca"):
        transformer.fit(IMAGES)
    assert recorder.events[-1] == "teardown"
    assert "-fit" not in recorder.events


@needs_callbacks
@pytest.mark.parametrize("depth", [0, 1, None])
def test_progress_bars_of_a_search(depth, capsys, monkeypatch):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    monkeypatch.setenv("COLUMNS", "160")
    model = make_pipeline(
        StridedConv2DTransformer(4, random_state=0), StandardScaler(), LogisticRegression()
    )
    search = GridSearchCV(model, {"stridedconv2dtransformer__stride": [1, 2]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=depth)).fit(IMAGES, LABELS)
    shown = capsys.readouterr().out
    assert "GridSearchCV - fit" in shown
    assert "100%" in shown
    assert ("Pipeline" in shown) == (depth != 0)


@pytest.mark.skipif(HAS_CALLBACKS, reason="scikit-learn has callbacks")
def test_without_callbacks_nothing_changes():
    transformer = StridedConv2DTransformer(4, random_state=0).fit(IMAGES)
    assert not hasattr(transformer, "set_callbacks")
