"""Compare the orthogonal Gaussian kernels with two alternatives, on the digits.

Run: python benchmarks/gaussian_kernels.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer


def independent(shape, rng, patches):
    """Return Gaussian kernels of unit norm."""
    weights = rng.standard_normal(shape)
    return weights / np.sqrt(np.sum(weights**2, axis=(0, 1, 2)))


def centered(shape, rng, patches):
    """Return Gaussian kernels of zero mean and unit norm."""
    weights = rng.standard_normal(shape)
    weights -= weights.mean(axis=(0, 1, 2))
    return weights / np.sqrt(np.sum(weights**2, axis=(0, 1, 2)))


def main():
    """Print the mean accuracy and its standard error over the seeds."""
    digits = load_digits()
    n_seeds = 10
    print(f"digits, RidgeClassifier(alpha=100), 3-fold accuracy in percent, {n_seeds} seeds")
    for kernel_size, n_kernels in [(3, 4), (3, 8), (5, 16), (5, 24)]:
        row = []
        for kernels in (independent, centered, "gaussian"):
            scores = [
                cross_val_score(
                    make_pipeline(
                        StridedConv2DTransformer(
                            n_kernels, kernel_size, kernels=kernels, random_state=seed
                        ),
                        StandardScaler(),
                        RidgeClassifier(alpha=100),
                    ),
                    digits.images,
                    digits.target,
                    cv=3,
                ).mean()
                for seed in range(n_seeds)
            ]
            name = kernels if isinstance(kernels, str) else kernels.__name__
            error = np.std(scores, ddof=1) / np.sqrt(n_seeds)
            row.append(f"{name} {100 * np.mean(scores):.1f} +- {100 * error:.1f}")
        print(f"{n_kernels} kernels of {kernel_size}x{kernel_size}: ", ", ".join(row))


if __name__ == "__main__":
    main()
