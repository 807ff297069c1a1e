"""`StridedConv2DTransformer`: convolution, activation and pooling as a scikit-learn transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps, with_callbacks
from sklearn_conv._engine.numpy_engine import Layer, compute_cells, compute_dtype, compute_maps
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.windows import Geometry
from sklearn_conv._images.images import Images, check_images, remember_columns
from sklearn_conv._parameters import Parameters, check_image_shape, check_parameters
from sklearn_conv._progress import Progress
from sklearn_conv._validation import cast_numbers, check_integer, check_numbers, is_dask
from sklearn_conv._versions import API_LINK
from sklearn_conv.kernels._patches import TrainingPatches
from sklearn_conv.kernels._table import KERNELS


class OutputSize(NamedTuple):
    """What `StridedConv2DTransformer.output_size` gives, for one image."""

    maps: tuple[int, int, int]
    """rows and columns of the maps, and their number; of "split" two for each kernel"""
    features: int
    """how many numbers `transform` gives"""
    multiply_adds: int
    """multiplications, and as many additions, of pixels with weights"""
    bytes: int
    """what the features take in float32; in float64 twice as much"""


class StridedConv2DTransformer(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Turn images into features: strided convolution, activation and pooling.

    ``(n, h, w, c) -> (n, grid rows * grid columns * features of a cell)``

    Each of ``n_kernels`` kernels is laid on every window of the image, ``stride`` pixels from one
    window to the next. Its response ``z = window . kernel`` goes through the activation, and the
    activated responses in each cell of a grid over the image are pooled to one number. The number
    of features does not depend on the size of the images.

    Parameters
    ----------
    n_kernels : int, default=64
        Number of kernels; taken from the array when ``kernels`` is one.
    kernel_size : int or (rows, columns), default=3
        Size of the kernels in pixels; taken from the array when ``kernels`` is one.
    stride : int or (rows, columns), default=1
        Pixels from one window to the next.
    kernels : str, array-like of shape (kh, kw, c, n_kernels) or callable, default="gaussian"
        A name, of a function in `sklearn_conv.kernels` that says more:

        - learned from patches of the images in ``fit``: "patches" are such patches, "kmeans"
          centers of clusters of them, "pca" the directions in which they vary most; take these
          with ``normalize_patches=True, whiten=True``;
        - random: "gaussian" of mean 0 and length 1, "uniform" with a sum, too;
        - fixed, each on one channel: "sobel" are derivatives along evenly spaced directions,
          "gabor" waves under a window, "laplace" blobs, "dct" and "haar" the lowest of two bases.

        "pca", "dct" and "haar" have at most ``kh * kw * c`` kernels, "sobel" needs a kernel size of
        2, "gabor" and "laplace" of 3. Or:

        - an array, in the layout of `conv2d`;
        - a callable ``init(shape, rng, patches)`` that returns an array of that shape,
          ``(kh, kw, c, n_kernels)``. ``rng`` is a `numpy.random.RandomState`. ``patches(n)`` gives
          n patches of the images in ``fit``, ``(n, kh*kw*c)`` in the order of C, normalized and
          whitened as the kernels are to see them and none nearly constant; ``patches()`` all there
          are.
    bias : float, "quantile" or array-like of shape (n_kernels,), default=0.0
        What the activation adds to the responses, in their units; below 0 it is a threshold. With
        ``normalize_patches`` or ``whiten`` some tenths are usual; without, units are those of the
        pixels, and thresholds for images from 0 to 255 are larger.
        "quantile" puts the threshold of kernel j at a quantile of its responses to patches of the
        images in ``fit``, as MiniRocket does. The levels are spread evenly, the fractional parts of
        ``1.618 * (j + 1)``; half of the biases are above 0, so take "relu" or "step" with them.
    padding : {"valid", "same"}, int or (rows, columns), default="same"
        Pixels that are added on each side of the images, as in `conv2d`.
    padding_mode : {"constant", "edge", "reflect", "symmetric", "wrap"}, default="constant"
        What the added pixels hold, as in `numpy.pad`; "constant" is 0. Take "edge" for images whose
        background is not 0: kernels see the step to 0 as an edge.
    dilation : int or (rows, columns), default=1
        Pixels from one weight of a kernel to the next.
    normalize_patches : bool, default=False
        Whether each patch, all of its channels together and its padding included, loses its mean
        and is divided by ``sqrt(variance + eps)``. ``eps`` is 0.01 times the mean variance of the
        patches in ``fit``: images in other units in ``fit`` and ``transform`` have the same
        features. A constant patch becomes 0, and its response ``offset_``.
    whiten : bool or float, default=False
        Whether patches, after they are normalized, lose the mean patch and are whitened (ZCA):
        their directions are divided by ``sqrt(variance + whiten * mean variance)``. True means 0.1.
        This is folded into ``kernels_`` and ``offset_`` and takes no time in ``transform``. With
        fewer patches than weights of a kernel there are directions of variance 0; it is the added
        share that keeps their factor finite.
    n_patches : int, default=100000
        Number of patches of the images in ``fit`` that kernels, whitening, eps and quantiles are
        made of, if any of these is asked for: drawn from all windows inside the images, or all of
        these if they are fewer. Kernels are then drawn from the patches, with replacement only if
        these are fewer. Images smaller than a kernel give windows over their padded border. While
        ``fit`` runs, each patch takes ``4 * kh * kw * c`` bytes some three times, or 8 where X is
        float64.
    activation : str or callable, default="relu"
        With z the response and b the bias:

        - "identity": z + b;
        - "relu": max(z + b, 0);
        - "abs": abs(z + b);
        - "split": max(z + b, 0) and max(-z + b, 0), two features for each kernel;
        - "step": 1 where z + b > 0, else 0; pooled by its mean, the proportion of positive values.
          Over flat regions z is 0 but for rounding, unless images are whitened: give a bias a
          little below 0, or "quantile";
        - "square": (z + b)**2;
        - a callable takes an array of z + b and gives one number for each of its elements.
    pooling : {"max", "mean", "sum"}, list of these or None, default="mean"
        How the activated responses in a cell become one number. A list gives one feature for each
        of its names. None pools nothing, whatever ``pool_grid`` says: each response is a feature.
    pool_grid : int or (rows, columns), default=2
        Number of cells that each map is cut into. Along an axis of L responses, cell i of m is
        ``[i*L//m, max(i*L//m + 1, (i+1)*L//m))``: never empty, and a partition where L >= m.
    flatten : bool, default=True
        Whether each image becomes one row of features. False keeps the grid,
        ``(n, rows, columns, features of a cell)``: images again, for a second transformer; give
        this one a fine ``pool_grid``.
    image_shape : (h, w) or (h, w, c), default=None
        Shape of the images in a 2-D X. None takes a row of s*s numbers as ``(s, s, 1)``, and any
        other as one row of pixels, ``(1, d, 1)``, with a warning; channels are never guessed.
    random_state : int, RandomState instance or None, default=None
        Chooses random kernels and patches. With None, every ``fit`` has others.
    n_jobs : int, default=None
        Number of threads that share the images in ``transform``, where there is work enough for
        them; -1 means all cores. None means 1, unless in a `joblib.parallel_config` context. One
        thread leaves the matrix product its own threads. The features are the same to rounding.
    verbose : int, default=0
        Above 0, ``transform`` tells of its progress, as `joblib.Parallel` does.

    Attributes
    ----------
    kernels_ : ndarray of shape (kh, kw, c, n_kernels)
        The kernels as they are applied: with the whitening, and with mean 0 where patches are
        normalized.
    offset_ : ndarray of shape (n_kernels,)
        What is added to ``window . kernel`` to make the response z: what whitening does to the mean
        patch, else 0.
    eps_ : float
        With ``normalize_patches``, a window is divided by ``sqrt(its variance + eps_)`` before it
        meets the kernels; else 0.0, and windows stay as they are.
    bias_ : ndarray of shape (n_kernels,)
        The bias of each kernel.
    image_shape_ : tuple
        Shape of the images seen in ``fit``, ``(h, w, c)``.
    n_features_in_ : int
        Number of pixels times channels of an image, ``h * w * c``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns of X; only if X had names that are all strings.
    maps_shape_ : tuple
        Shape of the maps of an image, ``(rows, columns, number of maps)``; `output_size`
        tells this and the next two before ``fit``.
    n_features_out_ : int
        Number of features of an image.
    multiply_adds_ : int
        How many multiplications of pixels with weights, and additions, an image takes.

    See Also
    --------
    conv2d : The plain convolution.

    Notes
    -----
    The features are in the order of C: cell by cell, and in a cell pooling by pooling, side by
    side ("split" has two), kernel by kernel. `get_feature_names_out` tells which is which.

    References
    ----------
    A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    A. Coates, H. Lee and A. Y. Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning" (2011): normalized and whitened patches, and what stride and kernel size do.
    L. Thiry, M. Arbel, E. Belilovsky and E. Oyallon, "The Unreasonable Effectiveness of Patches in
    Deep Convolutional Kernels Methods" (2021).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> images = load_digits().images
    >>> images.shape
    (1797, 8, 8)
    >>> transformer = StridedConv2DTransformer(n_kernels=16, stride=2, random_state=0)
    >>> transformer.fit_transform(images).shape
    (1797, 64)
    >>> transformer.kernels_.shape
    (3, 3, 1, 16)
    >>> transformer.get_feature_names_out()[[0, 63]].tolist()
    ['kernel000_mean_r0_c0', 'kernel015_mean_r1_c1']
    """

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    def __init__(
        self,
        n_kernels: int = 64,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        *,
        kernels: str | npt.ArrayLike | Callable[..., np.ndarray] = "gaussian",
        bias: float | str | npt.ArrayLike = 0.0,
        padding: str | int | tuple[int, int] = "same",
        padding_mode: str = "constant",
        dilation: int | tuple[int, int] = 1,
        normalize_patches: bool = False,
        whiten: bool | float = False,
        n_patches: int = 100_000,
        activation: str | Callable[[np.ndarray], np.ndarray] = "relu",
        pooling: str | Sequence[str] | None = "mean",
        pool_grid: int | tuple[int, int] = 2,
        flatten: bool = True,
        image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_kernels = n_kernels
        self.kernel_size = kernel_size
        self.stride = stride
        self.kernels = kernels
        self.bias = bias
        self.padding = padding
        self.padding_mode = padding_mode
        self.dilation = dilation
        self.normalize_patches = normalize_patches
        self.whiten = whiten
        self.n_patches = n_patches
        self.activation = activation
        self.pooling = pooling
        self.pool_grid = pool_grid
        self.flatten = flatten
        self.image_shape = image_shape
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: npt.ArrayLike, y: Any = None) -> Self:
        """Make the kernels and learn the shape of the images.

        Parameters
        ----------
        X : array-like or dask array of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            The images: finite real numbers, channels last. Three axes mean images of one channel;
            a single image goes in as ``image[np.newaxis]``. Of a `numpy.memmap`, and of an array
            of zarr, h5py and the like, only what is learned from is read, in batches; of a dask
            array some 32 MB of images are computed. NaN is then found only in what is learned
            from, and in the rest by `transform`.
        y : None
            Ignored.

        Returns
        -------
        self : StridedConv2DTransformer
            The fitted transformer.

        Raises
        ------
        TypeError
            If a parameter or X is of a wrong kind.
        ValueError
            If a parameter has a wrong value, X is no batch of images or the kernels do not fit.
        """
        parameters = check_parameters(self)
        if callable(self.activation):  # it may fail: now, not in transform
            probe = np.ones((2, parameters.n_kernels))
            parameters.sides[""].function(probe, probe.copy())
        images = check_images(self, X, parameters.image_shape, reset=True)
        geometry = parameters.windows.place(images.shape[1:3], parameters.kernel_size)
        dtype, rng = compute_dtype(images.dtype), self.random_state
        if not isinstance(rng, np.random.RandomState):
            rng = np.random.RandomState(rng)  # of its own where None: the global one is left alone
        patches = TrainingPatches(
            images,
            geometry,
            parameters.n_patches,
            self.normalize_patches,
            parameters.whiten,
            dtype,
            rng,
        )
        shape = (*parameters.kernel_size, images.shape[3], parameters.n_kernels)
        with (
            fit_steps(self, X, y, 3) as step,
            np.errstate(over="ignore", invalid="ignore"),  # what is not finite is refused below
        ):
            with step("kernels"):
                kernels = self._make_kernels(shape, rng, patches).reshape(-1, parameters.n_kernels)
            with step("preprocessing"):
                folded, offset = patches.preprocessing.fold(kernels)
            with step("bias"):
                bias = patches.thresholds(kernels) if isinstance(self.bias, str) else self.bias
        folded = cast_numbers("kernels", folded.reshape(shape), dtype)
        offset = cast_numbers("offset_", offset, dtype)
        bias = cast_numbers("bias", np.broadcast_to(bias, parameters.n_kernels), dtype)
        # All that can fail is done: a failed fit leaves the estimator as it was.
        remember_columns(self, X, images.shape)
        self.kernels_ = folded
        self.offset_ = offset
        self.eps_ = patches.preprocessing.eps
        self.bias_ = bias
        self.image_shape_ = images.shape[1:]
        return self

    def transform(self, X: npt.ArrayLike) -> np.ndarray:
        """Compute the features of images.

        Parameters
        ----------
        X : array-like or dask array of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            Images of the shape that was seen in ``fit``. A `numpy.memmap`, and an array of zarr,
            h5py and the like, is read in batches, once.

        Returns
        -------
        features : ndarray of shape (n, n_features) or (n, rows, columns, features of a cell)
            float64 where X is float64 or has wider integers than 16 bits, else float32. Of a dask
            array a dask array, with the same chunks along the images, of which nothing is computed
            yet.

        Warns
        -----
        UserWarning
            If features are beyond the range of their dtype, and so infinite or NaN.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        TypeError
            If X is of a wrong kind.
        ValueError
            If X is no batch of images of the shape seen in ``fit``.
        """
        check_is_fitted(self)
        self._refuse_tables(X)
        images, compute, shape, dtype = self._prepare(X)
        if is_dask(X):
            from sklearn_conv._dask import map_rows

            return map_rows(self, "transform", X, self._row_shape(shape), dtype)
        try:
            out = np.empty((len(images), *shape), dtype)
        except MemoryError as error:
            size = self._fitted_size()
            raise MemoryError(
                f"{error}: {len(images)} images have {size.features} features each. Take them in "
                "batches, with transform_batches(X), or choose fewer kernels or cells; "
                "output_size() says what each setting takes."
            ) from None
        batches = [*images.batches()]
        if len(batches) == 1:
            compute(images.read(batches[0]), out, verbose=self.verbose)
        else:
            progress = Progress(self, len(images))
            for rows in batches:
                compute(images.read(rows), out[rows])
                progress.tell(rows.stop)
        _warn_of_infinity(out)
        return out.reshape(len(out), *self._row_shape(shape))

    def transform_batches(
        self, X: npt.ArrayLike, batch_size: int | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Compute the features of images batch by batch, where all of them do not fit into memory.

        ``features[rows] = batch`` for all batches makes what `transform` gives.

        Parameters
        ----------
        X : array-like of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            As in `transform`; of a `numpy.memmap` or an array of zarr or h5py only a batch is read
            at once.
        batch_size : int, default=None
            Number of images in a batch. None makes images and features of a batch some 16 MB, and
            takes whole chunks of X where it has any.

        Yields
        ------
        rows : slice
            Where in X the images of the batch are; one batch follows the other.
        features : ndarray of shape (rows, n_features) or (rows, grid rows, columns, features)
            Their features.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        TypeError
            If ``batch_size`` or X is of a wrong kind.
        ValueError
            If ``batch_size`` has a wrong value or X is no batch of images of the shape seen in
            ``fit``; for NaN in X when its batch is read.

        See Also
        --------
        save_batches : Write them to a file.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(2, size=1000)
        >>> images = rng.normal(0, 1 + labels[:, np.newaxis, np.newaxis], (1000, 8, 8))
        >>> transformer = StridedConv2DTransformer(random_state=0).fit(images)
        >>> classifier = StreamingRidgeClassifier()
        >>> for rows, features in transformer.transform_batches(images, batch_size=300):
        ...     classifier = classifier.partial_fit(features, labels[rows])
        ...     print(rows, features.shape)
        slice(0, 300, None) (300, 256)
        slice(300, 600, None) (300, 256)
        slice(600, 900, None) (300, 256)
        slice(900, 1000, None) (100, 256)
        >>> classifier.score(transformer.transform(images), labels) > 0.99
        True
        """
        check_is_fitted(self)
        owner = f"{type(self).__name__}.transform_batches"
        if batch_size is not None:
            batch_size = check_integer(owner, "batch_size", batch_size, 1)
        if is_dask(X):
            raise TypeError(
                "transform_batches reads X itself, but X is a dask array; transform(X) gives the "
                "features as a dask array, which computes nothing until it is asked."
            )
        images, compute, shape, dtype = self._prepare(X)
        if batch_size is None:
            batch_size = images.reading_length(prod(shape) * dtype.itemsize)

        def generate() -> Iterator[tuple[slice, np.ndarray]]:
            progress = Progress(self, len(images))
            for rows in images.batches(batch_size):
                out = np.empty((rows.stop - rows.start, *shape), dtype)
                compute(images.read(rows), out)
                _warn_of_infinity(out)
                progress.tell(rows.stop)
                yield rows, out.reshape(len(out), *self._row_shape(shape))

        return generate()

    def get_feature_names_out(self, input_features: npt.ArrayLike | None = None) -> np.ndarray:
        """Name the features: kernel, side of a split, pooling, row and column of the cell.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked: names of the columns of X.

        Returns
        -------
        names : ndarray of str
            Such as "kernel003_mean_r0_c1", in the order of the flattened features.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If ``input_features`` are not the columns seen in ``fit``.
        """
        check_is_fitted(self)
        self._check_input_features(input_features)
        parameters = check_parameters(self)
        geometry = parameters.windows.place(self.image_shape_[:2], self.kernels_.shape[:2])
        *grid, _, _, n_kernels = _feature_shape(parameters, geometry, len(self.bias_))
        in_cell = [
            "_".join(filter(None, (f"kernel{kernel:03d}", side, pooling)))
            for pooling, side, kernel in product(
                parameters.poolings or [""], parameters.sides, range(n_kernels)
            )
        ]
        names = [f"{name}_r{r}_c{c}" for r, c, name in product(*map(range, grid), in_cell)]
        return np.asarray(names, dtype=object)

    def output_size(
        self, image_shape: tuple[int, int] | tuple[int, int, int] | None = None
    ) -> OutputSize:
        """Tell shapes and cost of an image before anything is computed.

        Parameters
        ----------
        image_shape : (h, w) or (h, w, c), default=None
            Shape of the image; two numbers mean one channel. None takes that seen in ``fit``, or
            else the parameter ``image_shape``.

        Returns
        -------
        size : OutputSize
            A named tuple: ``maps`` (rows, columns, number), ``features``, ``multiply_adds`` and
            ``bytes``, of the features in float32.

        Raises
        ------
        TypeError
            If a parameter or ``image_shape`` is of a wrong kind.
        ValueError
            If a parameter has a wrong value, kernels do not fit an image of that shape, or the
            shape is not known.

        Examples
        --------
        >>> from sklearn_conv import StridedConv2DTransformer
        >>> transformer = StridedConv2DTransformer(n_kernels=512, kernel_size=6, stride=2)
        >>> size = transformer.output_size((64, 64, 3))
        >>> size
        OutputSize(maps=(32, 32, 512), features=2048, multiply_adds=56623104, bytes=8192)
        >>> f"{60_000 * size.bytes / 1e9:.2f} GB of features of 60,000 such images"
        '0.49 GB of features of 60,000 such images'
        """
        parameters = check_parameters(self)
        if image_shape is None:
            shape = getattr(self, "image_shape_", parameters.image_shape)
        else:
            shape = check_image_shape(f"{type(self).__name__}.output_size", image_shape)
        if shape is None:
            raise ValueError(
                "The size of the output depends on that of the images, which is not known before "
                "fit; give it, as in output_size((h, w, c))."
            )
        if not (isinstance(self.kernels, str) or callable(self.kernels)):
            _check_channels(np.shape(self.kernels), shape[2])
        kernels = (*parameters.kernel_size, shape[2], parameters.n_kernels)
        return _measure_output(parameters, shape[:2], kernels)

    @property
    def maps_shape_(self) -> tuple[int, int, int]:
        """Rows and columns of the maps of an image, and how many there are."""
        return self._fitted_size().maps

    @property
    def n_features_out_(self) -> int:
        """Number of features of an image."""
        return self._fitted_size().features

    @property
    def multiply_adds_(self) -> int:
        """Multiplications, and as many additions, of an image's pixels with weights."""
        return self._fitted_size().multiply_adds

    def _fitted_size(self) -> OutputSize:
        check_is_fitted(self)
        return _measure_output(check_parameters(self), self.image_shape_[:2], self.kernels_.shape)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _prepare(self, X: Any) -> tuple[Images, Callable[..., None], tuple[int, ...], np.dtype]:
        """Check X; give the images, what computes a batch of them, and shape and dtype of one."""
        parameters = check_parameters(self)
        images = check_images(self, X, self.image_shape_, reset=False)
        dtype = compute_dtype(images.dtype)
        geometry = parameters.windows.place(images.shape[1:3], self.kernels_.shape[:2])
        layer = Layer(
            cast_numbers("kernels_", self.kernels_, dtype),
            cast_numbers("offset_", self.offset_, dtype),
            cast_numbers("bias_", self.bias_, dtype),
            parameters.sides,
            geometry,
            self.eps_,
        )
        shape = _feature_shape(parameters, geometry, len(self.bias_))
        if parameters.poolings is None:
            compute = partial(compute_maps, layer=layer, n_jobs=self.n_jobs)
            return images, compute, (*shape[:2], *shape[3:]), dtype
        poolings = [POOLINGS[name] for name in parameters.poolings]
        compute = partial(
            compute_cells,
            layer=layer,
            poolings=poolings,
            pool_grid=parameters.pool_grid,
            n_jobs=self.n_jobs,
        )
        return images, compute, shape, dtype

    def _row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of the features of an image, from grid rows, grid columns and more."""
        return (prod(shape),) if self.flatten else (*shape[:2], prod(shape[2:]))

    def _make_kernels(
        self,
        shape: tuple[int, int, int, int],
        rng: np.random.RandomState,
        patches: TrainingPatches,
    ) -> np.ndarray:
        if isinstance(self.kernels, str):
            return KERNELS[self.kernels](shape, rng, patches)
        if callable(self.kernels):
            return check_numbers(
                type(self).__name__,
                "kernels",
                self.kernels(shape, rng, patches),
                shape,
                otherwise="a callable that returns ",
                finite=True,
            )
        kernels = np.asarray(self.kernels)
        _check_channels(kernels.shape, shape[2])
        return kernels

    def _refuse_tables(self, X: Any) -> None:
        container = getattr(self, "_sklearn_output_config", {}).get(
            "transform", get_config()["transform_output"]
        )
        if container != "default" and is_dask(X):
            raise ValueError(
                f"A dask array of features does not go into the {container} table that set_output "
                "or set_config asks for; use set_output(transform='default') on this step."
            )
        if not self.flatten and container != "default":
            raise ValueError(
                f"flatten=False gives arrays of shape (n, rows, columns, features), which do not "
                f"fit into the {container} table that set_output or set_config asks for; use "
                "flatten=True, or set_output(transform='default') on this step."
            )

    def _check_input_features(self, input_features: Any) -> None:
        if input_features is None:
            return
        names = np.asarray(input_features, dtype=object)
        if names.shape != (self.n_features_in_,):
            raise ValueError(
                "input_features should have length equal to number of features "
                f"({self.n_features_in_}), got {input_features!r:.80}."
            )
        if not np.array_equal(names, getattr(self, "feature_names_in_", names)):
            raise ValueError("input_features is not equal to feature_names_in_.")


def _feature_shape(
    parameters: Parameters, geometry: Geometry, n_kernels: int
) -> tuple[int, int, int, int, int]:
    """Give (grid rows, grid columns, poolings, sides, kernels) of the features of an image."""
    rows, columns = parameters.pool_grid if parameters.poolings else geometry.output_shape
    return rows, columns, len(parameters.poolings or [""]), len(parameters.sides), n_kernels


def _measure_output(
    parameters: Parameters, image: tuple[int, int], kernels: tuple[int, int, int, int]
) -> OutputSize:
    """Measure the output of images (h, w) and kernels (kh, kw, c, n_kernels)."""
    geometry = parameters.windows.place(image, kernels[:2])
    features = _feature_shape(parameters, geometry, kernels[3])
    return OutputSize(
        (*geometry.output_shape, features[3] * features[4]),
        prod(features),
        prod(geometry.output_shape) * prod(kernels),
        prod(features) * np.dtype(np.float32).itemsize,
    )


def _check_channels(kernels: tuple[int, ...], n_channels: int) -> None:
    if kernels[2] != n_channels:
        raise ValueError(
            f"kernels of shape {kernels} see {kernels[2]} channels, but the images have "
            f"{n_channels}; kernels must have shape (kh, kw, {n_channels}, n_kernels). Those of "
            "PyTorch go in as weight.detach().numpy().transpose(2, 3, 1, 0)."
        )


def _warn_of_infinity(features: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(features.sum()) or np.isfinite([features.min(), features.max()]).all():
            return
    warnings.warn(
        f"Some features are infinite or NaN: responses were beyond the range of {features.dtype}. "
        "Divide the images by their standard deviation first, or make X float64.",
        UserWarning,
        stacklevel=3,
    )
