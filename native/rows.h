// Products of rows of features, and sums of rows, for ridge regression on many features.
//
// The rows of a block come from memory once for both. Parts of a few of them are copied as float; their
// products, or parts of the sums, stay in registers and in the first-level cache, as in a tile of a
// convolution. tile.cpp includes this file in its namespace.

constexpr int VECTORS = GROUP / Types<float>::lanes;  // of the columns of a group
// Rows of a copy: their products, VECTORS each, fill the registers.
constexpr int N_COPIED = VECTOR_BYTES == 64 ? 16 : POSITIONS * 2 / VECTORS;
// Features of a copy, whose products are added one after the other, like TERMS
constexpr int64_t N_PART = 256;
// Rows of a block. More of them would need more pages of memory than the processor keeps addresses of.
constexpr int64_t N_BLOCK = 48;

typedef float Copy[N_COPIED][N_PART];
typedef Vector<float> Products[N_COPIED][VECTORS];

void copy_halves(const char* source, int64_t n, float* target) {
  constexpr int lanes = Types<float>::lanes;
  typedef int16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2), aligned(1), may_alias));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {  // as `to_float`, without infinity and NaN
    const Halves halves = *reinterpret_cast<const Halves*>(source + 2 * i);
    const Vector<int32_t> bits = __builtin_convertvector(halves, Vector<int32_t>) << 13 & int32_t(0x8fffe000);
    store(target + i, Vector<float>(bits) * 0x1p112f);
  }
  for (; i < n; i++) target[i] = to_float(read<uint16_t>(source + 2 * i));
}

inline int64_t number_size(const Rows& rows) { return rows.pixel == PIXEL_f2 ? 2 : 4; }

inline const char* row_address(const Rows& rows, int64_t i, int64_t start) {
  return rows.features + (rows.index ? rows.index[i] : i) * rows.stride + start * number_size(rows);
}

// Copy a part of up to N_COPIED rows; the others are zeros
void copy_rows(const Rows& rows, int64_t first, int64_t n, int64_t start, int64_t length, Copy& copy) {
  const int64_t size = number_size(rows);
  for (int64_t i = 0; i < N_COPIED; i++) {
    if (i >= n) {
      memset(copy[i], 0, length * 4);
      continue;
    }
    const char* source = row_address(rows, first + i, start);
    if (size == 2)
      copy_halves(source, length, copy[i]);
    else
      memcpy(copy[i], source, length * 4);
  }
}

// Add the products of copied rows to `products`
void add_products(const Rows& rows, const Copy& copy, int64_t first, int64_t n, int64_t start, int64_t length) {
  constexpr int lanes = Types<float>::lanes;
  for (int64_t group = 0; group < rows.n_groups; group++) {
    const float* columns = rows.columns + (group * rows.n_features + start) * GROUP;
    Products products = {};
    for (int64_t j = 0; j < length; j++)
      each<N_COPIED, VECTORS>([&](int i, int v) {
        products[i][v] += copy[i][j] * load(columns + j * GROUP + v * lanes);
      });
    for (int64_t i = 0; i < n; i++)
      for (int v = 0; v < VECTORS; v++) {
        float* target = rows.products + ((first + i) * rows.n_groups + group) * GROUP + v * lanes;
        store(target, load(target) + products[i][v]);
      }
  }
}

// Add copied rows, times their factors [n_rows][group][GROUP], to `part`
void add_rows(const Copy& copy, const float* factors, int64_t n_groups, int64_t n, int64_t length, float* part) {
  constexpr int lanes = Types<float>::lanes;
  Products products = {};
  for (int64_t i = 0; i < n; i++)
    for (int v = 0; v < VECTORS; v++) products[i][v] = load(factors + i * n_groups * GROUP + v * lanes);
  for (int64_t j = 0; j < length; j++) {
    Vector<float> sums[VECTORS];
    for (int v = 0; v < VECTORS; v++) sums[v] = load(part + j * GROUP + v * lanes);
    each<N_COPIED, VECTORS>([&](int i, int v) { sums[v] += copy[i][j] * products[i][v]; });
    for (int v = 0; v < VECTORS; v++) store(part + j * GROUP + v * lanes, sums[v]);
  }
}

// Call f(first, n) for groups of rows of a block, and f(start, length) for parts of the features
template <class F>
inline void divide(int64_t start, int64_t stop, int64_t step, F f) {
  for (; start < stop; start += step) f(start, stop - start < step ? stop - start : step);
}

void add_part(const Rows& rows, const float* part, int64_t start, int64_t length, int64_t group) {
  float* sums = rows.sums + (group * rows.n_features + start) * GROUP;
  for (int64_t j = 0; j < length * GROUP; j++) sums[j] += part[j];
}

// Multiply the rows from both sides; each part of them is read once
void multiply_sides(const Rows& rows) {
  divide(0, rows.n_features, N_PART, [&](int64_t start, int64_t length) {
    alignas(64) float part[N_PART * GROUP] = {};
    divide(0, rows.n_rows, N_COPIED, [&](int64_t first, int64_t n) {
      alignas(64) Copy copy;
      copy_rows(rows, first, n, start, length, copy);
      add_products(rows, copy, first, n, start, length);
      add_rows(copy, rows.coefficients + first * GROUP, 1, n, length, part);
    });
    add_part(rows, part, start, length, 0);
  });
}

void multiply_rows(const Rows* arguments) {
  const Rows& rows = *arguments;
  if (rows.coefficients) return multiply_sides(rows);
  const int64_t n_columns = rows.n_groups * GROUP;
  divide(0, rows.n_rows, N_BLOCK, [&](int64_t block, int64_t n_block) {
    float* products = rows.products + block * n_columns;
    if (rows.columns) {
      memset(products, 0, n_block * n_columns * sizeof(float));
      divide(0, rows.n_features, N_PART, [&](int64_t start, int64_t length) {
        divide(block, block + n_block, N_COPIED, [&](int64_t first, int64_t n) {
          alignas(64) Copy copy;
          copy_rows(rows, first, n, start, length, copy);
          add_products(rows, copy, first, n, start, length);
        });
      });
      for (int64_t i = 0; i < n_block; i++)
        for (int64_t j = 0; j < n_columns; j++)
          products[i * n_columns + j] = (products[i * n_columns + j] - rows.shift[j]) * rows.weights[block + i];
    }
    if (!rows.sums) return;
    divide(0, rows.n_features, N_PART, [&](int64_t start, int64_t length) {
      for (int64_t group = 0; group < rows.n_groups; group++) {
        alignas(64) float part[N_PART * GROUP] = {};
        divide(block, block + n_block, N_COPIED, [&](int64_t first, int64_t n) {
          alignas(64) Copy copy;
          copy_rows(rows, first, n, start, length, copy);
          add_rows(copy, rows.products + (first * rows.n_groups + group) * GROUP, rows.n_groups, n, length, part);
        });
        add_part(rows, part, start, length, group);
      }
    });
  });
}
