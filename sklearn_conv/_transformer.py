"""`StridedConv2DTransformer`: convolution, activation and pooling as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import as_memory_error, from_library, namespace, to_numpy
from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps, with_callbacks
from sklearn_conv._computing import BatchComputer
from sklearn_conv._engine.activation import call_function
from sklearn_conv._engine.geometry import Geometry, place_windows
from sklearn_conv._images.checks import Request, check_columns, remember_columns
from sklearn_conv._images.kinds import Images, check_images
from sklearn_conv._images.mistakes import warn_of_large_images, warn_of_mistakes
from sklearn_conv._output_size import (
    OutputSize,
    check_sizes,
    check_views,
    feature_names,
    feature_shape,
    measure_output,
    place_on_all,
    place_views,
    require_pooling,
)
from sklearn_conv._parameters import (
    MISSING,
    Parameters,
    check_channels,
    check_image_shape,
    check_parameters,
    make_generator,
)
from sklearn_conv._validation import cast_numbers, check_integer, check_numbers
from sklearn_conv._versions import API_LINK
from sklearn_conv.kernels._initializers import KERNELS
from sklearn_conv.kernels._patches import TrainingPatches

TRANSFORM_ONLY = ["stride", "activation", "pooling", "pool_grid", "power", "flatten"]
TRANSFORM_ONLY += ["n_jobs", "verbose"]
"""Parameters on which kernels, biases and whitening do not depend."""


class StridedConv2DTransformer(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Turn images into features: strided convolution, activation and pooling.

    ``(n, h, w, c) -> (n, grid rows * grid columns * features of a cell)``

    Each of ``n_kernels`` kernels is applied to every window of the image; windows are ``stride``
    pixels apart. The activation function is applied to the response ``z = window . kernel``. The
    activated responses in each cell of a grid over the image are then pooled to one number, so the
    number of features does not depend on the size of the images.

    Parameters
    ----------
    n_kernels : int, default=64
        Number of kernels. If ``kernels`` is an array, the number is taken from it.
    kernel_size : int or (rows, columns), default=3
        Size of the kernels in pixels. If ``kernels`` is an array, the size is taken from it.
    stride : int or (rows, columns), default=1
        Distance from one window to the next, in pixels.
    kernels : str, array-like of shape (kh, kw, c, n_kernels) or callable, default="gaussian"
        Name of an initializer in `sklearn_conv.kernels`, documented there: "patches", "kmeans" and
        "pca" are learned from training patches, which are windows of the images passed to ``fit``;
        use ``normalize_patches=True, whiten=True`` with them. "gaussian" and "uniform" are random.
        "sobel", "gabor", "laplace", "dct" and "haar" are fixed. "pca", "dct" and "haar" provide at
        most ``kh * kw * c`` kernels. The kernel size must be at least 2 for "sobel", and at least 3
        for "gabor" and "laplace".

        An array has the layout of `conv2d`. A callable ``init(shape, rng, patches)`` returns an
        array of that shape, ``(kh, kw, c, n_kernels)``. ``rng`` is a `numpy.random.RandomState`.
        ``patches(n)`` returns n preprocessed training patches as rows of shape ``(n, kh*kw*c)``,
        each flattened in C order, and ``patches()`` all of them, without nearly constant ones.
    bias : float, "quantile" or array-like, default=0.0
        Bias added to the responses before the activation, in their units; a negative bias is a
        threshold. With ``normalize_patches`` or ``whiten``, values from -0.1 to -0.5 are typical.
        An array of shape ``(n_kernels,)`` contains the bias of each kernel. Each row of an array of
        shape ``(n_biases, n_kernels)``, or ``(n_biases, 1)`` for all kernels, makes features of its
        own from the same responses, in little more time.

        "quantile" sets the thresholds of a kernel, which are minus its biases, to quantiles of its
        responses to at most 10,000 training patches, as MiniRocket does: the level of threshold i
        of kernel j is the fractional part of ``1.618 * (j * n_biases + i + 1)``. About half of the
        biases are positive, so use it with "relu" or "step".
    n_biases : int, default=1
        Number of biases of each kernel if ``bias`` is "quantile", at most 10,000. If ``bias`` is an
        array, the number is taken from it.
    padding : {"valid", "same"}, int or (rows, columns), default="same"
        Number of pixels added on each side of the images, as in `conv2d`.
    padding_mode : {"constant", "edge", "reflect", "symmetric", "wrap"}, default="constant"
        Values of the added pixels, as in `numpy.pad`; "constant" adds zeros. Use "edge" for images
        whose background is not 0; otherwise kernels respond to the step from the background to 0.
    dilation : int or (rows, columns), default=1
        Distance from one weight of a kernel to the next, in pixels.
    normalize_patches : bool, default=False
        Whether to center each window, including its padding and all of its channels, and to divide
        it by ``sqrt(variance + eps)``, where ``eps`` is 0.01 times the mean variance of the
        training patches. The response of a constant window is ``offset_``. If each kernel would
        always respond with 0, because its weights are all equal or a single pixel of one channel,
        `fit` raises an error.
    whiten : bool or float, default=False
        Whether to subtract the mean patch from each window, after normalization, and to apply ZCA
        whitening, which divides the directions of the patches by
        ``sqrt(variance + whiten * mean variance)``. True means 0.1. Whitening is folded into
        ``kernels_`` and ``offset_`` and takes no time in ``transform``.
    n_patches : int, default=100000
        Number of training patches. They are drawn only if kernels, whitening, normalization or
        quantiles need them, without replacement, from all windows that lie inside the images. If
        there are fewer such windows, all are used; if the images are smaller than a kernel, windows
        that extend into the padding are used. ``kernels="patches"`` repeats patches only if there
        are fewer patches than kernels. During ``fit``, a patch takes about three times
        ``4 * kh * kw * c`` bytes, or twice as much if the features are float64.
    activation : str or callable, default="relu"
        Function of the response z and the bias b: "identity" is z + b, "relu" is max(z + b, 0),
        "abs" is abs(z + b), "square" is (z + b)**2, and "step" is 1 where z + b > 0, else 0.
        "split" makes two features for each kernel, max(z + b, 0) and max(-z + b, 0). In flat
        regions, z is 0 except for rounding, unless ``whiten`` is used, so "step" needs a bias
        slightly below 0, or "quantile".

        A callable receives an array of z + b and returns one number for each element. While it
        runs, NumPy ignores overflow, underflow and invalid values, whatever `numpy.seterr` says;
        use `numpy.errstate` inside it to change this. The same holds for a callable ``kernels``.
    pooling : {"max", "mean", "sum"}, list of these or None, default="mean"
        Reduction of the activated responses in a cell to one number. A list produces one feature
        for each of its elements. With None, responses are not pooled, ``pool_grid`` is ignored, and
        each activated response is a feature.
    pool_grid : int, (rows, columns) or list of these, default=2
        Number of cells into which each map is divided along each axis. Along an axis with L
        responses, cell i of m is ``[i*L//m, max(i*L//m + 1, (i+1)*L//m))``. Cells are never empty,
        and overlap only if L < m. A list contains several different grids.

        With ``[1, 2, 4]``, a spatial pyramid, features are pooled over 1 + 4 + 16 cells, from
        responses that are computed once. A tuple is always a single grid: ``(2, 4)`` has two rows
        and four columns, and ``[2, 4]`` means ``(2, 2)`` and ``(4, 4)``. Several grids need
        ``flatten=True``.
    symmetries : {"mirror", "dihedral"} or None, default=None
        Images over which each feature is averaged: with "mirror", the image and its mirror image
        with left and right exchanged; with "dihedral", the eight mirrored and turned images of a
        square. This takes two or eight times as long. Training patches are taken from these images
        as well, except that windows which are not square are not turned by 90 degrees. With
        "dihedral" and ``pooling=None``, maps of all turned images must be square, and of one size.
    power : float, default=1.0
        Power to which features are raised, ``sign(feature) * abs(feature)**power``, after they were
        averaged over ``symmetries``; 0.5 is the square root. A power below 1 magnifies the rounding
        of features that should be 0; use ``normalize_patches`` or a negative bias, with which flat
        regions are exactly 0.
    missing : {"raise", "ignore"}, default="raise"
        What NaN and masked values in X mean. With "raise", they are errors. With "ignore", they are
        missing pixels: a window counts only if none of its pixels is missing in any channel, a cell
        is pooled over the windows that count, and its features are NaN if there are none. With
        ``symmetries``, features are averaged over the images in which the cell has windows. With
        ``pooling=None``, windows with missing pixels are NaN. Training patches are taken from whole
        windows only. Added pixels are missing if they repeat a missing pixel. Masked integers are
        read as floats.
    flatten : bool, default=True
        Whether each image becomes one row of features. If False, the features keep the shape of
        the grid, ``(n, rows, columns, features of a cell)``, and can be passed as images to a
        second transformer; use a single, fine ``pool_grid`` in the first one.
    image_shape : (h, w), (h, w, c), "any" or None, default=None
        Shape of the images in a 2-D X. If None, a row of s*s numbers is interpreted as an image of
        shape ``(s, s, 1)``, and any other row of d numbers as an image with a single row of pixels,
        ``(1, d, 1)``, with a warning. Channels are never guessed.

        With "any", images may have different numbers of rows and columns, in ``fit`` and in
        ``transform``. X is a list of images of shape (h, w) or (h, w, c), the result of
        ``read_images(..., size="any")``, or an array of images of one size. Training patches are
        taken from all windows of all images. A ``pooling`` is needed.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the random kernels and the training patches. If None, they differ in
        every call of ``fit``.
    n_jobs : int, default=None
        Number of threads among which ``transform`` divides the work, if there is enough of it.
        None means 1 unless in a `joblib.parallel_config` context; -1 means all cores, or one thread
        in a worker of joblib, such as those of a search with several jobs. The features are the
        same except for rounding.
    verbose : int, default=0
        If above 0, ``transform`` prints the number of finished images and the estimated time left
        to stderr, at most once a second; if at least 10, after every block of images.

    Attributes
    ----------
    kernels_ : ndarray of shape (kh, kw, c, n_kernels)
        The kernels that are applied to the images. They include the whitening, and they have zero
        mean if windows are normalized.
    offset_ : ndarray of shape (n_kernels,)
        Constant that is added to ``window . kernel`` to obtain the response z. It results from the
        mean patch that whitening subtracts; without whitening it is 0.
    eps_ : float
        The ``eps`` of ``normalize_patches``, or 0.0 without it.
    bias_ : ndarray of shape (n_kernels,) or (n_biases, n_kernels)
        The bias of each kernel, or several biases of each kernel.
    image_shape_ : tuple
        Shape of the images seen in ``fit``, ``(h, w, c)``; ``(None, None, c)`` if it may be "any".
    maps_shape_ : tuple
        Shape of the maps of an image, ``(rows, columns, number of maps)``. `output_size` returns
        this shape and the next two numbers before ``fit``. With ``image_shape="any"``, the first
        two numbers are None.
    n_features_out_ : int
        Number of features of an image.
    multiply_adds_ : int or None
        Number of multiply-add operations for an image, with those of its mirrored and turned
        images. None with ``image_shape="any"``.
    n_features_in_ : int
        Number of values in an image, ``h * w * c``. Not defined with ``image_shape="any"``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns of X. Defined only if X has column names that are all strings.

    See Also
    --------
    conv2d : The plain convolution.

    Notes
    -----
    The features of an image are an array of shape ``(grid rows, grid columns, poolings, sides,
    n_biases, n_kernels)``, flattened in C order. "split" has two sides; all other activations have
    one. With several grids, the features of each grid follow those of the grid before it in the
    list. `get_feature_names_out` returns the name of each feature.

    Changing a parameter that only ``fit`` uses has no effect on a fitted transformer:
    ``n_kernels``, ``kernel_size``, ``kernels``, ``bias``, ``n_biases``, ``normalize_patches``,
    ``whiten``, ``n_patches``, ``image_shape`` and ``random_state``. All other parameters take
    effect in the next call of ``transform``; for example, after ``set_params(pooling=None,
    flatten=False)``, it returns activated maps. The attributes keep the values of ``fit``.

    If ``array_api_dispatch`` is set in `sklearn.set_config`, X may be an array of PyTorch or CuPy,
    on a GPU as well. The fitted arrays and the features are then arrays of this library, on the
    device of X. A callable ``activation`` receives such arrays. ``n_jobs`` has no effect.

    References
    ----------
    A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    A. Coates, H. Lee and A. Y. Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning" (2011): normalized and whitened patches, and the effect of stride and kernel size.
    L. Thiry, M. Arbel, E. Belilovsky and E. Oyallon, "The Unreasonable Effectiveness of Patches in
    Deep Convolutional Kernels Methods" (2021).
    F. Perronnin, J. Sánchez and T. Mensink, "Improving the Fisher Kernel for Large-Scale Image
    Classification" (2010): powers of features.
    S. Lazebnik, C. Schmid and J. Ponce, "Beyond Bags of Features: Spatial Pyramid Matching for
    Recognizing Natural Scene Categories" (2006): several grids.

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
    >>> transformer.get_feature_names_out()[[0, 63]].tolist()
    ['kernel000_mean_r0_c0', 'kernel015_mean_r1_c1']
    """

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    image_shape_: tuple[Any, Any, int]
    maps_shape_: tuple[Any, Any, int]
    _typical_side: int | None = None
    """Side of the images that a recipe is made for; much larger images get a warning in ``fit``."""

    if TYPE_CHECKING:  # scikit-learn has no types; these methods are inherited from it.

        def fit_transform(self, X: npt.ArrayLike, y: Any = None, **params: Any) -> np.ndarray: ...
        def set_output(self, *, transform: str | None = None) -> Self: ...

    def __init__(
        self,
        n_kernels: int = 64,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        *,
        kernels: str | npt.ArrayLike | Callable[..., np.ndarray] = "gaussian",
        bias: float | str | npt.ArrayLike = 0.0,
        n_biases: int = 1,
        padding: str | int | tuple[int, int] = "same",
        padding_mode: str = "constant",
        dilation: int | tuple[int, int] = 1,
        normalize_patches: bool = False,
        whiten: bool | float = False,
        n_patches: int = 100_000,
        activation: str | Callable[[np.ndarray], np.ndarray] = "relu",
        pooling: str | Sequence[str] | None = "mean",
        pool_grid: int | tuple[int, int] | list[Any] = 2,
        symmetries: str | None = None,
        power: float = 1.0,
        missing: str = "raise",
        flatten: bool = True,
        image_shape: tuple[int, int] | tuple[int, int, int] | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_kernels = n_kernels
        self.kernel_size = kernel_size
        self.stride = stride
        self.kernels = kernels
        self.bias = bias
        self.n_biases = n_biases
        self.padding = padding
        self.padding_mode = padding_mode
        self.dilation = dilation
        self.normalize_patches = normalize_patches
        self.whiten = whiten
        self.n_patches = n_patches
        self.activation = activation
        self.pooling = pooling
        self.pool_grid = pool_grid
        self.symmetries = symmetries
        self.power = power
        self.missing = missing
        self.flatten = flatten
        self.image_shape = image_shape
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: npt.ArrayLike, y: Any = None) -> Self:
        """Make the kernels and store the shape of the images.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            Images of finite real numbers, channels last. An X with three axes contains images with
            one channel; pass a single image as ``image[np.newaxis]``. For a `numpy.memmap`, zarr or
            h5py array, only the images needed for fitting are read, in batches; for a Dask array,
            about 32 MB of images are computed. NaN in the other images is found by `transform`.
        y : None
            Ignored.

        Returns
        -------
        self : StridedConv2DTransformer
            The fitted transformer.

        Warns
        -----
        UserWarning
            If the shape and a sample of a few thousand pixels show that X is probably not what was
            meant: channels first, a single color image, an opaque alpha channel, a fill value such
            as -9999, 1 to 3 small images to learn from, or constant images among others.

        Raises
        ------
        TypeError
            If a parameter or X has a wrong type.
        ValueError
            If a parameter has a wrong value, if X is not a batch of images, if the kernels do not
            fit the images, or if the kernels, the maps or the features are too large.
        """
        parameters = check_parameters(self)
        request = Request(self, parameters.image_shape, "fit", parameters.ignores_missing)
        images = check_images(X, request)
        if request.is_any:
            require_pooling(parameters)
        shape = (*parameters.kernel_size, images.shape[3], parameters.n_kernels)
        geometries = place_on_all(parameters, images.distinct_sizes(), shape, parameters.n_biases)
        size = measure_output(parameters, geometries, shape)
        if self._typical_side is not None:
            warn_of_large_images(images.distinct_sizes(), self._typical_side)
        if callable(self.activation):  # An invalid function raises here, not only in transform.
            with np.errstate(all="ignore"):  # As in transform.
                ones = images.library.put(np.ones((2, parameters.n_kernels)))
                call_function(self.activation, ones)
        learned = self._learn(X, y, images, parameters)
        # All steps that can fail are done, so a failed fit leaves the estimator as it was.
        if request.is_any:  # They may be those of an earlier fit.
            for name in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(name, None)
        else:
            remember_columns(self, X, images.shape)
        self.__dict__.update(learned)
        self.image_shape_ = (None, None, images.shape[3]) if request.is_any else images.shape[1:]
        self.maps_shape_ = (None, None, size.maps[2]) if request.is_any else size.maps
        self.n_features_out_ = size.features
        self.multiply_adds_ = None if request.is_any else size.multiply_adds
        return self

    def transform(self, X: npt.ArrayLike) -> np.ndarray:
        """Compute the features of images.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            Images of the shape seen in ``fit``. A `numpy.memmap`, zarr or h5py array is read in
            batches, each image once.

        Returns
        -------
        features : ndarray or Dask array of shape (n, n_features) or (n, rows, columns, f)
            Features of the images; with ``flatten=False``, f features in each cell of the grid.
            The dtype is float64 if X is float64 or has integers wider than 16 bits, else float32.
            For a Dask array, the result is a lazy Dask array with the same chunks along axis 0. For
            an array of PyTorch or CuPy and ``array_api_dispatch``, it is such an array.

        Warns
        -----
        UserWarning
            If features are infinite or NaN, because they overflow or, with ``assume_finite``, X
            contains NaN. If a sample of pixels contains a fill value such as -9999, or values that
            differ grossly from those seen in ``fit``, for example 0 to 1 instead of 0 to 255. If
            the channels of X seem to be in another order, or if images are brighter, darker or
            constant, unlike those in ``fit``.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        TypeError
            If a parameter or X has a wrong type.
        ValueError
            If a parameter has a wrong value, if X is not a batch of images of the shape seen in
            ``fit``, if X is not in the library and on the device of the fitted arrays, or if
            ``set_output`` requests a table that cannot hold the features.
        MemoryError
            If the features, or the windows of a few images, do not fit into memory.
        """
        check_is_fitted(self)
        parameters = check_parameters(self)
        images = self._check_fitted_images(X, parameters, "transform")
        self._refuse_tables(images)
        shape, dtype = self._feature_shape(parameters), images.compute_dtype
        if images.is_lazy:
            return images.map(self, "transform", self._row_shape(shape), dtype)
        remedy = (
            f"{len(images)} images have {prod(shape)} features each. Compute them in batches with "
            "transform_batches(X), or choose fewer kernels or cells; output_size() returns the "
            "size of the features."
        )
        with as_memory_error(remedy):
            out = images.library.empty((len(images), *shape), dtype)
        computer = BatchComputer(self, parameters, images, dtype)
        for rows in images.batches():
            computer.compute(rows, out[rows, ...])
        return namespace(out).reshape(out, (len(images), *self._row_shape(shape)))

    def transform_batches(
        self, X: npt.ArrayLike, batch_size: int | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Compute the features batch by batch, for features that do not fit into memory.

        Assigning ``features[rows] = batch`` for all batches produces the result of `transform`.

        Parameters
        ----------
        X : array-like of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
            Images as in `transform`, but not a Dask array.
        batch_size : int, default=None
            Number of images in a batch. If None, the images and the features of a batch take about
            16 MB, and a batch of a zarr or h5py array consists of whole chunks, unless one chunk
            takes more than 32 MB.

        Yields
        ------
        rows : slice
            Rows of the batch, whose images are ``X[rows]``; batches follow each other without gaps.
        features : ndarray of shape (b, n_features) or (b, rows, columns, f)
            Features of the b images of the batch, as in `transform`.

        Warns
        -----
        UserWarning
            As in `transform`.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in `transform`, and if ``batch_size`` is not an integer of at least 1. For an array
            that is read in batches, NaN and infinity raise an error only when their batch is read.

        See Also
        --------
        save_batches : Write the batches to a file.
        StreamingRidgeClassifier : Learn from one batch after the other.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_conv import StridedConv2DTransformer
        >>> images = np.random.default_rng(0).random((1000, 8, 8))
        >>> transformer = StridedConv2DTransformer(random_state=0).fit(images)
        >>> for rows, features in transformer.transform_batches(images, batch_size=400):
        ...     print(rows, features.shape)
        slice(0, 400, None) (400, 256)
        slice(400, 800, None) (400, 256)
        slice(800, 1000, None) (200, 256)
        """
        check_is_fitted(self)
        if batch_size is not None:
            owner = f"{type(self).__name__}.transform_batches"
            batch_size = check_integer(owner, "batch_size", batch_size, 1)
        parameters = check_parameters(self)
        images = self._check_fitted_images(X, parameters, "transform_batches")
        if images.is_lazy:
            raise TypeError(
                "transform_batches reads X itself, but X is a Dask array; transform(X) returns the "
                "features as a lazy Dask array."
            )
        shape, dtype = self._feature_shape(parameters), images.compute_dtype
        length = batch_size or images.reading_length(prod(shape) * dtype.itemsize)

        def generate() -> Iterator[tuple[slice, np.ndarray]]:
            computer = BatchComputer(self, parameters, images, dtype)
            for rows in images.batches(length):
                out = images.library.empty((rows.stop - rows.start, *shape), dtype)
                computer.compute(rows, out)
                yield rows, namespace(out).reshape(out, (-1, *self._row_shape(shape)))

        # The generator is a separate function, so that X is checked before the first batch.
        return generate()

    def get_feature_names_out(self, input_features: npt.ArrayLike | None = None) -> np.ndarray:
        """Return the names of the features, made of kernel, side, bias, pooling and cell.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X. They are checked, but do not change the result.

        Returns
        -------
        names : ndarray of str
            Names such as "kernel003_mean_r0_c1", in the order of the flattened features. With
            several biases, they are such as "kernel003_bias0_mean_r0_c1", and with several grids
            such as "kernel003_mean_2x2_r0_c1".

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If ``input_features`` are not the columns seen in ``fit``.
        """
        check_is_fitted(self)
        check_columns(self, input_features)
        parameters = check_parameters(self)
        rows, columns, _, _, n_kernels = self._feature_shape(parameters)
        names = feature_names(parameters, (rows, columns), self._n_biases, n_kernels)
        return np.asarray(names, dtype=object)

    def output_size(
        self, image_shape: tuple[int, int] | tuple[int, int, int] | None = None
    ) -> OutputSize:
        """Return the output shape and the cost per image without computing anything.

        Parameters
        ----------
        image_shape : (h, w) or (h, w, c), default=None
            Shape of an image; two numbers mean one channel. If None, the shape seen in ``fit`` is
            used, or before ``fit`` the parameter ``image_shape``.

        Returns
        -------
        size : OutputSize
            Named tuple of ``maps`` (rows, columns, number of maps), ``features``,
            ``multiply_adds`` and ``bytes`` (size of the features in float32).

        Raises
        ------
        TypeError
            If a parameter or ``image_shape`` has a wrong type.
        ValueError
            If a parameter has a wrong value, if the kernels do not fit an image of that shape, or
            if the shape is unknown.

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
            if shape is not None and None in shape:
                shape = None
        else:
            shape = check_image_shape(f"{type(self).__name__}.output_size", image_shape)
        if shape is None:
            raise ValueError(
                "The output size depends on the shape of the images, which is not known; pass it, "
                "as in output_size((h, w, c))."
            )
        if not (isinstance(self.kernels, str) or callable(self.kernels)):
            check_channels(np.shape(self.kernels), shape[2])
        kernels = (*parameters.kernel_size, shape[2], parameters.n_kernels)
        geometries = place_views(parameters, shape[:2], parameters.kernel_size)
        check_views(parameters, geometries)
        return measure_output(parameters, geometries, kernels)

    def set_params(self, **params: Any) -> Self:
        # Who changes windows knows the size of the images.
        if params.keys() & {"kernels", "kernel_size", "dilation", "stride"}:
            self.__dict__.pop("_typical_side", None)
        changed: Self = super().set_params(**params)
        return changed

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        if self._typical_side is not None:  # It is not a parameter.
            copy._typical_side = self._typical_side
        return copy

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == MISSING
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.array_api_support = True
        return tags

    def _learn(self, X: Any, y: Any, images: Images, parameters: Parameters) -> dict[str, Any]:
        """Return those fitted attributes that do not depend on `TRANSFORM_ONLY` parameters."""
        shape = (*parameters.kernel_size, images.shape[3], parameters.n_kernels)
        dtype, n_biases = images.compute_dtype, parameters.n_biases
        windows = parameters.windows._replace(stride=(1, 1))
        rng = make_generator(self.random_state)
        patches = TrainingPatches(
            images=images,
            place=lambda image: place_windows(image, shape[:2], windows),
            kernel_size=parameters.kernel_size,
            views=parameters.views,
            n_patches=parameters.n_patches,
            normalize=self.normalize_patches,
            whiten=parameters.whiten,
            dtype=dtype,
            rng=rng,
        )
        remedy = (
            f"fit makes {parameters.n_kernels:,} kernels of shape {shape[:3]}, and may draw "
            f"{parameters.n_patches:,} training patches of this shape; use smaller n_kernels, "
            "kernel_size or n_patches."
        )
        with (
            fit_steps(self, X, y, 3) as step,
            as_memory_error(remedy),
            np.errstate(all="ignore"),  # `cast_numbers` raises for overflow.
        ):
            # Kernels are made first, because whitening draws patches from the same random stream.
            with step("kernels"):
                kernels = self._make_kernels(shape, rng, patches).reshape(-1, shape[3])
            with step("preprocessing"):
                folded, offset = patches.preprocessing.fold(kernels)
            with step("bias"):
                bias = from_library(self.bias)
                if isinstance(bias, str):
                    bias = -patches.thresholds(kernels, n_biases)
        folded = cast_numbers("kernels", folded.reshape(shape), dtype)
        offset = cast_numbers("offset_", offset, dtype)
        bias = np.broadcast_to(bias, (n_biases, parameters.n_kernels))
        bias = cast_numbers("bias", bias[0] if n_biases == 1 else bias, dtype)
        seen = warn_of_mistakes(images.shape, images.known(patches.windows), patches.are_all)
        return {
            "kernels_": images.library.put(folded),
            "offset_": images.library.put(offset),
            "eps_": patches.preprocessing.eps,
            "bias_": images.library.put(bias),
            "_values_seen": None if seen is None else tuple(seen),
            "_is_learned": patches.windows is not None,
        }

    @property
    def _n_biases(self) -> int:
        """Number of biases of each kernel; ``bias_`` has one axis if there is one."""
        return self.bias_.shape[0] if self.bias_.ndim == 2 else 1

    def _check_fitted_images(self, X: Any, parameters: Parameters, method: str) -> Images:
        """Check that X contains images of the shape seen in ``fit``, in the same library."""
        request = Request(self, self.image_shape_, method, parameters.ignores_missing)
        images = check_images(X, request)
        if request.is_any:
            sizes, kernels = images.distinct_sizes(), self.kernels_.shape
            place_on_all(parameters, sizes, kernels, self._n_biases)
        return images

    def _fitted_geometries(self, parameters: Parameters) -> list[Geometry]:
        """Place the windows of the fitted kernels on images of the fitted shape."""
        return place_views(parameters, self.image_shape_[:2], self.kernels_.shape[:2])

    def _feature_shape(self, parameters: Parameters) -> tuple[int, int, int, int, int]:
        """Return (grid rows, grid columns, poolings, sides * biases, kernels) of the features."""
        kernels, n_biases, maps = self.kernels_.shape, self._n_biases, (1, 1)
        if None in self.image_shape_:
            require_pooling(parameters)
        else:
            geometries = self._fitted_geometries(parameters)
            maps = geometries[0].output_shape
            check_views(parameters, geometries)
        check_sizes(parameters, maps, kernels, n_biases)
        return feature_shape(parameters, maps, n_biases, kernels[3])

    def _row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image in the result, given that of its features."""
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
            owner, kernels = type(self).__name__, self.kernels(shape, rng, patches)
            rule = "a callable that returns "
            return check_numbers(owner, "kernels", kernels, shape, otherwise=rule, finite=True)
        kernels = to_numpy(self.kernels)
        check_channels(kernels.shape, shape[2])
        return kernels

    def _refuse_tables(self, images: Images) -> None:
        """Raise an error if ``set_output`` requests a table that cannot hold the features."""
        container = getattr(self, "_sklearn_output_config", {}).get(
            "transform", get_config()["transform_output"]
        )
        features, remedy = images.features_are, "set_output(transform='default') on this step"
        if not features and not self.flatten:
            features = (
                "With flatten=False, an array of shape (n, rows, columns, features of a cell)"
            )
            remedy = f"flatten=True or {remedy}"
        if features and container != "default":
            raise ValueError(
                f"{features} does not fit into the {container} table that set_output or set_config "
                f"requests; use {remedy}."
            )
