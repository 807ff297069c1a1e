"""Image files and images in memory, decoded when they are needed.

`image_files.read_images` finds the images with `sources`, and returns `image_files.ImageFiles`,
which decode them with `decoding`. `image_reader.ImageReader` does this as a step of a pipeline.

`decoding` chooses the library for each file. Each library has its module, which is imported only
when it is needed: `pillow_images`, `tiff_files` (tifffile) and `geo_files` (rasterio). They return
an `opened.OpenedImage`: what the header says, and a function that decodes the image.
"""
