"""Reference results from plain loops, independent of the formulas of the package."""

import numpy as np


def walk(steps, length, mode):
    """Return the index of the pixel that padding repeats ``steps`` before the first; None for 0."""
    index, direction = 0, +1
    for number in range(steps):
        if mode == "constant":
            return None
        if mode == "edge":
            return 0
        if mode == "wrap":
            index = length - 1 if index == 0 else index - 1
        elif mode == "reflect":
            if not 0 <= index + direction < length:
                direction = -direction
            index += direction if length > 1 else 0
        elif mode == "symmetric":
            if number == 0:
                continue  # The first pixel is repeated.
            if 0 <= index + direction < length:
                index += direction
            else:
                direction = -direction
        else:
            raise KeyError(f"tests/oracle.py has no walk for the padding mode {mode!r}; add it")
    return index


def source(position, length, mode):
    """Return the index of the pixel at any position, including positions in the padding."""
    if 0 <= position < length:
        return position
    if position < 0:
        return walk(-position, length, mode)
    mirrored = walk(position - length + 1, length, mode)
    return None if mirrored is None else length - 1 - mirrored


def same_amounts(length, span, stride):
    """Return the amounts of "SAME" padding, as in the documentation of TensorFlow."""
    total = max(span - stride, 0) if length % stride == 0 else max(span - length % stride, 0)
    return total // 2, total - total // 2


def pad(image, padding, mode, span, stride):
    """Pad an image (h, w, c), pixel by pixel."""
    h, w, c = image.shape
    amounts = []
    for axis, length in enumerate((h, w)):
        if padding == "valid":
            amounts.append((0, 0))
        elif padding == "same":
            amounts.append(same_amounts(length, span[axis], stride[axis]))
        else:
            amounts.append((padding[axis], padding[axis]))
    (top, bottom), (left, right) = amounts
    padded = np.zeros((top + h + bottom, left + w + right, c))
    for row in range(-top, h + bottom):
        for column in range(-left, w + right):
            i, j = source(row, h, mode), source(column, w, mode)
            if i is not None and j is not None:
                padded[row + top, column + left] = image[i, j]
    return padded


def starts(length, size, stride, dilation):
    """Return the first pixel of each window whose last pixel is inside; every pixel is tried."""
    return [i for i in range(0, length, stride) if i + dilation * (size - 1) < length]


def patch(padded, row, column, kh, kw, dilation):
    """Return the pixels under a kernel, one by one, (kh, kw, c)."""
    return np.array(
        [
            [padded[row + i * dilation[0], column + j * dilation[1]] for j in range(kw)]
            for i in range(kh)
        ]
    )


def normalized(pixels, eps):
    """Subtract the mean of a patch, and divide by the square root of its variance plus eps."""
    mean = sum(pixels.ravel()) / pixels.size
    variance = sum((pixel - mean) ** 2 for pixel in pixels.ravel()) / pixels.size
    return (pixels - mean) / (variance + eps) ** 0.5


def preprocessed_responses(images, kernels, eps, mean, matrix, **options):
    """Normalize each patch if ``eps`` is not 0, whiten it if ``mean`` is not None, and convolve.

    The kernels are applied to the preprocessed patches; nothing is folded into them. The result has
    shape ``(n, oh, ow, k)``.
    """
    kh, kw, _, k = kernels.shape
    stride, dilation = options["stride"], options["dilation"]
    span = [d * (size - 1) + 1 for size, d in zip((kh, kw), dilation, strict=True)]
    result = []
    for image in images.astype(np.float64):
        padded = pad(image, options["padding"], options["padding_mode"], span, stride)
        maps = []
        for row in starts(padded.shape[0], kh, stride[0], dilation[0]):
            maps.append([])
            for column in starts(padded.shape[1], kw, stride[1], dilation[1]):
                pixels = patch(padded, row, column, kh, kw, dilation)
                if eps:
                    pixels = normalized(pixels, eps)
                pixels = pixels.ravel()
                if mean is not None:
                    pixels = matrix.T.dot(pixels - mean)
                maps[-1].append(pixels.dot(kernels.reshape(-1, k)))
        result.append(maps)
    return np.array(result)


def conv2d(images, kernels, stride, padding, padding_mode, dilation, groups, bias):
    """Convolve in float64, weight by weight; all pairs are (rows, columns)."""
    kh, kw, group_in, c_out = kernels.shape
    span = [len(range(0, d * k, d)) * d - d + 1 for k, d in zip((kh, kw), dilation, strict=True)]
    result = []
    for image in images.astype(np.float64):
        padded = pad(image, padding, padding_mode, span, stride)
        rows = starts(padded.shape[0], kh, stride[0], dilation[0])
        columns = starts(padded.shape[1], kw, stride[1], dilation[1])
        maps = np.zeros((len(rows), len(columns), c_out))
        for r, row in enumerate(rows):
            for c, column in enumerate(columns):
                for output in range(c_out):
                    group = output * groups // c_out
                    total = 0.0 if bias is None else float(bias[output])
                    for i in range(kh):
                        for j in range(kw):
                            for channel in range(group_in):
                                pixel = padded[
                                    row + i * dilation[0],
                                    column + j * dilation[1],
                                    group * group_in + channel,
                                ]
                                total += float(pixel) * float(kernels[i, j, channel, output])
                    maps[r, c, output] = total
        result.append(maps)
    return np.array(result)


def cell_members(length, n_cells):
    """Return the positions in each cell. A position belongs to the cell of its right edge."""
    if n_cells > length:
        return [[int(np.floor(i * length / n_cells + 1e-9))] for i in range(n_cells)]
    members = [[] for _ in range(n_cells)]
    for position in range(length):
        cell = next(i for i in range(n_cells) if n_cells * (position + 1) <= (i + 1) * length)
        members[cell].append(position)
    return members


def cells_of(shape, pool_grid):
    """Return the positions in each cell of a grid, or of each grid in a list."""
    grids = pool_grid if isinstance(pool_grid, list) else [pool_grid]
    cells = []
    for grid in grids:
        rows, columns = (grid, grid) if isinstance(grid, int) else grid
        for in_row in cell_members(shape[0], rows):
            for in_column in cell_members(shape[1], columns):
                cells.append([(r, c) for r in in_row for c in in_column])
    return cells


ACTIVATIONS = {
    "identity": [lambda z, b: z + b],
    "relu": [lambda z, b: z + b if z + b > 0 else 0.0],
    "abs": [lambda z, b: z + b if z + b > 0 else -(z + b)],
    "split": [lambda z, b: z + b if z + b > 0 else 0.0, lambda z, b: b - z if b - z > 0 else 0.0],
    "step": [lambda z, b: 1.0 if z + b > 0 else 0.0],
    "square": [lambda z, b: (z + b) * (z + b)],
}

POOLINGS = {
    "mean": lambda values: sum(values) / len(values),
    "sum": sum,
    "max": max,
}


def features(responses, bias, activation, pooling, pool_grid):
    """Activate and pool responses, (n, oh, ow, k), number by number.

    ``bias`` has shape (k,), or (n_biases, k).
    """
    n, oh, ow, k = responses.shape
    sides = ACTIVATIONS[activation]
    outputs = [(side, own) for side in sides for own in np.atleast_2d(bias)]
    if pooling is None:
        cells, poolings = [[(r, c)] for r in range(oh) for c in range(ow)], ["max"]
    else:
        poolings = [pooling] if isinstance(pooling, str) else pooling
        cells = cells_of((oh, ow), pool_grid)
    result = np.empty((n, len(cells) * len(poolings) * len(outputs) * k))
    for i in range(n):
        column = 0
        for cell in cells:
            for name in poolings:
                for side, own in outputs:
                    for kernel in range(k):
                        values = [
                            side(float(responses[i, r, c, kernel]), float(own[kernel]))
                            for r, c in cell
                        ]
                        result[i, column] = POOLINGS[name](values)
                        column += 1
    return result


def window_values(padded, row, column, kh, kw, dilation, eps):
    """Return the normalized pixels under a kernel, or None if one of them is missing."""
    pixels = patch(padded, row, column, kh, kw, dilation)
    if any(pixel != pixel for pixel in pixels.ravel()):
        return None
    return normalized(pixels, eps) if eps else pixels


def view_features(image, kernels, offset, bias, eps, sides, pooling, pool_grid, **options):
    """Return the features of an image, (h, w, c), with NaN where all windows are missing.

    ``sides`` are functions of a response and a bias. The result has shape (cells, poolings, sides,
    n_biases, k).
    """
    kh, kw, _, k = kernels.shape
    stride, dilation = options["stride"], options["dilation"]
    span = [d * (size - 1) + 1 for size, d in zip((kh, kw), dilation, strict=True)]
    padded = pad(image, options["padding"], options["padding_mode"], span, stride)
    rows = starts(padded.shape[0], kh, stride[0], dilation[0])
    columns = starts(padded.shape[1], kw, stride[1], dilation[1])
    activated = {}
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            pixels = window_values(padded, row, column, kh, kw, dilation, eps)
            if pixels is None:
                continue
            responses = [sum((pixels * kernels[..., j]).ravel()) + offset[j] for j in range(k)]
            activated[r, c] = [
                [[side(z, b) for z, b in zip(responses, own, strict=True)] for own in bias]
                for side in sides
            ]
    if pooling is None:
        cells = [[(r, c)] for r in range(len(rows)) for c in range(len(columns))]
        poolings = ["max"]
    else:
        poolings = [pooling] if isinstance(pooling, str) else pooling
        cells = cells_of((len(rows), len(columns)), pool_grid)
    result = np.full((len(cells), len(poolings), len(sides), len(bias), k), np.nan)
    for cell, places in enumerate(cells):
        counted = [activated[place] for place in places if place in activated]
        for p, name in enumerate(poolings):
            for index in np.ndindex(result.shape[2:]):
                values = [value[index[0]][index[1]][index[2]] for value in counted]
                if values:
                    result[cell, p, *index] = POOLINGS[name](values)
    return result


def views_of(symmetries):
    """Return the mirrored and turned images as functions of an image."""
    mirrors = {None: [False], "mirror": [False, True], "dihedral": [False, True]}[symmetries]
    turns = range(4) if symmetries == "dihedral" else [0]
    return [
        lambda image, mirrored=mirrored, n=n: np.rot90(image[:, ::-1] if mirrored else image, n)
        for mirrored in mirrors
        for n in turns
    ]


def map_shapes(shape, kernel_size, symmetries, stride, padding, padding_mode, dilation):
    """Return the rows and columns of the maps of all views of an image, without duplicates."""
    span = [d * (size - 1) + 1 for size, d in zip(kernel_size, dilation, strict=True)]
    result = set()
    for view in views_of(symmetries):
        padded = pad(view(np.zeros((*shape, 1))), padding, padding_mode, span, stride)
        result.add(
            tuple(
                len(starts(length, *axis))
                for length, *axis in zip(padded.shape, kernel_size, stride, dilation, strict=False)
            )
        )
    return result


def mean_features(image, symmetries, **options):
    """Return the mean of the features over the views in which they are not missing."""
    found = np.array([view_features(view(image), **options) for view in views_of(symmetries)])
    result = np.full(found.shape[1:], np.nan)
    for index in np.ndindex(result.shape):
        values = [value for value in found[:, *index] if value == value]
        if values:
            result[index] = sum(values) / len(values)
    return result
