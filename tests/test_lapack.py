"""Functions of BLAS and LAPACK, compared with SciPy's wrappers, and other threads meanwhile."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from sklearn_conv import StreamingRidge
from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv._ridge import lapack

SHAPES = [(1, 1), (3, 0), (1, 5), (5, 1), (7, 3), (64, 33), (300, 127)]

dtypes = pytest.mark.parametrize("dtype", ["f4", "f8"])
shapes = pytest.mark.parametrize(("n", "k"), SHAPES)


@pytest.fixture(params=["by addresses", "by wrappers"])
def wrapped(request, monkeypatch):
    """Whether SciPy's wrappers are called, as if its Cython API were unknown."""
    if request.param == "by wrappers":
        monkeypatch.setattr(lapack, "_find", lambda name, signature: None)
    return request.param == "by wrappers"


def random(*shape, dtype="f8", order="F"):
    return np.asarray(np.random.RandomState(0).standard_normal(shape), dtype, order=order)


def definite(n, dtype="f8"):
    rows = random(n, n + 3, dtype=dtype)
    return np.asfortranarray(rows @ rows.T + np.eye(n, dtype=dtype))


@dtypes
@shapes
@pytest.mark.parametrize("columns", [0, 1, 6])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.usefixtures("wrapped")
def test_gemm_is_that_of_scipy(n, k, columns, order, trans_a, dtype):
    a = random(*((k, n) if trans_a else (n, k)), dtype=dtype, order=order)
    b = random(k, columns, dtype=dtype, order=order)
    c = lapack.gemm(-2.0, a, b, trans_a)
    gemm = get_blas_funcs("gemm", dtype=dtype)
    np.testing.assert_array_equal(c, gemm(-2.0, a, b, trans_a=trans_a), strict=True)
    exact = -2.0 * (a.T if trans_a else a).astype("f8") @ b.astype("f8")
    np.testing.assert_allclose(c, exact, rtol=0, atol=1e-11 if dtype == "f8" else 1e-3)
    assert c.flags.f_contiguous


@dtypes
@shapes
@pytest.mark.usefixtures("wrapped")
def test_syrk_is_that_of_scipy(n, k, dtype):
    a, c = random(n, k, dtype=dtype), random(n, n, dtype=dtype)
    exact = np.where(np.tri(n, dtype=bool), c.astype("f8") + a.astype("f8") @ a.T, c)
    theirs = get_blas_funcs("syrk", dtype=dtype)(1.0, a, beta=1.0, c=c, lower=1)
    lapack.syrk(a, c)
    np.testing.assert_array_equal(c, theirs, strict=True)
    np.testing.assert_allclose(c, exact, rtol=0, atol=1e-11 if dtype == "f8" else 1e-3)


@dtypes
@pytest.mark.parametrize("n", [1, 7, 130])
@pytest.mark.usefixtures("wrapped")
def test_syr_is_that_of_scipy(n, dtype):
    x, a = random(2 * n, dtype=dtype)[::2], random(n, n, dtype=dtype)
    exact = a.astype("f8") + np.tril(np.outer(x, x))
    theirs = get_blas_funcs("syr", dtype=dtype)(1.0, x, a=a, lower=1)
    lapack.syr(x, a)
    np.testing.assert_array_equal(a, theirs, strict=True)
    np.testing.assert_allclose(a, exact, rtol=0, atol=1e-11 if dtype == "f8" else 1e-5)


@dtypes
@shapes
@pytest.mark.usefixtures("wrapped")
def test_factors_and_solutions_are_those_of_scipy(n, k, dtype):
    potrf, potrs, trtri = get_lapack_funcs(("potrf", "potrs", "trtri"), dtype=dtype)
    trsm = get_blas_funcs("trsm", dtype=dtype)
    matrix, right = definite(n, dtype), random(n, k, dtype=dtype)
    factor = matrix.copy(order="F")
    assert lapack.potrf(factor)
    np.testing.assert_array_equal(factor, potrf(matrix, clean=0)[0], strict=True)
    inverse = factor.copy(order="F")
    lapack.trtri(inverse)
    np.testing.assert_array_equal(inverse, trtri(factor)[0], strict=True)
    solved = right.copy(order="F")
    lapack.potrs(factor, solved)
    np.testing.assert_array_equal(solved, potrs(factor, right)[0], strict=True)
    atol = 1e-9 if dtype == "f8" else 0.1
    np.testing.assert_allclose(matrix.astype("f8") @ solved, right, rtol=0, atol=atol)
    for trans_a in (False, True):
        solved = right.copy(order="F")
        lapack.trsm(factor, solved, trans_a)
        theirs = trsm(1.0, factor, right, trans_a=trans_a)
        np.testing.assert_array_equal(solved, theirs, strict=True)


@dtypes
def test_empty_matrices_and_vectors(dtype):
    """SciPy's wrappers refuse some of these."""
    matrix, right = np.empty((0, 0), dtype, order="F"), np.empty((0, 3), dtype, order="F")
    assert lapack.potrf(matrix)
    lapack.trtri(matrix)
    lapack.syr(right[:, 0], matrix)
    lapack.syrk(right, matrix)
    lapack.potrs(matrix, right)
    lapack.trsm(matrix, right)
    for trans_a in (False, True):
        for n, k, m in np.ndindex(2, 2, 2):
            a = np.ones((k, n) if trans_a else (n, k), dtype)
            product = lapack.gemm(1.0, a, np.ones((k, m), dtype), trans_a)
            np.testing.assert_array_equal(product, np.full((n, m), k, dtype), strict=True)


@pytest.mark.usefixtures("wrapped")
def test_a_matrix_that_is_not_definite_has_no_factor():
    assert not lapack.potrf(np.asfortranarray(np.diag([1.0, -1.0, 1.0])))


def read_only(array):
    array.flags.writeable = False
    return array


def unaligned(n):
    return np.zeros(8 * n * n + 1, "i1")[1:].view("f8").reshape(n, n, order="F")


SQUARE = np.eye(3, order="F")
MISTAKES = {
    "rows of a product": lambda: lapack.gemm(1.0, SQUARE, random(2, 3)),
    "rows of a transposed product": lambda: lapack.gemm(1.0, random(3, 2), random(2, 3), True),
    "vector in a product": lambda: lapack.gemm(1.0, SQUARE, random(3)),
    "larger sums": lambda: lapack.syrk(random(2, 3), random(3, 3)),
    "smaller sums": lambda: lapack.syrk(random(3, 3), random(2, 2)),
    "longer vector": lambda: lapack.syr(random(4), random(3, 3)),
    "matrix for a vector": lambda: lapack.syr(random(3, 1), random(3, 3)),
    "smaller triangle": lambda: lapack.trsm(random(2, 2), random(3, 3)),
    "wide triangle": lambda: lapack.trsm(random(3, 2), random(3, 3)),
    "smaller factor": lambda: lapack.potrs(random(2, 2), random(3, 3)),
    "vector to solve": lambda: lapack.potrs(SQUARE, random(3)),
    "wide matrix": lambda: lapack.potrf(random(2, 3)),
    "high matrix": lambda: lapack.potrf(random(3, 2)),
    "wide inverse": lambda: lapack.trtri(random(2, 3)),
    "C order": lambda: lapack.potrf(random(3, 3, order="C")),
    "part of an array": lambda: lapack.potrf(random(4, 3)[:3]),
    "integers": lambda: lapack.potrf(np.eye(3, dtype="i8", order="F")),
    "complex numbers": lambda: lapack.gemm(1.0, SQUARE, SQUARE * 1j),
    "other byte order": lambda: lapack.potrf(SQUARE.astype(SQUARE.dtype.newbyteorder())),
    "unaligned": lambda: lapack.potrf(unaligned(3)),
    "read-only": lambda: lapack.potrf(read_only(SQUARE.copy(order="F"))),
    "read-only solution": lambda: lapack.trsm(SQUARE, read_only(random(3, 1))),
    "axis of 2**31": lambda: lapack.syrk(np.empty((0, 2**31)), np.empty((0, 0))),
}


@pytest.mark.parametrize("call", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.usefixtures("wrapped")
def test_mistakes_never_reach_the_library(call):
    with pytest.raises(ValueError, match=r"fit|Fortran order|read-only|unpack|below 2"):
        call()


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace(b"int *", b"long *"),
        lambda name: name.replace(b"char *, ", b""),
        lambda name: name.replace(b"void ", b"int "),
        lambda name: name.replace(b"_d *", b"_s *"),
    ],
)
def test_another_signature_is_left_to_the_wrapper(change, monkeypatch):
    expected = "void (char *, int *, d *, int *, int *)"
    find, name_of = lapack._find.__wrapped__, lapack._name_of
    assert find("dpotrf", expected) is not None
    assert find("dpotrf_of_others", expected) is None
    monkeypatch.setattr(lapack, "_name_of", lambda capsule: change(name_of(capsule)))
    assert find("dpotrf", expected) is None


def test_this_version_of_scipy_has_the_expected_signatures(monkeypatch):
    wrappers = []
    monkeypatch.setattr(lapack, "get_blas_funcs", wrappers.append)
    monkeypatch.setattr(lapack, "get_lapack_funcs", wrappers.append)
    for dtype in ("f4", "f8"):
        square = np.eye(3, dtype=dtype, order="F")
        lapack.gemm(1.0, square, square)
        lapack.syrk(square, square)
        lapack.syr(square[0], square)
        for change in (lapack.potrf, lapack.trtri):
            change(square)
        for solve in (lapack.trsm, lapack.potrs):
            solve(square, square.copy(order="F"))
    assert not wrappers


def test_other_threads_run_during_a_call():
    matrix, ticks, stop = np.eye(2000, order="F"), [], threading.Event()

    def tick():
        while not stop.wait(1e-3):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        start = time.perf_counter()
        lapack.potrf(matrix)
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    # At the start and at the end, the other thread may run even if the call holds the GIL.
    quarter = (end - start) / 4
    assert any(start + quarter < tick < end - quarter for tick in ticks)


def test_models_are_the_same_by_wrappers(monkeypatch):
    X, y = random(400, 30, order="C"), random(400, 2)
    model = StreamingRidge([0.1, 10.0]).fit(X, y)
    monkeypatch.setattr(lapack, "_find", lambda name, signature: None)
    np.testing.assert_array_equal(StreamingRidge([0.1, 10.0]).fit(X, y).coef_, model.coef_)


def test_calls_with_several_threads_of_blas_follow_one_another(monkeypatch):
    """At once, they would wait busily for the same threads, and take many times as long."""
    most, running = [], []

    def call(*pointers):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    monkeypatch.setattr(lapack, "_find", lambda name, signature: call)
    for n_threads in (1, 2):
        monkeypatch.setattr(type(one_blas_thread), "n_threads", n_threads)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: lapack.potrf(np.eye(2, order="F")), range(4)))
        assert (max(most) == 1) == (n_threads > 1)
        most.clear()


FORK = """
import os, threading, time
import numpy as np
from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv._ridge import lapack

type(one_blas_thread).n_threads = 2
matrix, running, started, find = np.eye(2, order="F"), [], threading.Event(), lapack._find

def call(*pointers):
    running.append(1)
    started.set()
    time.sleep(0.3)
    running.pop()

lapack._find = lambda name, signature: call
thread = threading.Thread(target=lapack.potrf, args=[matrix])
thread.start()
started.wait()
child = os.fork()
if child == 0:
    lapack._find = find
    thread = threading.Thread(target=lapack.potrf, args=[matrix])
    thread.start()
    thread.join(10)
    os._exit(len(running) + thread.is_alive())
thread.join()
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_waits_for_a_call_with_several_threads_of_blas():
    """OpenBLAS may hang in both processes if its threads are at work during a fork."""
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
