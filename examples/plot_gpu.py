"""
A grid search on tensors, on a GPU or on the processor
======================================================

With scikit-learn's array API dispatch, a pipeline computes where its images are: on a GPU if
PyTorch finds one, and otherwise on the processor. This example searches over stride and kernel size
on tensors, and then moves the best model to NumPy, where it is explained.
"""

# %%
# scikit-learn asks for this environment variable, which must be set before the first import.

import os

os.environ["SCIPY_ARRAY_API"] = "1"

import matplotlib.pyplot as plt
import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils._array_api import move_estimator_to

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv.inspection import ClassActivationDisplay, GridSearchDisplay

device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load_digits()
X = torch.asarray(digits.images, dtype=torch.float32, device=device)
y = torch.asarray(digits.target, device=device)
print(X.device, tuple(X.shape))

# %%
# The search. Its folds are tensors, and so are the features and the sums of the classifier. The
# dispatch is set for these lines only; ``sklearn.set_config`` sets it for good.

pipeline = make_pipeline(
    StridedConv2DTransformer(
        64, kernels="patches", normalize_patches=True, whiten=True, random_state=0
    ),
    StreamingRidgeClassifier(),
)
step = "stridedconv2dtransformer"
grid = {f"{step}__stride": [1, 2, 3], f"{step}__kernel_size": [3, 4, 5]}
with sklearn.config_context(array_api_dispatch=True):
    search = GridSearchCV(pipeline, grid, cv=3).fit(X[:1200], y[:1200])
    predicted = search.predict(X[1200:])
    moved = move_estimator_to(search.best_estimator_, np, "cpu")
print(type(predicted), f"accuracy {float((predicted == y[1200:]).float().mean()):.3f}")

# %%
# The moved model computes with NumPy. It makes the same predictions, and can be explained.

same = moved.predict(digits.images[1200:].astype(np.float32)) == predicted.numpy(force=True)
print(f"{same.mean():.0%} of the predictions are the same")
GridSearchDisplay.from_estimator(search)
ClassActivationDisplay.from_estimator(moved, digits.images[1200].astype(np.float32))
plt.show()
