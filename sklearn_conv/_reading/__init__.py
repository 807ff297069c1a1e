"""Image files and images in memory, decoded when they are needed.

`image_files.read_images` finds the images with `sources`, and returns `image_files.ImageFiles`,
which decode them with `formats`. `image_reader.ImageReader` does this as a step of a pipeline.

`formats` has the list of the formats of files. Each has its module, which is imported only when it
is needed: `pillow_images` and `tiff_files`, which both leave some files to `geo_files` (rasterio).
"""
