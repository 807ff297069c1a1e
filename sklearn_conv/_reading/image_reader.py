"""`ImageReader`: read image files as a step of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_conv._parameters import check_n_jobs
from sklearn_conv._reading.formats import Described, Settings, check_settings
from sklearn_conv._reading.image_files import ImageFiles, describe_images
from sklearn_conv._reading.sources import find_in_sequence
from sklearn_conv._versions import API_LINK


class ImageReader(  # type: ignore[call-arg]
    TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Read image files as a step of a pipeline: a column of paths becomes images.

    ``(n,) or (n, 1) paths -> (n, h, w, c)``

    In a `~sklearn.pipeline.Pipeline` with `StridedConv2DTransformer`, the size of the images can be
    searched like any other parameter. In a `~sklearn.compose.ColumnTransformer`, such a pipeline
    turns a column of paths into features beside the features of other columns.

    Parameters
    ----------
    size : (height, width), "any" or None, default=None
        Size to which images are scaled, in pixels. If None, all images must have the same size.
        With "any", images keep their sizes.
    mode : {"RGB", "L", "RGBA"} or None, default="RGB"
        Channels of the images; None keeps the channels and the dtype of the files. `read_images`
        describes the modes.
    resize : {"crop", "pad", "stretch"}, default="crop"
        How images of other proportions come to ``size``, as in `read_images`.
    page : int, default=0
        Which page of files with several pages is read, counted from 0.
    load_func : callable, default=None
        Function that returns the array of a path, as in `read_images`; it requires ``mode=None``. A
        model is pickled with the name of the function, so save it with a function of a module.
    n_jobs : int, default=None
        Number of threads that decode images, as in `read_images`.

    Attributes
    ----------
    image_shape_ : tuple
        Shape of the images, ``(h, w, c)``. With ``size="any"``, h and w are None.
    dtype_ : numpy.dtype
        Dtype of the pixels.
    n_features_in_ : int
        Number of columns, 1.
    feature_names_in_ : ndarray of shape (1,)
        Name of the column. Defined only if X is a table whose column has a string as its name.

    See Also
    --------
    read_images : Find and read images outside of a pipeline, such as those of a folder.

    Notes
    -----
    `fit` opens no files if ``size`` and ``mode`` say what the images will be. It opens the first
    file if the mode is None, and all files, without decoding them, if the size is None or "any".
    ``set_output`` has no effect on this step of a pipeline, because images do not fit into a table.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_conv import ImageReader, StridedConv2DTransformer
    >>> rng = np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder) / f"{i}.png" for i in range(20)]
    ...     for i, path in enumerate(paths):  # smooth and rough images
    ...         pixels = rng.integers(256, size=(12, 12, 3), dtype=np.uint8)
    ...         Image.fromarray(pixels).resize((48, 48), 2 * (i % 2)).save(path)
    ...     model = make_pipeline(
    ...         ImageReader(), StridedConv2DTransformer(8, random_state=0), RidgeClassifier()
    ...     )
    ...     grid = {"imagereader__size": [(4, 4), (48, 48)]}
    ...     search = GridSearchCV(model, grid, cv=2).fit(paths, np.arange(20) % 2)
    >>> search.best_params_
    {'imagereader__size': (48, 48)}
    """

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    if TYPE_CHECKING:  # scikit-learn has no types; these methods are inherited from it.

        def fit_transform(self, X: Any, y: Any = None, **params: Any) -> ImageFiles: ...
        def set_params(self, **params: Any) -> Self: ...

    def __init__(
        self,
        size: tuple[int, int] | str | None = None,
        *,
        mode: str | None = "RGB",
        resize: str = "crop",
        page: int = 0,
        load_func: Callable[[str], Any] | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.size = size
        self.mode = mode
        self.resize = resize
        self.page = page
        self.load_func = load_func
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and find the shape of the images.

        Parameters
        ----------
        X : list, array, Series or DataFrame of shape (n,) or (n, 1)
            Paths of image files; or, in a list, images in memory, as in `read_images`.
        y : None
            Ignored.

        Returns
        -------
        self : ImageReader
            The fitted reader.

        Raises
        ------
        TypeError, ValueError, OSError, ImportError
            As in `read_images`.
        """
        owner = type(self).__name__
        settings = check_settings(
            owner, self.size, self.mode, self.resize, self.page, self.load_func
        )
        check_n_jobs(owner, self.n_jobs)
        source = find_in_sequence(X, "X", self.load_func is not None)
        described = describe_images(source, settings, self.n_jobs)
        self._remember_column(X, reset=True)
        self.image_shape_, self.dtype_ = _seen(described[0], settings)
        self._settings = settings
        return self

    def transform(self, X: Any) -> ImageFiles:
        """Return the images, which are decoded when they are needed.

        Parameters
        ----------
        X : list, array, Series or DataFrame of shape (n,) or (n, 1)
            Paths of image files; or, in a list, images in memory.

        Returns
        -------
        files : ImageFiles
            The images. Errors in files are raised when these are decoded.

        Raises
        ------
        NotFittedError
            If the reader is not fitted.
        ValueError
            If the images do not have the shape and dtype of those in ``fit``; others as in `fit`.
        """
        check_is_fitted(self)
        check_n_jobs(type(self).__name__, self.n_jobs)
        self._remember_column(X, reset=False)
        settings = self._settings
        source = find_in_sequence(X, "X", settings.load_func is not None)
        if settings.size is None:
            described = describe_images(source, settings, self.n_jobs)
        else:
            described = [((*settings.size, self.image_shape_[2]), self.dtype_)]
        shape, dtype = _seen(described[0], settings)
        if (shape, dtype) != (self.image_shape_, self.dtype_):
            raise ValueError(
                f"X contains images of shape {shape} and dtype {dtype}, but {type(self).__name__} "
                f"was fitted on images of shape {self.image_shape_} and dtype {self.dtype_}; set "
                "size and mode to read all images alike, or fit again."
            )
        return ImageFiles(source, described, settings, self.n_jobs, [])

    def get_feature_names_out(self, input_features: Any = None) -> None:
        """Return None: images have no names of features, so the next step uses its own.

        Parameters
        ----------
        input_features : None or array-like of str
            Ignored.
        """
        check_is_fitted(self)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Return the unchanged reader, because images do not fit into a table.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Ignored.
        """
        return self

    def _remember_column(self, X: Any, reset: bool) -> None:
        """Store the number and the name of the column; without ``reset``, compare them instead."""
        # Lists, arrays and Series are a single column without a name.
        table = X if hasattr(X, "columns") else np.empty((1, 1), bool)
        validate_data(self, table, reset=reset, skip_check_array=True)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _seen(
    first: Described, settings: Settings
) -> tuple[tuple[int | None, int | None, int], np.dtype]:
    """Return the shape and the dtype that all images must have, given those of the first one."""
    shape, dtype = first
    return ((None, None, shape[2]) if settings.is_any else shape), dtype
