"""Ridge regression, most of it from sums over batches of rows, which are not stored.

- `labels` combines class labels exactly.
- `products` multiplies features, and has the Cholesky factors of their products.
- `moments` adds up rows, and samples them; `dask_rows` does so for the chunks of a Dask array.
- `solving` computes the coefficients for each alpha from the sums, and chooses one alpha by
  leave-one-out errors. It has the table of solvers.
- `base` checks rows and decides when to solve. `classifier` and `regressor` are the estimators:
  they check targets, and predict.
- `rbf_solving` and `rbf` are the models with a Gaussian kernel, which store rows.

The sums and the solvers know no
estimator, so that other estimators can be built on them, and serve arrays of all libraries.
"""
