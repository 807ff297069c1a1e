"""Batches of images: in memory, in a file, or in a Dask array.

`checks.check_images` checks X and returns an object of a class in ``batch``: `ArrayImages`,
`StoredImages` or `DaskImages`, or `array_api.ArrayApiImages`. All classes have the attributes
``shape``, ``(n, h, w, c)``, and ``dtype``. ``read(rows)`` returns an array for each slice that
``batches()`` yields. It is one of NumPy, except for `ArrayApiImages`, which have an engine of their
own.

To support another kind of source, write a subclass of `batch.ReadableImages` with its own ``read``,
and add a condition to `checks.check_images` that selects it.
"""
