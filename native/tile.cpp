// Convolution, activation and pooling, compiled once for each instruction set.
//
// A tile is up to POSITIONS windows by up to two vectors of kernels. Its responses stay in registers
// while all weights of the kernels are added, and until they are activated and pooled:
//
//     for each weight j of a window:
//         load the j-th weights of the kernels                  2 vectors
//         for each window p of the tile:
//             response[p] += pixel[p][j] * these weights        2 vectors
//
// Windows are read where they lie in the copy of the pixels. They are copied one by one only if they
// have to be changed: normalized, or shifted by a large offset.
//
// Nothing here has external linkage except the record at the end, and no function of the C++
// library is used: the linker must not mix functions that were compiled for different processors.

#include "core.h"

#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

// Clang would load the pixels of all windows of a tile before it uses the first one, and have too few
// registers for them.
#ifdef __clang__
#define KEEP_ORDER asm volatile("" ::: "memory")
#else
#define KEEP_ORDER
#endif

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr int POSITIONS = 10;  // 20 responses, 2 weights; more addresses do not fit the registers
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
constexpr int POSITIONS = 6;  // 12 responses, 2 weights, 1 pixel: 15 of 16 registers
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16;
constexpr int POSITIONS = 12;  // 24 responses, 2 weights, pixels: of 32 registers
#else
constexpr int VECTOR_BYTES = 16;
constexpr int POSITIONS = 5;  // 10 responses, 2 weights, 1 product, pixels: of 16 registers
#endif

// Products that are added one after the other. Such sums are then added: rounding grows with the
// number of terms of a sum.
constexpr int64_t TERMS = 256;

// Maximum number of kernels of a panel, which are two vectors of float
constexpr int MAX_WIDTH = 2 * VECTOR_BYTES / 4;

template <class T>
struct Types {
  typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef T Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = VECTOR_BYTES / sizeof(T);
};
template <class T>
using Vector = typename Types<T>::Vector;

template <class T>
inline Vector<T> load(const T* source) {
  return *reinterpret_cast<const typename Types<T>::Unaligned*>(source);
}

template <class T>
inline void store(T* target, Vector<T> value) {
  *reinterpret_cast<typename Types<T>::Unaligned*>(target) = value;
}

// Return the larger one of 0 and each number; NaN stays
template <class V>
inline V positive(V z) {
  const V zero = {};
#ifdef __AVX512F__
  if constexpr (sizeof(z[0]) == 4) return V(_mm512_max_ps(__m512(zero), __m512(z)));
#endif
  return zero > z ? zero : z;
}

// Everything that the tiles of a panel have in common
template <class T>
struct Panel {
  int64_t n_terms;
  const int32_t* numbers;  // place of each term in a window, (n_terms,)
  const T* weights;
  const T* shift;
  int64_t first_kernel;
  int64_t n_outputs;
  const Output* outputs;
  bool sums, maxima, maps;
  bool is_first;  // whether the group is empty
  T* group;       // sums and maxima of some tiles, [output][sum, max][MAX_WIDTH]
  T* out;             // maps: the first kernel of the panel at position 0
  int64_t out_step;   // maps: numbers from one output to the next
  int64_t n_kernels;  // of the panel, without those that fill the last vector
};

// Call f(p, v) for the responses of a tile
template <int P, int V, class F>
inline __attribute__((always_inline)) void each(F f) {
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) f(p, v);
}

template <class T, int P, int V>
struct Tile {
  typedef Vector<T> (&Responses)[P][V];
  static constexpr int lanes = Types<T>::lanes;

  // Sum over positions [from, to) as a tree, which is fast and precise
  template <int from, int to>
  static inline Vector<T> sum(Responses z, int v) {
    if constexpr (to - from == 1)
      return z[from][v];
    else
      return sum<from, (from + to) / 2>(z, v) + sum<(from + to) / 2, to>(z, v);
  }

  static inline Vector<T> larger(Vector<T> x, Vector<T> y) {  // NaN stays
    return ((x > y) | (x != x)) ? x : y;
  }

  static inline Vector<T> maximum(Responses z, int v) {
    Vector<T> m = z[0][v];
#pragma GCC unroll 16
    for (int p = 1; p < P; p++) m = larger(z[p][v], m);
    return m;
  }

  static inline void activate(Responses responses, int64_t function) {
    const Vector<T> zero = {};
    const Vector<T> one = zero + 1;
    switch (function) {
#define CASE(NAME, RESULT)                     \
  case FUNCTION_##NAME:                        \
    return each<P, V>([&](int p, int v) {      \
      const Vector<T> z = responses[p][v];     \
      responses[p][v] = RESULT;                \
    });
      FUNCTIONS(CASE)
#undef CASE
    }
  }

  static void compute(const Panel<T>& panel, const T* const* windows, const int64_t* places) {
    Vector<T> z[P][V];
    const T* pixel[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) {
      pixel[p] = windows[p];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) z[p][v] = load(panel.shift + v * lanes);
    }
    const T* w = panel.weights;
    Vector<T> total[P][V];
    bool has_total = false;
    for (int64_t j = 0, stop; j < panel.n_terms; j = stop) {
      if (__builtin_expect(j > 0, 0)) {
        each<P, V>([&](int p, int v) {
          total[p][v] = has_total ? total[p][v] + z[p][v] : z[p][v];
          z[p][v] = Vector<T>{};
        });
        has_total = true;
      }
      stop = panel.n_terms - j < TERMS ? panel.n_terms : j + TERMS;
      for (; j < stop; j++) {
        const int64_t place = panel.numbers[j];
        Vector<T> weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) weight[v] = load(w + v * lanes);
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) {
          const T x = pixel[p][place];
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) z[p][v] += x * weight[v];
          KEEP_ORDER;
        }
        w += V * lanes;
      }
    }
    if (__builtin_expect(has_total, 0)) each<P, V>([&](int p, int v) { z[p][v] += total[p][v]; });
    if (panel.n_outputs > 1) each<P, V>([&](int p, int v) { total[p][v] = z[p][v]; });
    for (int64_t output = 0; output < panel.n_outputs; output++) {
      if (output > 0) each<P, V>([&](int p, int v) { z[p][v] = total[p][v]; });
      pool(panel, z, places, output);
    }
  }

  // Activate responses for an output, and add them to the group or write them to the maps
  static inline __attribute__((always_inline)) void pool(const Panel<T>& panel, Responses z, const int64_t* places,
                                                         int64_t output) {
    const Output& chosen = panel.outputs[output];
    if (chosen.constant) {
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        const Vector<T> constant = load(static_cast<const T*>(chosen.constant) + panel.first_kernel + v * lanes);
        if (chosen.is_negative)
#pragma GCC unroll 16
          for (int p = 0; p < P; p++) z[p][v] = constant - z[p][v];
        else
#pragma GCC unroll 16
          for (int p = 0; p < P; p++) z[p][v] += constant;
      }
    }
    activate(z, chosen.function);
    T* const group = panel.group + output * 2 * MAX_WIDTH;
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      T* const target = group + v * lanes;
      if (panel.sums) {
        const Vector<T> s = sum<0, P>(z, v);
        store(target, panel.is_first ? s : s + load(target));
      }
      if (panel.maxima) {
        const Vector<T> m = maximum(z, v);
        store(target + MAX_WIDTH, panel.is_first ? m : larger(m, load(target + MAX_WIDTH)));
      }
    }
    if (panel.maps) write(panel, z, places, output);
  }

  static inline void write(const Panel<T>& panel, Responses z, const int64_t* places, int64_t output) {
    if (panel.n_kernels >= V * lanes)
      return each<P, V>([&](int p, int v) {
        store(panel.out + places[p] + output * panel.out_step + v * lanes, z[p][v]);
      });
    T values[P][V * lanes];
    each<P, V>([&](int p, int v) { store(&values[p][v * lanes], z[p][v]); });
    for (int p = 0; p < P; p++)
      memcpy(panel.out + places[p] + output * panel.out_step, values[p], panel.n_kernels * sizeof(T));
  }
};

template <class T>
using TileFunction = void (*)(const Panel<T>&, const T* const*, const int64_t*);

// Functions for 1 to POSITIONS positions, and one or two vectors of kernels
template <class T>
struct TileFunctions {
  TileFunction<T> of[POSITIONS + 1][3] = {};
  template <int P>
  constexpr void fill() {
    of[P][1] = Tile<T, P, 1>::compute;
    of[P][2] = Tile<T, P, 2>::compute;
    if constexpr (P > 1) fill<P - 1>();
  }
  constexpr TileFunctions() { fill<POSITIONS>(); }
};
template <class T>
constexpr TileFunctions<T> TILE_FUNCTIONS{};

// ---- Pixels -----------------------------------------------------------------------------------

inline float to_float(uint16_t half) {
  // The exponent is moved to its place in float, and its bias is corrected by a multiplication, which
  // is also right for subnormal numbers.
  const uint32_t magnitude = (half & 0x7fffu) << 13;
  uint32_t bits;
  float value;
  memcpy(&value, &magnitude, 4);
  value *= 0x1p112f;
  memcpy(&bits, &value, 4);
  bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
  bits |= (half & 0x8000u) << 16;
  memcpy(&value, &bits, 4);
  return value;
}

struct Half {
  uint16_t bits;
};

template <class S, class T>
inline T convert(S value) {
  return static_cast<T>(value);
}
template <>
inline float convert<Half, float>(Half value) {
  return to_float(value.bits);
}
template <>
inline double convert<Half, double>(Half value) {
  return to_float(value.bits);
}

template <class S>
inline S read(const char* address) {  // from any address
  S value;
  memcpy(&value, address, sizeof(S));
  return value;
}

template <class S, class T>
void copy_line(const char* source, int64_t stride, int64_t n, T* target, int64_t step) {
  if (stride == int64_t(sizeof(S)) && step == 1)
    for (int64_t i = 0; i < n; i++) target[i] = convert<S, T>(read<S>(source + i * sizeof(S)));
  else
    for (int64_t i = 0; i < n; i++) target[i * step] = convert<S, T>(read<S>(source + i * stride));
}

// Copy consecutive columns of a row, with all their channels
template <class S, class T>
void copy_columns(const char* source, const int64_t* strides, int64_t n, int64_t c, T* target) {
  const int64_t column = strides[2], channel = strides[3], size = sizeof(S);
  if (c == 1)
    copy_line<S, T>(source, column, n, target, 1);
  else if (channel == size && column == c * size)
    copy_line<S, T>(source, size, n * c, target, 1);
  else if (n > c)
    for (int64_t i = 0; i < c; i++) copy_line<S, T>(source + i * channel, column, n, target + i, c);
  else
    for (int64_t i = 0; i < n; i++) copy_line<S, T>(source + i * column, channel, c, target + i * c, 1);
}

template <class S, class T>
void copy_pixels(const Layer& layer, const Band& band, const char* image, const int64_t* strides, T* pixels) {
  const int64_t c = layer.n_channels, pitch = band.n_columns * c;
  for (int64_t y = 0; y < band.n_rows; y++) {
    T* target = pixels + y * pitch;
    if (band.rows[y] < 0) {
      memset(target, 0, pitch * sizeof(T));
      continue;
    }
    const char* row = image + band.rows[y] * strides[1];
    for (int64_t s = 0; s < band.n_segments; s++) {
      const int64_t* segment = band.segments + 3 * s;
      T* place = target + segment[0] * c;
      if (segment[1] < 0)
        memset(place, 0, segment[2] * c * sizeof(T));
      else
        copy_columns<S, T>(row + segment[1] * strides[2], strides, segment[2], c, place);
    }
  }
}

template <class T>
void copy_pixels(const Layer& layer, const Band& band, const Call& call, const char* image, T* pixels) {
  switch (call.pixel) {
#define CASE(NAME, S)   \
  case PIXEL_##NAME:     \
    return copy_pixels<S, T>(layer, band, image, call.strides, pixels);
    PIXELS(CASE)
#undef CASE
  }
}

// ---- Windows ----------------------------------------------------------------------------------

// Copy a window, and append a 0. Whole vectors are copied: the end of a run is overwritten by the
// next one, and the buffers are longer than their contents by a vector.
template <class T>
inline void copy_window(const Layer& layer, const Band& band, const T* source, T* window) {
  T* target = window;
  for (const Run *run = band.runs, *last = run + band.n_runs; run < last; run++) {
    const T* const from = source + run->start;
    for (int64_t j = 0; j < run->length; j += Types<T>::lanes) store(target + j, load(from + j));
    target += run->length;
  }
  window[layer.n_weights] = 0;
}

// Whether some window may have a large offset: its corners are near each other
inline bool may_have_offset(const Layer& layer, const Band& band, const float* pixels) {
  const Run& last_run = band.runs[band.n_runs - 1];
  const int64_t last = last_run.start + last_run.length - 1;
  const int64_t right = band.corner, below = last - right;
  const int64_t n = band.n_rows * band.n_columns * layer.n_channels - last;
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    const float x = pixels[i], size = __builtin_fabsf(x) / OFFSET_TO_RANGE;
    found |= (__builtin_fabsf(x - pixels[i + last]) < size) & (__builtin_fabsf(x - pixels[i + right]) < size) &
             (__builtin_fabsf(x - pixels[i + below]) < size);
  }
  return found;
}

// Return the pixel of a window that is nearest to 0, if all pixels are near it, otherwise 0. In
// float32, the differences to it are then exact.
inline float find_offset(const Band& band, const float* window) {
  float low = window[0], high = low;
  for (int64_t run = 0; run < band.n_runs; run++) {
    const float* const first = window + band.runs[run].start;
    for (int64_t j = 0; j < band.runs[run].length; j++) {
      low = first[j] < low ? first[j] : low;
      high = first[j] > high ? first[j] : high;
    }
    const float nearest = low > 0 ? low : -high;
    if (!((high - low) * OFFSET_TO_RANGE < nearest)) return 0;  // also for NaN and infinity
  }
  return low > 0 ? low : high;
}

// Return sqrt(variance + eps) of numbers whose squares overflow
template <class T>
double large_deviation(const T* x, int64_t d, double eps) {
  double largest = 0, sum = 0, square = 0;
  for (int64_t j = 0; j < d; j++) {
    const double size = __builtin_fabs(double(x[j]));
    largest = size > largest ? size : largest;
  }
  for (int64_t j = 0; j < d; j++) {
    const double scaled = x[j] / largest;
    sum += scaled;
    square += scaled * scaled;
  }
  const double variance = square / d - (sum / d) * (sum / d);
  return largest * __builtin_sqrt((variance > 0 ? variance : 0) + eps / largest / largest);
}

template <class T>
double add_lanes(const Vector<T>& values) {
  double sums[4] = {};
  for (int i = 0; i < Types<T>::lanes; i++) sums[i % 4] += values[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Divide a window by sqrt(variance + eps). The kernels have zero mean, so one of its pixels is
// subtracted instead of the mean: a constant window becomes exactly 0, and an offset does not make the
// mean inaccurate. The window is in a buffer of `pitch` numbers, a multiple of a vector.
template <class T>
void normalize(const Layer& layer, T* window, int64_t pitch) {
  constexpr int lanes = Types<T>::lanes;
  const int64_t d = layer.n_weights;
  const T center = window[d / 2];
  for (int64_t j = d; j < pitch; j++) window[j] = center;  // becomes 0
  Vector<T> sums = {}, squares = {};
  for (int64_t j = 0; j < pitch; j += lanes) {
    const Vector<T> x = load(window + j) - center;
    store(window + j, x);
    sums += x;
    squares += x * x;
  }
  const double mean = add_lanes<T>(sums) / d, square = add_lanes<T>(squares) / d;
  double variance = square - mean * mean;
  if (variance < square / 16) {  // The pixel that was subtracted is far from the others.
    for (int64_t j = d; j < pitch; j++) window[j] = T(mean);  // becomes 0
    squares = Vector<T>{};
    for (int64_t j = 0; j < pitch; j += lanes) {
      const Vector<T> x = load(window + j) - T(mean);
      store(window + j, x);
      squares += x * x;
    }
    variance = add_lanes<T>(squares) / d;
  }
  const double deviation =
      variance <= __DBL_MAX__ ? __builtin_sqrt(variance + layer.eps) : large_deviation(window, d, layer.eps);
  const T factor = T(1 / deviation);
  for (int64_t j = 0; j < pitch; j += lanes) store(window + j, load(window + j) * factor);
}

// ---- Cells ------------------------------------------------------------------------------------

enum Joined { SUM, MAXIMUM };

#define LINE(NAME, JOINED, RESULT) JOINED,
constexpr Joined JOINED[] = {POOLINGS(LINE)};
#undef LINE

// Write features of n kernels from their sums and maxima, [output][sum, max][length]
template <class S, class T>
void finish(const Layer& layer, const Call& call, const S* sums, int64_t length, int64_t n_in_cell, int64_t n, T* out) {
  const S n_positions = S(n_in_cell);
  for (int64_t pooling = 0; pooling < layer.n_poolings; pooling++)
    for (int64_t output = 0; output < layer.n_outputs; output++) {
      T* const target = out + pooling * call.out_strides[3] + output * call.out_strides[4];
      const S* const source = sums + 2 * output * length;
      switch (layer.poolings[pooling]) {
#define CASE(NAME, JOINED, RESULT)                          \
  case POOLING_##NAME:                                      \
    for (int64_t i = 0; i < n; i++) {                       \
      const S x = source[JOINED * length + i];              \
      target[i] = T(RESULT);                                \
    }                                                       \
    break;
        POOLINGS(CASE)
#undef CASE
      }
    }
}

// Join the sums and maxima of a group of tiles and those of a cell, [output][sum, max][n_padded]
template <class T>
void join_group(const Layer& layer, const T* group, int64_t width, bool is_first, double* sums) {
  for (int64_t output = 0; output < layer.n_outputs; output++, group += 2 * MAX_WIDTH, sums += 2 * layer.n_padded) {
    double* const maxima = sums + layer.n_padded;
    const T* const group_maxima = group + MAX_WIDTH;
    if (is_first) {
      for (int64_t i = 0; i < width; i++) sums[i] = group[i];
      for (int64_t i = 0; i < width; i++) maxima[i] = group_maxima[i];
    } else {
      for (int64_t i = 0; i < width; i++) sums[i] += group[i];
      for (int64_t i = 0; i < width; i++) {
        const double x = group_maxima[i];
        maxima[i] = x > maxima[i] || x != x ? x : maxima[i];
      }
    }
  }
}

// What the cells of an image have in common
template <class T>
struct Image {
  const Layer& layer;
  const Band& band;
  const Call& call;
  const T* pixels;
  bool may_have_offset;
  Panel<T> panel;
};

inline int64_t count_windows(const int64_t* cell) { return (cell[1] - cell[0]) * (cell[3] - cell[2]); }

// Windows of some tiles, which use the same weights
template <class T>
struct Group {
  int64_t n;
  const T* windows[MAX_TILES * POSITIONS];
  int64_t places[MAX_TILES * POSITIONS];  // of the responses in the maps
};

// The windows of a cell, one after the other
template <class T>
struct Walk {
  const T* const pixels;
  const Band& band;
  const int64_t* const cell;
  const int64_t* const out_strides;
  int64_t row = cell[0], column = cell[2], place = 0;
  const T* window = pixels + row * band.row_step + column * band.column_step;

  void next(int64_t n, Group<T>& group) {
    group.n = n;
    for (int64_t p = 0; p < n; p++) {
      group.windows[p] = window;
      group.places[p] = place;
      step();
    }
  }

  void step() {
    window += band.column_step;
    place += out_strides[2];
    if (++column == cell[3]) {
      column = cell[2];
      row++;
      window = pixels + row * band.row_step + column * band.column_step;
      place = (row - cell[0]) * out_strides[1];
    }
  }
};

// Copy a window of `pitch` numbers, and normalize it or subtract an offset
template <class T>
inline void change_window(const Layer& layer, const Band& band, const T* source, T offset, int64_t pitch, T* copy) {
  copy_window(layer, band, source, copy);
  if (layer.is_normalized) {
    normalize(layer, copy, pitch);
  } else if (offset != 0) {
    for (int64_t j = 0; j < layer.n_weights; j++) copy[j] -= offset;
    copy[layer.n_weights] = offset;
  }
}

// If windows have to be changed, replace them by copies; return whether they are
template <class T>
bool change_windows(const Image<T>& image, Group<T>& group) {
  const Layer& layer = image.layer;
  const int64_t pitch = (layer.n_weights + Types<T>::lanes) / Types<T>::lanes * Types<T>::lanes;
  T offsets[MAX_TILES * POSITIONS] = {};
  bool is_changed = layer.is_normalized;
  if constexpr (sizeof(T) == 4)
    if (image.may_have_offset)
      for (int64_t p = 0; p < group.n; p++) {
        offsets[p] = find_offset(image.band, group.windows[p]);
        is_changed |= offsets[p] != 0;
      }
  if (!is_changed) return false;
  for (int64_t p = 0; p < group.n; p++) {
    T* const copy = static_cast<T*>(image.call.windows) + p * pitch;
    change_window(layer, image.band, group.windows[p], offsets[p], pitch, copy);
    group.windows[p] = copy;
  }
  return true;
}

// Set what all panels of a layer have in common; `group` has room for the sums and maxima of all outputs.
template <class T>
void prepare_panel(const Layer& layer, const Call& call, T* group, Panel<T>& panel) {
  memset(group, 0, layer.n_outputs * 2 * MAX_WIDTH * sizeof(T));
  panel.group = group;
  panel.n_outputs = layer.n_outputs;
  panel.outputs = layer.outputs;
  panel.maps = layer.n_poolings == 0;
  panel.out_step = call.out_strides[4];
  for (int64_t i = 0; i < layer.n_poolings; i++)
    (JOINED[layer.poolings[i]] == SUM ? panel.sums : panel.maxima) = true;
}

// Compute the cell of an image whose features begin at `out`: groups of tiles, for all panels of kernels
template <class T>
void compute_cell(Image<T>& image, const int64_t* cell, T* out) {
  constexpr int lanes = Types<T>::lanes;
  constexpr int64_t width = 2 * lanes;
  const Layer& layer = image.layer;
  const Call& call = image.call;
  Panel<T>& panel = image.panel;
  const int64_t n_positions = count_windows(cell);
  const int64_t n_tiles = (n_positions + POSITIONS - 1) / POSITIONS;
  // The first `n_wider` tiles have one position more than the others.
  const int64_t n_in_tile = n_positions / n_tiles, n_wider = n_positions - n_in_tile * n_tiles;
  const bool is_one_group = n_tiles <= call.n_tiles && !call.sums;
  double* const sums = call.sums ? call.sums + cell[5] * 2 * layer.n_outputs * layer.n_padded : call.cell_sums;
  Walk<T> walk = {image.pixels, image.band, cell, call.out_strides};
  Group<T> group;
  for (int64_t first_tile = 0; first_tile < n_tiles; first_tile += call.n_tiles) {
    const int64_t last_tile = first_tile + call.n_tiles < n_tiles ? first_tile + call.n_tiles : n_tiles;
    const int64_t n_wider_before = first_tile < n_wider ? first_tile : n_wider;
    const int64_t n_wider_in_group = (last_tile < n_wider ? last_tile : n_wider) - n_wider_before;
    walk.next((last_tile - first_tile) * n_in_tile + n_wider_in_group, group);
    const bool is_changed = change_windows(image, group);
    panel.n_terms = layer.n_weights + is_changed;
    panel.numbers = is_changed ? layer.numbers : image.band.numbers;
    for (int64_t k = 0; k < layer.n_padded; k += width) {
      const int n_vectors = layer.n_padded - k >= width ? 2 : 1;
      panel.weights = static_cast<const T*>(layer.weights) + k * (layer.n_weights + 1);
      panel.shift = static_cast<const T*>(layer.shift) + k;
      panel.first_kernel = k;
      panel.out = out + k;
      panel.n_kernels = layer.n_kernels - k;
      for (int64_t tile = first_tile, p = 0; tile < last_tile; tile++) {
        const int64_t n = n_in_tile + (tile < n_wider);
        panel.is_first = tile == first_tile;
        TILE_FUNCTIONS<T>.of[n][n_vectors](panel, group.windows + p, group.places + p);
        p += n;
      }
      if (panel.maps) continue;
      const int64_t n_in_panel = n_vectors * lanes;
      if (is_one_group)
        finish(layer, call, panel.group, MAX_WIDTH, n_positions,
               panel.n_kernels < n_in_panel ? panel.n_kernels : n_in_panel, panel.out);
      else
        join_group(layer, panel.group, n_in_panel, first_tile == 0 && !call.sums, sums + k);
    }
  }
  if (!panel.maps && !is_one_group && !call.sums)
    finish(layer, call, sums, layer.n_padded, n_positions, layer.n_kernels, out);
}

template <class T>
void compute_image(const Layer& layer, const Band& band, const Call& call, int64_t number) {
  T* const pixels = static_cast<T*>(call.pixels);
  copy_pixels<T>(layer, band, call, call.images + number * call.strides[0], pixels);
  Image<T> image = {layer, band, call, pixels, false, {}};
  // Integers of 8 bits are too small for an offset; float64 needs none.
  if constexpr (sizeof(T) == 4)
    image.may_have_offset = !layer.is_normalized && call.pixel != PIXEL_u1 && call.pixel != PIXEL_i1 &&
                            may_have_offset(layer, band, pixels);
  T sums[MAX_OUTPUTS * 2 * MAX_WIDTH];
  prepare_panel(layer, call, sums, image.panel);
  T* const out = static_cast<T*>(call.out) + number * call.out_strides[0];
  for (int64_t i = 0; i < band.n_cells; i++) {
    const int64_t* cell = band.cells + 6 * i;
    compute_cell(image, cell, out + cell[4] * call.out_strides[1] + cell[5] * call.out_strides[2]);
  }
}

#ifdef __AMX_BF16__
#include "amx.h"
#else
constexpr int64_t TILE_WINDOWS = 0;
inline void compute_in_tiles(const Layer&, const Band&, const Call&) {}
#endif

#include "rows.h"

void compute(const Layer* layer, const Band* band, const Call* call) {
  if (TILE_WINDOWS && call->tiles) return compute_in_tiles(*layer, *band, *call);
  for (int64_t image = 0; image < call->n_images; image++)
    if (layer->is_double)
      compute_image<double>(*layer, *band, *call, image);
    else
      compute_image<float>(*layer, *band, *call, image);
}

}  // namespace

extern const Code CODE(SKLEARN_CONV_LEVEL);
const Code CODE(SKLEARN_CONV_LEVEL) = {VECTOR_BYTES, POSITIONS, TILE_WINDOWS, compute, multiply_rows};
