"""The engine: convolution, activation and pooling of a batch of images.

What happens to the images, in order:

- ``geometry``: where the windows lie;
- ``staging``: copy the pixels of a block of windows, so that a matrix product can read them;
- ``weights``: the matrix for this product, with rows for constants;
- ``numpy_engine``: cut the work into blocks and multiply;
- ``activation`` and ``pooling``: what is done to the responses;
- ``threads``: share the blocks between threads.

An engine is a class with this interface; ``numpy_engine.NumpyEngine`` is the reference:

``Engine(layer)``
    Prepare what does not depend on the images. ``layer`` is a `layer.Layer`.
``engine.compute(images, out, n_jobs=1, advance=...)``
    Write the features of ``images``, ``(n, h, w, c)``, of any real dtype and in any memory order,
    to ``out``, ``(n, rows, columns, poolings, sides, k)``, in the dtype of the layer. Rows and
    columns are those of the grid; if the layer does not pool, they are those of the map, and the
    axis of poolings has length 1. ``advance(m)`` is called when m more images are done, from any
    thread; m may be a `fractions.Fraction`.

The result must not depend on ``n_jobs``, on the block size or on the memory order of the images,
beyond rounding. Images are not written to, and the memory in use does not grow with their number or
size. ``tests/test_engine.py`` compares an engine with plain loops.
"""
