"""Ridge regression, most of it from sums over batches of rows, which are not stored.

- `blocks` says how many rows are added or converted at once.
- `labels` combines class labels exactly; `keys` computes the keys by which rows are sampled.
- `targets` adds up class labels, or columns of numbers; `products` multiplies features.
- `moments` adds up the rows with both; `dask_rows` does so for the chunks of a Dask array.
- `leave_one_out` computes the errors by which alphas are compared, and selects some alphas fast.
- `solving` computes the coefficients for each alpha from the sums, and chooses one alpha.
- `base` checks rows and decides when to solve. `classifier` and `regressor` are the estimators:
  they check targets, and predict.
- `gaussian_solving` and `gaussian` are the models with a Gaussian kernel, which store rows.

Each module imports only modules that are listed before it. The sums and the solver know no
estimator, so that other estimators can be built on them.
"""
