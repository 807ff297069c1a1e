"""Write batches of features to a file, atomically.

`save.save_batches` checks the batches and writes .npy files; `parquet` writes tables. `files`
checks the path, and renames the file when it is complete.
"""
