"""`SharedFeaturesSearch`: a search of scikit-learn that computes the features of images once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial, wraps
from hashlib import sha256
from numbers import Integral, Number
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Lock
from typing import Any, Self

import joblib
import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from sklearn_conv._array_api import follows_library
from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv._progress import Progress
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._ridge.base import StreamingRidgeBase
from sklearn_conv._transformer import TRANSFORM_ONLY, StridedConv2DTransformer
from sklearn_conv._validation import check_integer, require
from sklearn_conv._warnings import warn

LEADING = (StridedConv2DTransformer, ImageReader, FeatureUnion, ColumnTransformer, Pipeline)
"""Steps whose results may be shared, if all that they contain are such steps."""

LEARNED = ("kernels_", "offset_", "eps_", "bias_")
"""Attributes of a transformer by which features are computed."""

NEVER = ("n_jobs", "verbose")
"""Parameters that do not change features."""

SOLVE_ONLY = ("alphas", "alpha_per_target", "scoring")
"""Parameters of streaming ridge models that do not change their sums."""

METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function", "score"]
METHODS += ["score_samples", "transform"]

PARTS, MIN_CLAIMED = 8, 32
"""Parts in which threads compute the features of images, and the smallest number of images."""

MEMORY_FRACTION = 0.25
"""Default of ``max_bytes``, as a fraction of the memory of the machine."""


class SharedFeaturesSearch(MetaEstimatorMixin, BaseEstimator):
    """Search in which each image is convolved once for each setting of the transformer.

    It has the results of the search that it contains, such as a `GridSearchCV` over stride, kernel
    size and the parameters of a classifier. The search by itself computes the features of an image
    again in each fold, and for each setting of the classifier.

    Parameters
    ----------
    search : GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV or HalvingRandomSearchCV
        The search, not fitted. Its estimator is a `~sklearn.pipeline.Pipeline` whose first steps
        are a `StridedConv2DTransformer`, an `ImageReader`, or a `~sklearn.pipeline.FeatureUnion`,
        `~sklearn.compose.ColumnTransformer` or pipeline of these. An empty grid, ``{}``, makes it a
        cross-validation of the pipeline as it is.
    share_kernels : bool, default=False
        Whether kernels, biases and whitening that are learned from images are learned once for
        each setting, from all images without their labels. If False, they are learned from the
        training images of each fold, as in the search by itself, and features are shared among
        the settings of later steps only. If True, the test images of a fold have been seen.
    max_bytes : int, default=None
        Size of the features in bytes that are held in memory. Further features are written to
        temporary files, which are removed at the end. If None, a quarter of the memory of the
        machine.
    verbose : int, default=0
        If above 0, the number of finished fits and the estimated time left are printed to stderr,
        at most once a second; if at least 10, after every fit. The ``verbose`` of the search prints
        what scikit-learn does.

    Attributes
    ----------
    search_ : estimator
        The fitted search. Its attributes, such as ``cv_results_``, ``best_params_`` and
        ``best_score_``, are attributes of this object, too.
    best_estimator_ : Pipeline
        The pipeline with the best setting, fitted on all images; only if ``search.refit``.

    Warns
    -----
    UserWarning
        If features of some settings could not be shared, with the reason.

    See Also
    --------
    sklearn_conv.inspection.GridSearchDisplay : Display of the scores.

    Notes
    -----
    The search runs on the numbers of the images, in threads if its ``n_jobs`` is not 1. The first
    steps are replaced by a look-up of features. Splitting, scoring and fitting again are those of
    scikit-learn.

    Whether ``fit`` of a transformer depends on the images is known after it was fitted once: it
    does if training patches were drawn. Features of random kernels are shared if ``random_state``
    is an integer.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_conv import SharedFeaturesSearch, StridedConv2DTransformer
    >>> images, labels = load_digits(n_class=4, return_X_y=True)
    >>> images = images.reshape(-1, 8, 8)
    >>> pipeline = make_pipeline(StridedConv2DTransformer(8, random_state=0), RidgeClassifier())
    >>> grid = {
    ...     "stridedconv2dtransformer__stride": [1, 2],
    ...     "stridedconv2dtransformer__kernel_size": [2, 3],
    ...     "ridgeclassifier__alpha": [0.1, 1, 10],
    ... }
    >>> search = SharedFeaturesSearch(GridSearchCV(pipeline, grid)).fit(images, labels)
    >>> search.best_params_["stridedconv2dtransformer__stride"], len(search.cv_results_["params"])
    (1, 12)
    >>> search.score(images, labels) > 0.99
    True
    """

    def __init__(
        self,
        search: Any,
        *,
        share_kernels: bool = False,
        max_bytes: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.search = search
        self.share_kernels = share_kernels
        self.max_bytes = max_bytes
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Run the search.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Images, as for the first step of the pipeline.
        y : array-like of shape (n,), default=None
            Labels or numbers.
        **params : dict
            Parameters of ``fit`` of the search, such as ``groups`` and ``sample_weight``.

        Returns
        -------
        self : SharedFeaturesSearch
            The fitted search.
        """
        owner = type(self).__name__
        estimator = getattr(self.search, "estimator", None)
        has_type = hasattr(self.search, "_run_search") and hasattr(estimator, "fit")
        rule = "a search of scikit-learn, such as GridSearchCV(pipeline, grid)"
        require(owner, "search", self.search, rule, has_type)
        is_bool = isinstance(self.share_kernels, bool | np.bool_)
        require(owner, "share_kernels", self.share_kernels, "True or False", is_bool)
        is_int = self.max_bytes is None or isinstance(self.max_bytes, Integral)
        is_valid = self.max_bytes is None or (is_int and self.max_bytes >= 0)
        require(owner, "max_bytes", self.max_bytes, "None or an integer >= 0", is_int, is_valid)
        if not isinstance(self.verbose, bool):
            check_integer(owner, "verbose", self.verbose, 0)
        # A generator as cv cannot be cloned.
        search = type(self.search)(**self.search.get_params(deep=False))
        search.estimator = clone(estimator)
        if type(estimator) is not Pipeline:
            warn(
                f"No features are shared: the estimator of {type(search).__name__} is no Pipeline "
                "of scikit-learn."
            )
            self.search_ = search.fit(X, y, **params)
            return self
        limit = _memory_of_the_machine() if self.max_bytes is None else self.max_bytes
        with _Store(X, bool(self.share_kernels), int(limit)) as store:
            search.estimator = _RowsPipeline(**search.estimator.get_params(deep=False))
            search.estimator.store = store
            rows = np.arange(store.n)
            n_folds = 0
            if self.verbose:
                search.cv = check_cv(search.cv, y, classifier=is_classifier(estimator))
                split = search._get_routed_params_for_fit(params).splitter.split
                n_folds = search.cv.get_n_splits(rows, y, **split)
            search._run_search = self._watch(store, n_folds, search._run_search)
            with _threads(search.n_jobs):
                search.fit(rows, y, **params)
            if hasattr(search, "best_estimator_"):
                search.best_estimator_ = search.best_estimator_.as_pipeline()
                if hasattr(search.best_estimator_, "feature_names_in_"):
                    search.feature_names_in_ = search.best_estimator_.feature_names_in_
            for reason in sorted(store.reasons):
                warn(f"Features of some settings are computed again in each fit: {reason}.")
        search.set_params(estimator=clone(estimator), cv=self.search.cv)
        vars(search).pop("_run_search", None)
        self.search_ = search
        return self

    def _watch(self, store: _Store, n_folds: int, run: Any) -> Any:
        """Return the ``_run_search`` of a search such that the store knows the candidates.

        Their fits are counted if ``verbose``.
        """

        @wraps(run)
        def run_and_watch(evaluate: Any, **options: Any) -> None:
            def watch_and_evaluate(candidates: Any, *more: Any, **options: Any) -> Any:
                candidates = list(candidates)
                store.expect(candidates)
                if self.verbose:
                    store.progress = Progress(self, n_folds * len(candidates), "fits")
                return evaluate(candidates, *more, **options)

            run(watch_and_evaluate, **options)
            store.expect([])
            store.progress = None  # To fit the best setting again does not count.

        return run_and_watch

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not found; fitted attributes are those of the search.
        if name.endswith("_") and not name.startswith("_") and "search_" in vars(self):
            return getattr(self.search_, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __sklearn_tags__(self) -> Any:
        return self.search.__sklearn_tags__()

    def get_metadata_routing(self) -> Any:
        """Return what the search requests, because all metadata is passed to it."""
        return self.search.get_metadata_routing()


def _has(name: str) -> Callable[[SharedFeaturesSearch], bool]:
    def check(self: SharedFeaturesSearch) -> bool:
        getattr(getattr(self, "search_", self.search), name)  # or its AttributeError
        return True

    return check


def _delegate(name: str) -> Any:
    def call(self: Any, X: Any, *more: Any, **params: Any) -> Any:
        check_is_fitted(self, "search_")
        return getattr(self.search_, name)(X, *more, **params)

    call.__name__ = name
    call.__doc__ = f"Call ``{name}`` of the fitted search."
    return available_if(_has(name))(call)


for _name in METHODS:
    setattr(SharedFeaturesSearch, _name, _delegate(_name))


def _memory_of_the_machine() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf.
        total = 2**33
    return int(MEMORY_FRACTION * total)


@contextmanager
def _threads(n_jobs: int | None) -> Iterator[None]:
    """Let joblib use threads, which see the same features; their BLAS gets the other cores."""
    n_jobs = joblib.effective_n_jobs(n_jobs)
    limit = max(1, joblib.cpu_count() // n_jobs)
    with (
        joblib.parallel_config("threading", n_jobs=n_jobs),
        one_blas_thread.at_most(limit) if n_jobs > 1 else nullcontext(),
    ):
        yield


def _digest(rows: np.ndarray) -> bytes:
    """Return what stands for the numbers of images in keys, which are kept."""
    return sha256(rows.tobytes()).digest()


class _Features:
    """Features of images from fitted steps, computed when they are needed."""

    key: Any = None
    """Setting, and images of `fit` if they matter; None if the features are not shared."""

    def __init__(self, store: _Store, steps: Pipeline, rows: np.ndarray, y: Any) -> None:
        self._store, self._change = store, Condition()
        self._values: Any = None
        self._is_claimed, self._is_done = np.zeros((2, store.n), bool)
        learners = [] if _why_random(steps) else [*_learners(steps, store.describe)]
        self._has_all = len(rows) == store.n
        for transformer, key in learners:
            transformer._learn = partial(store.learn, (_digest(rows), key), transformer._learn)
        self.steps = steps.fit(store.take(rows), y)
        for transformer, _ in learners:
            del transformer._learn
        outputs = {_get_output_config("transform", step)["dense"] for _, step in steps.steps}
        self._is_whole = outputs != {"default"} or follows_library(store.X)

    def fitted_to_all(self) -> list[tuple[str, Any]]:
        """Return the steps, fitted to all images, whose values and colors they remember."""
        if self._has_all:
            return self.steps.steps
        steps = clone(self.steps).fit(self._store.X)
        for copy, original in zip(*map(_transformers, (steps, self.steps)), strict=True):
            # A function of the user may return other kernels in each call.
            vars(copy).update({name: vars(original)[name] for name in LEARNED})
        return steps.steps

    def take(self, rows: np.ndarray) -> Any:
        """Return the features of images; those that are new are computed.

        Threads that need the same features share the work.
        """
        while len(claimed := self._claim(rows)):
            try:
                self._compute(claimed)
            except BaseException:
                with self._change:
                    self._is_claimed[claimed] = False
                    self._change.notify_all()
                raise
        with self._change:
            self._change.wait_for(lambda: (self._is_done[rows] | ~self._is_claimed[rows]).all())
            if self._is_done[rows].all():
                return _safe_indexing(self._values, rows)
        return self.take(rows)  # Another thread failed.

    def _claim(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of some images, which this thread will compute.

        They are all images if rows of the result are not replaced in place.
        """
        with self._change:
            new = np.unique(rows[~self._is_claimed[rows]])
            new = new[: max(MIN_CLAIMED, -(-len(rows) // PARTS))]
            if self._is_whole and not self._is_claimed.any():
                new = np.arange(self._store.n)
            self._is_claimed[new] = True
            return new

    def _compute(self, rows: np.ndarray) -> None:
        computed = self.steps.transform(self._store.take(rows))
        with self._change:
            if isinstance(computed, np.ndarray):
                if self._values is None:
                    shape = (self._store.n, *computed.shape[1:])
                    self._values = self._store.empty(shape, computed.dtype)
                self._values[rows] = computed
            elif self._values is None:  # a table, an array of a device, or a list that is passed on
                whole = len(rows) == self._store.n
                self._values = computed if whole else self.steps.transform(self._store.X)
                self._is_claimed[:], rows = True, np.arange(self._store.n)
            self._is_done[rows] = True
            self._change.notify_all()


class _Store:
    """Features for each setting of the leading steps, in memory or in temporary files."""

    progress: Progress | None = None
    key = "images"

    def __init__(self, X: Any, shares_kernels: bool, max_bytes: int) -> None:
        self.X, self.n = X, _num_samples(X)
        self.reasons: set[str] = set()
        self._shares_kernels, self._bytes_left = shares_kernels, max_bytes
        self._lock = Lock()
        self._locks: dict[Any, Lock] = {}
        self._features: dict[Any, _Features] = {}
        self._learned: dict[Any, dict[str, Any]] = {}
        self._kept: list[Any] = []
        self._shares_sums = False
        self._siblings: dict[Any, Pipeline] = {}
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder:
            self._folder.cleanup()
        vars(self).clear()  # The search keeps a scorer, which keeps a pipeline.

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # All copies of a pipeline share it.

    def expect(self, candidates: Sequence[dict[str, Any]]) -> None:
        """Learn which candidates will be fitted, and whether some differ only in their alphas."""
        grams = (later.steps[-1][1]._sums.sums.gram for later in self._siblings.values())
        self._bytes_left += sum(gram.nbytes for gram in grams)
        self._siblings.clear()
        settings = {
            tuple(
                (name, self.describe(candidate[name]))
                for name in sorted(candidate)
                if name.rpartition("__")[2] not in SOLVE_ONLY
            )
            for candidate in candidates
        }
        self._shares_sums = len(settings) < len(candidates)

    def take(self, rows: np.ndarray) -> Any:
        """Return images; X itself, not a copy, if these are all of them."""
        if len(rows) == self.n and (rows == np.arange(self.n)).all():
            return self.X
        return _safe_indexing(self.X, rows)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return memory for features, or a file if there is not enough."""
        n_bytes = int(np.prod(shape, dtype=float)) * dtype.itemsize
        with self._lock:
            if n_bytes <= self._bytes_left:
                self._bytes_left -= n_bytes
                return np.empty(shape, dtype)
            self._folder = self._folder or TemporaryDirectory(prefix="sklearn_conv_")
            path = Path(self._folder.name) / f"{len(os.listdir(self._folder.name))}.npy"
            values = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # On a full disk, to write would end the process.
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                os.truncate(path, 0)  # Its name counts the files.
                raise
        return values

    def find(self, steps: Sequence[tuple[str, Any]], rows: np.ndarray, y: Any) -> _Features:
        """Return the features from steps, which are fitted on some images if that is new."""
        own = Pipeline([(name, clone(step, safe=False)) for name, step in steps])
        make = partial(_Features, self, own)
        if reason := _why_random(own):
            self.reasons.add(reason)
            return make(rows, y)
        setting = tuple(self.describe(step, reasons=self.reasons) for _, step in steps)
        everything = np.arange(self.n)
        with self._lock:
            lock = self._locks.setdefault(setting, Lock())
        with lock:  # Other settings go on.
            if self._shares_kernels and setting not in self._features:
                self._features[setting] = make(everything, None)
            for key in (setting, (setting, _digest(rows))):
                if key in self._features:
                    return self._features[key]
            features = make(rows, y)
            is_learned = _is_learned(features.steps)
            features.key = (setting, _digest(rows)) if is_learned else setting
            self._features[features.key] = features
            return features

    def fit(self, later: Pipeline, leading: Any, rows: np.ndarray, y: Any, params: Any) -> Pipeline:
        """Fit later steps to features; a ridge model may take over sums of one with other alphas.

        Sums are held as long as there is memory for them.
        """
        *before, (_, last) = later.steps
        if not (self._shares_sums and leading.key and isinstance(last, StreamingRidgeBase)):
            return later.fit(leading.take(rows), y, **params)
        described = self.describe([*before, *sorted(params.items())])
        key = leading.key, _digest(rows), described, self.describe(last, SOLVE_ONLY)
        with self._lock:
            lock = self._locks.setdefault(key, Lock())
        with lock:
            if key in self._siblings:
                sibling = deepcopy(self._siblings[key])
                sibling.steps[-1][1].set_params(**last.get_params(deep=False))._solve()
                return sibling
            later.fit(leading.take(rows), y, **params)
            gram = last._sums.sums.gram if hasattr(last, "_sums") else None
            with self._lock:
                if gram is not None and gram.nbytes <= self._bytes_left:
                    self._bytes_left -= gram.nbytes
                    self._siblings[key] = later
            return later

    def learn(self, key: Any, learn: Callable[..., dict[str, Any]], *arguments: Any) -> Any:
        """Return what a transformer learns; once for all settings that learn the same."""
        with self._lock:
            lock = self._locks.setdefault(key, Lock())
        with lock:
            if key not in self._learned:
                self._learned[key] = learn(*arguments)
            return self._learned[key]

    def describe(
        self, value: Any, without: Sequence[str] = NEVER, reasons: set[str] | None = None
    ) -> Any:
        """Return a hashable description of a parameter; add to ``reasons`` if copies differ."""
        describe = partial(self.describe, reasons=reasons)
        if isinstance(value, FrozenEstimator):  # It is its own clone, and is what it has learned.
            self._kept.append(value)
            return id(value)
        if hasattr(value, "to_numpy"):  # a column of weights
            value = value.to_numpy()
        if hasattr(value, "get_params"):
            params = value.get_params(deep=False)
            output = str(getattr(value, "_sklearn_output_config", ""))  # of set_output
            described = ((k, describe(params[k])) for k in params if k not in without)
            return type(value), output, *described
        if isinstance(value, list | tuple):
            return type(value), *map(describe, value)
        if isinstance(value, str | Number | None):
            return type(value), value
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value.dtype.str, value.shape, joblib.hash(value)
        if isinstance(value, dict):
            return dict, *map(describe, value.items())
        if isinstance(value, slice):
            return slice, *map(describe, (value.start, value.stop, value.step))
        if reasons is not None and deepcopy(value) is not value:  # It is a copy in each fit.
            reasons.add(f"{value!r:.80} cannot be compared with its copies")
        self._kept.append(value)  # Its id is not given to another object.
        return id(value)


class _RowsPipeline(Pipeline):
    """Pipeline that is fitted on numbers of images; features of the leading steps are looked up."""

    store: _Store

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        copy.store = self.store
        return copy

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return Pipeline(**self.get_params(deep=False)).__repr__(N_CHAR_MAX)  # in messages

    def fit(self, X: np.ndarray, y: Any = None, **params: Any) -> Self:
        steps = self.get_params(deep=False)["steps"]
        n_leading = 0
        while n_leading < len(steps) - 1 and _is_leading(steps[n_leading][1]):
            n_leading += 1
        if any(_transformers(step) for _, step in steps[n_leading:]):
            name = steps[n_leading][0]
            self.store.reasons.add(f"it is not known what the step {name!r} depends on")
        while n_leading and isinstance(steps[n_leading - 1][1], str | None):
            n_leading -= 1  # Images that are passed on need not be stored.
        self._leading = self.store.find(steps[:n_leading], X, y) if n_leading else self.store
        fitted = []
        if isinstance(self._leading, _Features):
            fitted = self._leading.steps.steps  # for scorers
            for name in {*(self.transform_input or ())} & params.keys():
                params[name] = self._leading.steps.transform(params[name])
        later = {name: getattr(self, name) for name in ("transform_input", "memory", "verbose")}
        self._later = Pipeline(steps[n_leading:], **later)
        self._later = self.store.fit(self._later, self._leading, X, y, params)
        if self.store.progress:
            self.store.progress.advance(1)
        self.steps = [*fitted, *self._later.steps]
        return self

    def as_pipeline(self) -> Pipeline:
        """Return a pipeline for images."""
        fitted = self._leading.fitted_to_all() if isinstance(self._leading, _Features) else []
        later = self._later.get_params(deep=False)
        return Pipeline(**later | {"steps": [*fitted, *self._later.steps]})


def _look_up(name: str) -> Any:
    def call(self: _RowsPipeline, X: np.ndarray, *more: Any, **params: Any) -> Any:
        return getattr(self._later, name)(self._leading.take(X), *more, **params)

    call.__name__ = name
    return available_if(lambda self: hasattr(self.steps[-1][1], name))(call)


for _name in METHODS:
    setattr(_RowsPipeline, _name, _look_up(_name))


def _parts(step: Any) -> list[Any]:
    """Return the steps in a union, a column transformer or a pipeline, fitted if it is fitted."""
    if isinstance(step, ColumnTransformer):
        parts = [*step.transformers, ("remainder", step.remainder)]  # fitted: in transformers_
        return [each[1] for each in getattr(step, "transformers_", parts)]
    if isinstance(step, FeatureUnion):
        return [each for _, each in step.transformer_list]
    if isinstance(step, FrozenEstimator):
        return [step.estimator]
    return [each for _, each in step.steps] if isinstance(step, Pipeline) else []


def _learners(step: Any, describe: Callable[..., Any], before: Any = ()) -> Iterator[Any]:
    """Yield the transformers in a step that `fit` does not clone, and what they learn from.

    ``before`` describes the steps whose features they receive instead of images.
    """
    if isinstance(step, StridedConv2DTransformer):
        yield step, (before, describe(step, TRANSFORM_ONLY))
    elif isinstance(step, FeatureUnion | Pipeline):
        for part in _parts(step):
            yield from _learners(part, describe, before)
            if isinstance(step, Pipeline):
                before = (before, describe(part))


def _is_leading(step: Any) -> bool:
    if isinstance(step, str | None):
        return step in ("passthrough", "drop", None)
    return type(step) in LEADING and all(map(_is_leading, _parts(step)))


def _transformers(step: Any) -> list[StridedConv2DTransformer]:
    """Return the transformers in a step."""
    own = [step] if isinstance(step, StridedConv2DTransformer) else []
    return [*own, *(each for part in _parts(step) for each in _transformers(part))]


def _is_learned(step: Any) -> bool:
    """Return whether a fitted step depends on the images on which it was fitted."""
    if isinstance(step, StridedConv2DTransformer):
        return step._is_learned
    return any(map(_is_learned, _parts(step)))


def _why_random(step: Any) -> str:
    """Return why the features of two fits of a step may differ, or an empty text."""
    if isinstance(step, StridedConv2DTransformer):
        is_random = isinstance(step.kernels, str) or callable(step.kernels)
        is_random |= bool(step.whiten or step.normalize_patches or isinstance(step.bias, str))
        if is_random and not isinstance(step.random_state, Integral):
            state = step.random_state
            return f"random_state={state!r:.40} of {type(step).__name__} is not an integer"
        return ""
    return next(filter(None, map(_why_random, _parts(step))), "")
