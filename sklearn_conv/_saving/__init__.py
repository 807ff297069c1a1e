"""Write batches of features to a file, atomically.

`save.save_batches` checks the batches. `files` checks the path, and renames the file when it is
complete. `npy` and `parquet` write the formats. `description` describes the steps that computed the
features.
"""
