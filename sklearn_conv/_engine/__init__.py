"""The engine: convolution, activation and pooling of a batch of images.

There are two engines for arrays of NumPy and one for arrays of other libraries; ``make_engine`` of
``choice`` is the place that chooses one, and where another one is added. All engines share:

- ``layer``: the description of what is computed;
- ``geometry``: find the pixels of each window;
- ``activation`` and ``pooling``: the tables of activations and poolings, for all engines;
- ``threads``: distribute tasks over threads.

Four engines use other engines: ``missing`` leaves out windows with missing pixels, ``pyramid``
joins the cells of several grids, ``symmetry`` averages the features of mirrored and turned images,
and ``sliding`` computes the features of overlapping tiles of a scene.

``numpy_engine`` is the reference. ``array_api_engine`` computes with the functions of the array API
standard, on the device on which the arrays ``images`` and ``out`` are. ``native_engine`` uses a
library in C++ (``native_library``), if there is one, and is several times faster.

An engine is a class with this interface:

``Engine(layer)``
    Prepare everything that does not depend on the images. ``layer`` is a `layer.Layer`.
``engine.compute(images, out, n_jobs=1, advance=...)``
    Write the features of ``images`` to ``out``; it may be called several times. ``images`` has
    shape ``(n, h, w, c)``, any real dtype and any memory order. ``out`` has shape
    ``(n, rows, columns, poolings, outputs, k)`` and the dtype of the layer; its rows and columns
    are those of the grid, or a single row for several grids, and its outputs are those of
    `layer.Layer.outputs`. If the layer does not pool, they are those of the map, and the axis of
    poolings has length 1. ``out`` is in C order,
    but its last axis may be a slice of a longer one.
    ``n_jobs`` is that of the estimators, and may be None. ``advance(m)`` is called from any thread
    when m more images are done; m may be a `fractions.Fraction`.

Rules for all engines:

- Apart from rounding, the result does not depend on ``n_jobs``, on the block size or on the memory
  order of the images.
- Images are not changed. Beside ``out``, the memory in use does not grow with the number or the
  size of the images; blocks respect the option ``working_memory`` of scikit-learn.
- In float32, each response is at least as accurate as a plain sum in float32, and sums over
  positions have a relative error below 1e-6. A window that is normalized and constant is exactly 0.
- NaN and infinity affect only the windows that contain them. Overflow gives infinity, without a
  warning.
- There are as many threads as ``n_jobs`` says: BLAS is limited to one thread meanwhile.

``tests/test_engine_interface.py`` checks these rules for every engine.
"""
