"""What X may be: a batch of images in memory, stored elsewhere, or a Dask array.

`checks.check_images` decides once, and returns an object of a class in ``batch``: `ArrayImages`,
`StoredImages` or `DaskImages`. All have ``shape``, ``(n, h, w, c)``, and ``dtype``; the engine only
sees the NumPy arrays that ``read(rows)`` returns for the slices that ``batches()`` yields.

A new kind of source is a subclass of `batch.Images` with its own ``read``, and a line in
`checks.check_images` that recognizes it.
"""
