"""Ridge regression from sums over batches of rows, which are not stored.

- `labels` combines class labels exactly; `keys` computes the keys by which rows are sampled.
- `moments` adds up the rows; `dask_rows` does so for the chunks of a Dask array.
- `solving` computes the coefficients for each alpha from the sums, and chooses one alpha.
- `classifier` is the estimator. It checks rows and labels, decides when to solve, and predicts.

Each module imports only modules that are listed before it. The sums and the solver use labels, but
no estimator, so that other estimators can be built on them.
"""
