// Products on the matrix unit (AMX), as accurate as in float.
//
// A float, which has 24 binary digits, is the sum of three terms in bfloat16, which have 8. Numbers of 16
// bits have two terms; integers of 8 bits, and differences of two of them, are one. A product is the sum
// of the products of these terms, of which those that are no larger than its rounding in float are left
// out: three products remain for pixels of one term, five for two, six for three. The matrix unit computes
// 16 x 16 x 32 products at a time.
//
// Windows are copied one after the other, those of several cells together. Responses of 32 windows and
// 32 kernels are stored, and then activated and pooled by the vector unit, while the matrix unit
// computes the next ones. The last numbers of a window, which do not fill a step, are copied once for each
// of their products. tile.cpp includes this file in its namespace.

typedef uint16_t Bfloat16;  // the bits of a number

constexpr int PIXEL_EXPONENT = 40;  // of the largest pixel, and of the inverse of the smallest one
constexpr int64_t TILE_WINDOWS = 2 * TILE;
constexpr int64_t MAX_WINDOWS = MAX_TILES * TILE_WINDOWS;
constexpr int N_RESPONSES = 2 * TILE * MAX_WIDTH;  // [window][kernel]

// Steps whose products are added one after the other, like TERMS
constexpr int64_t MAX_STEPS = 24;

// ---- Tiles ------------------------------------------------------------------------------------

struct Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// AddressSanitizer does not see what these instructions access, so the ends of the rows are read for it.
inline void check_tile([[maybe_unused]] const void* first_row, [[maybe_unused]] int64_t step) {
#ifdef __SANITIZE_ADDRESS__
  for (int row = 0; row < TILE; row++)
    for (int byte = 0; byte < 64; byte += 63) (void)*(static_cast<const volatile char*>(first_row) + row * step + byte);
#endif
}

// The compiler knows neither the registers nor what is read, so the order of these functions is kept.
template <int tile>
inline void load_tile(const void* first_row, int64_t step) {
  check_tile(first_row, step);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(first_row), "r"(step), "i"(tile) : "memory");
}

template <int tile>
inline void store_tile(float* first_row) {
  constexpr int64_t step = MAX_WIDTH * sizeof(float);
  check_tile(first_row, step);
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(first_row), "r"(step), "i"(tile) : "memory");
}

template <int tile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}

template <int responses, int windows, int weights>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(responses), "i"(windows), "i"(weights));
}

// Windows and weights, [step][term][STEP] and then [step of the rest][STEP]
struct Operands {
  const Bfloat16* windows;
  const Bfloat16* weights;
  int64_t pitch;  // numbers of a window
  int64_t pixel_terms, n_steps, n_rest;  // as in Call
  int64_t rest_steps;
  int64_t n_vectors;  // of a window before it is divided into terms

  explicit Operands(const Call& call)
      : windows(static_cast<const Bfloat16*>(call.windows)),
        weights(static_cast<const Bfloat16*>(call.tiles)),
        pixel_terms(call.pixel_terms),
        n_steps(call.n_steps),
        n_rest(call.n_rest) {
    const int64_t n_products = pixel_terms * (2 * N_TERMS + 1 - pixel_terms) / 2;
    rest_steps = (n_products * n_rest + STEP - 1) / STEP;
    pitch = (n_steps * pixel_terms + rest_steps) * STEP;
    n_vectors = n_steps + (rest_steps > 0);
  }
  int64_t weights_of_kernel() const { return (n_steps * N_TERMS + rest_steps) * STEP; }
};

// Terms of a pixel and of a weight that are multiplied, the smallest first; each product has a term of the one before.
constexpr int PRODUCTS[][2] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};

// Store the responses of W tiles of windows and V tiles of kernels to some steps, and to the rest after the last one.
// In between, the vector unit does a part of some other work after each few products: all of it is more than the
// processor looks ahead to.
template <int W, int V, class F>
inline void multiply(const Operands& operands, int64_t first, int64_t last, float* responses, F do_other_work) {
  const int64_t pitch = operands.pitch, row = pitch * sizeof(Bfloat16), pixel_terms = operands.pixel_terms;
  const Bfloat16* windows = operands.windows + first * pixel_terms * STEP;
  const Bfloat16* weights = operands.weights + first * N_TERMS * V * TILE * STEP;
  const auto load_windows = [&](const Bfloat16* source) {
    load_tile<4>(source, row);
    if (W > 1) load_tile<5>(source + TILE * pitch, row);
  };
  const auto load_weights = [&](const Bfloat16* source) {
    load_tile<6>(source, STEP * sizeof(Bfloat16));
    if (V > 1) load_tile<7>(source + TILE * STEP, STEP * sizeof(Bfloat16));
  };
  const auto add_products = [&] {
    add_product<0, 4, 6>();
    if (V > 1) add_product<1, 4, 7>();
    if (W > 1) add_product<2, 5, 6>();
    if (W > 1 && V > 1) add_product<3, 5, 7>();
    do_other_work();
  };
  clear_tile<0>();
  clear_tile<1>();
  clear_tile<2>();
  clear_tile<3>();
  for (int64_t step = first; step < last; step++) {
    int pixel_term = -1, weight_term = -1;
#pragma GCC unroll 6
    for (const auto& product : PRODUCTS) {
      if (product[0] >= pixel_terms) continue;
      if (product[0] != pixel_term) load_windows(windows + (pixel_term = product[0]) * STEP);
      if (product[1] != weight_term) load_weights(weights + (weight_term = product[1]) * V * TILE * STEP);
      add_products();
    }
    windows += pixel_terms * STEP;
    weights += N_TERMS * V * TILE * STEP;
  }
  if (last == operands.n_steps)
    for (int64_t step = 0; step < operands.rest_steps; step++) {
      load_windows(windows + step * STEP);
      load_weights(weights + step * V * TILE * STEP);
      add_products();
    }
  while (do_other_work()) continue;
  store_tile<0>(responses);
  if (V > 1) store_tile<1>(responses + TILE);
  if (W > 1) store_tile<2>(responses + TILE * MAX_WIDTH);
  if (W > 1 && V > 1) store_tile<3>(responses + TILE * MAX_WIDTH + TILE);
}

template <int W, int V, class F>
void multiply_in_parts(const Operands& operands, float* responses, F do_other_work) {
  const int64_t n_steps = operands.n_steps;
  multiply<W, V>(operands, 0, n_steps < MAX_STEPS ? n_steps : MAX_STEPS, responses, do_other_work);
  for (int64_t step = MAX_STEPS; step < n_steps; step += MAX_STEPS) {
    alignas(64) float more[N_RESPONSES];
    multiply<W, V>(operands, step, n_steps - step < MAX_STEPS ? n_steps : step + MAX_STEPS, more, do_other_work);
    for (int i = 0; i < W * TILE * MAX_WIDTH; i++) responses[i] += more[i];
  }
}

// ---- Windows ----------------------------------------------------------------------------------

inline Bfloat16 to_bfloat16(float exact) {
  uint32_t bits;
  memcpy(&bits, &exact, 4);
  return bits >> 16;
}
template <>
inline Bfloat16 convert<uint8_t, Bfloat16>(uint8_t value) {
  return to_bfloat16(value);
}
template <>
inline Bfloat16 convert<int8_t, Bfloat16>(int8_t value) {
  return to_bfloat16(value);
}

inline __m512i load_piece(const Piece* piece, const void* window, int64_t first) {
  return _mm512_maskz_loadu_epi16(piece->lanes, static_cast<const int16_t*>(window) + first + piece->start);
}

// Read the next vector of a window, filled up with zeros, of each of X terms
template <int X>
inline void next_vectors(const Piece*& piece, const void* window, int64_t to_next_term, __m512i (&terms)[X]) {
#pragma GCC unroll 3
  for (int term = 0; term < X; term++) terms[term] = load_piece(piece, window, term * to_next_term);
  for (; !piece->is_last; piece++)
#pragma GCC unroll 3
    for (int term = 0; term < X; term++)
      terms[term] = _mm512_or_si512(terms[term], load_piece(piece + 1, window, term * to_next_term));
  piece++;
}

// Bits of the lanes of the vector that begins at number j, of the first n numbers
inline __mmask32 lanes_inside(int64_t n, int64_t j) {
  return n - j >= STEP ? ~0u : n > j ? (1u << (n - j)) - 1 : 0;
}

// Store terms of STEP numbers of a window. Those of the rest are stored once for each of their products, one after
// the other, filled up with zeros.
template <int X>
inline __attribute__((always_inline)) void store_terms(int64_t step, const __m512i (&terms)[X], const Operands& sizes,
                                                       Bfloat16* window) {
  window += step * X * STEP;
  if (step < sizes.n_steps) {
#pragma GCC unroll 3
    for (int term = 0; term < X; term++) _mm512_store_si512(window + term * STEP, terms[term]);
    return;
  }
  _mm512_store_si512(window + (sizes.rest_steps - 1) * STEP, _mm512_setzero_si512());
  const __mmask32 lanes = lanes_inside(sizes.n_rest, 0);
#pragma GCC unroll 3
  for (int term = 0; term < X; term++)
    for (int64_t i = term; i < N_TERMS; i++, window += sizes.n_rest)
      _mm512_mask_storeu_epi16(window, lanes, terms[term]);
}

// Copy a window as terms, and return the factor of its responses
inline float fill_window(const Image<Bfloat16>& image, const Operands& sizes, const Bfloat16* source,
                         Bfloat16* window) {
  const Piece* piece = image.band.pieces;
  for (int64_t step = 0; step < sizes.n_vectors; step++) {
    __m512i x[1];
    next_vectors(piece, source, 0, x);
    store_terms(step, x, sizes, window);
  }
  return 1;
}

// The same for integers, of which one is subtracted, as in `normalize`. Their sums are exact.
inline float fill_window(const Image<int16_t>& image, const Operands& sizes, const int16_t* source, Bfloat16* window) {
  const int64_t d = image.layer.n_weights;
  const __m512i center = _mm512_set1_epi16(source[image.band.numbers[d / 2]]), one = _mm512_set1_epi16(1);
  const Piece* piece = image.band.pieces;
  __m512i sums = _mm512_setzero_si512(), squares = sums;
  for (int64_t step = 0; step < sizes.n_vectors; step++) {
    __m512i pixels[1];
    next_vectors(piece, source, 0, pixels);
    const __m512i x = _mm512_maskz_sub_epi16(lanes_inside(d, step * STEP), pixels[0], center);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(x, one));
    squares = _mm512_add_epi32(squares, _mm512_madd_epi16(x, x));
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(x)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(x, 1)));
    const __m512i exact[] = {(__m512i)_mm512_cvtne2ps_pbh(high, low)};
    store_terms(step, exact, sizes, window);
  }
  const int64_t sum = _mm512_reduce_add_epi32(sums), square = _mm512_reduce_add_epi32(squares);
  const double variance = double(d * square - sum * sum) / (double(d) * double(d));
  return float(1 / __builtin_sqrt(variance + image.layer.eps));
}

// Return the first 8 binary digits of 32 numbers, and subtract them
inline __m512i take_term(__m512& low, __m512& high) {
  alignas(64) static constexpr uint16_t UPPER[STEP] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                       33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i term = _mm512_permutex2var_epi16((__m512i)low, _mm512_load_si512(UPPER), (__m512i)high);
  const __m512i mask = _mm512_set1_epi32(int(0xffff0000));
  low -= (__m512)_mm512_and_si512((__m512i)low, mask);
  high -= (__m512)_mm512_and_si512((__m512i)high, mask);
  return term;
}

// Numbers of a copy of the pixels, filled up to full vectors
inline int64_t count_pixels(const Layer& layer, const Band& band) {
  return (band.n_rows * band.n_columns * layer.n_channels + STEP - 1) / STEP * STEP;
}

// Call put(j, terms) with the terms of the numbers from j to j + STEP, for all such j
template <int X, class F>
inline void divide(const float* numbers, int64_t n, F put) {
  for (int64_t j = 0; j < n; j += STEP) {
    __m512 low = _mm512_loadu_ps(numbers + j), high = _mm512_loadu_ps(numbers + j + TILE);
    __m512i terms[X];
#pragma GCC unroll 3
    for (__m512i& term : terms) term = take_term(low, high);
    put(j, terms);
  }
}

// The same for float. Windows that are changed as for vectors are then divided into terms; for others, the terms
// of the pixels are copied.
template <int X>
inline float fill_window(const Image<float>& image, const Operands& sizes, const float* source, Bfloat16* window) {
  const Layer& layer = image.layer;
  const int64_t length = sizes.n_vectors * STEP, n_pixels = count_pixels(layer, image.band);
  const float offset = image.may_have_offset ? find_offset(image.band, source) : 0;
  if (layer.is_normalized || offset != 0) {
    float* const copy = static_cast<float*>(image.call.windows) + image.call.n_tiles * TILE_WINDOWS * sizes.pitch / 2;
    change_window(layer, image.band, source, offset, length, copy);
    for (int64_t j = layer.n_weights + 1; j < length; j++) copy[j] = 0;
    divide<X>(copy, length, [&](int64_t j, const auto& terms) { store_terms(j / STEP, terms, sizes, window); });
    return 1;
  }
  const Bfloat16* const terms_of_pixels = reinterpret_cast<const Bfloat16*>(image.pixels + n_pixels);
  const Bfloat16* const first_terms = terms_of_pixels + (source - image.pixels);
  const Piece* piece = image.band.pieces;
  for (int64_t step = 0; step < sizes.n_vectors; step++) {
    __m512i terms[X] = {};
    if (step * STEP < layer.n_weights) next_vectors(piece, first_terms, n_pixels, terms);
    store_terms(step, terms, sizes, window);
  }
  return 1;
}

inline float fill_window(const Image<float>& image, const Operands& sizes, const float* source, Bfloat16* window) {
  return sizes.pixel_terms == 2 ? fill_window<2>(image, sizes, source, window)
                                : fill_window<3>(image, sizes, source, window);
}

// Store the terms of pixels after them, [term][pixel]
template <int X>
void divide_pixels(float* pixels, int64_t n) {
  Bfloat16* const target = reinterpret_cast<Bfloat16*>(pixels + n);
  divide<X>(pixels, n, [&](int64_t j, const auto& terms) {
    for (int term = 0; term < X; term++) _mm512_storeu_si512(target + term * n + j, terms[term]);
  });
}

// Whether all pixels but 0 are so large that no product of terms is subnormal, and so small that no sum overflows
inline bool fit_terms(const float* pixels, int64_t n) {
  constexpr uint32_t smallest = (127 - PIXEL_EXPONENT) << 23, largest = (127 + PIXEL_EXPONENT) << 23;
  uint32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, pixels + i, 4);
    bits &= 0x7fffffff;
    found |= (bits != 0) & (bits - smallest > largest - smallest);
  }
  return !found;
}

// ---- Cells ------------------------------------------------------------------------------------

// Windows of a cell that follow one another in a batch
struct Segment {
  const int64_t* cell;
  float* out;  // features of the image
  int64_t n;
  bool begins, ends;  // whether they are the first, and the last, of the cell
};

// Windows of an image that use the same weights one after the other
struct Batch {
  const Layer& layer;
  const Call& call;
  const Operands sizes = Operands(call);
  Panel<float> panel = {};
  int64_t n = 0, n_segments = 0;
  float factors[MAX_WINDOWS] = {};
  int64_t places[MAX_WINDOWS] = {};
  Segment segments[MAX_WINDOWS] = {};
};

// Windows of a segment, and of two tiles, that are pooled together
struct Chunk {
  int64_t first, n;
  const Segment* segment;
  float* out;         // features of the cell
  bool begins, ends;  // whether they are the first, and the last, of the segment
};

typedef void (*PoolFunction)(const Panel<float>&, const float*, const float*, const int64_t*);

// Maximum number of windows of a chunk
constexpr int64_t POOLED = 8;

template <int P, int V>
void pool_responses(const Panel<float>& panel, const float* responses, const float* factors, const int64_t* places) {
  typedef Tile<float, P, V> Own;
  for (int64_t output = 0; output < panel.n_outputs; output++) {
    Vector<float> z[P][V];
    each<P, V>([&](int p, int v) {
      z[p][v] = load(responses + p * MAX_WIDTH + v * TILE) * factors[p] + load(panel.shift + v * TILE);
    });
    Own::pool(panel, z, places, output);
  }
}

struct PoolFunctions {
  PoolFunction of[POOLED + 1][3] = {};
  template <int P>
  constexpr void fill() {
    of[P][1] = pool_responses<P, 1>;
    of[P][2] = pool_responses<P, 2>;
    if constexpr (P > 1) fill<P - 1>();
  }
  constexpr PoolFunctions() { fill<POOLED>(); }
};
constexpr PoolFunctions POOL_FUNCTIONS;

// Write the features of a segment for a panel of kernels, or add them to those of its cell
__attribute__((noinline)) void end_segment(const Batch& batch, const Segment& segment, int64_t k) {
  const Layer& layer = batch.layer;
  const Call& call = batch.call;
  const int64_t* const cell = segment.cell;
  const int64_t n_positions = count_windows(cell);
  const int64_t width = layer.n_padded - k < MAX_WIDTH ? layer.n_padded - k : MAX_WIDTH;
  const int64_t n = layer.n_kernels - k < width ? layer.n_kernels - k : width;
  if (segment.begins && segment.ends && !call.sums)
    return finish(layer, call, batch.panel.group, MAX_WIDTH, n_positions, n, batch.panel.out);
  double* const sums = call.sums ? call.sums + cell[5] * 2 * layer.n_outputs * layer.n_padded : call.cell_sums;
  join_group(layer, batch.panel.group, width, segment.begins && !call.sums, sums + k);
  if (segment.ends && !call.sums)
    finish(layer, call, sums + k, layer.n_padded, n_positions, n, batch.panel.out);
}

// Divide the windows of a batch into chunks; return where those of each two tiles begin
inline void divide_batch(const Batch& batch, Chunk* chunk, const Chunk** of_tiles) {
  const Segment* segment = batch.segments;
  const int64_t* const strides = batch.call.out_strides;
  for (int64_t window = 0, n, n_done = 0; window < batch.n; window += n) {
    if (window % TILE_WINDOWS == 0) *of_tiles++ = chunk;
    const int64_t left = segment->n - n_done, in_tiles = TILE_WINDOWS - window % TILE_WINDOWS;
    n = left < in_tiles ? left : in_tiles;
    if (n > POOLED) n = POOLED;
    float* const out = segment->out + segment->cell[4] * strides[1] + segment->cell[5] * strides[2];
    *chunk++ = {window, n, segment, out, n_done == 0, n == left};
    n_done += n;
    if (n == left) {
      segment++;
      n_done = 0;
    }
  }
  *of_tiles = chunk;
}

// Pools the responses of two tiles of windows
struct Pooler {
  Batch* batch;
  const Chunk *next, *stop;
  int64_t k;
  const float* responses;  // of the first window of the batch, if it were in these tiles
  int n_vectors;

  // Pool the next chunk; return whether there was one
  inline __attribute__((always_inline)) bool pool() {
    if (next == stop) return false;
    const Chunk& chunk = *next++;
    batch->panel.out = chunk.out + k;
    batch->panel.is_first = chunk.begins;
    POOL_FUNCTIONS.of[chunk.n][n_vectors](batch->panel, responses + chunk.first * MAX_WIDTH,
                                          batch->factors + chunk.first, batch->places + chunk.first);
    if (chunk.ends && !batch->panel.maps) end_segment(*batch, *chunk.segment, k);
    return true;
  }
};

// Compute the features of the windows of a batch, and empty it
inline void compute_batch(Batch& batch) {
  // A tile that is loaded from the same place in another page waits for one that is stored, and both of
  // these fill a page: their places are always the same.
  alignas(4096) float responses[2][N_RESPONSES];
  Chunk chunks[MAX_WINDOWS];
  const Chunk* of_tiles[MAX_TILES + 1];
  divide_batch(batch, chunks, of_tiles);
  const Layer& layer = batch.layer;
  Operands operands = batch.sizes;
  Pooler pooler = {&batch, chunks, chunks, 0, nullptr, 0};
  const auto pool = [&pooler] { return pooler.pool(); };
  int parity = 0;
  for (int64_t k = 0; k < layer.n_padded; k += MAX_WIDTH) {
    const bool is_wide = layer.n_padded - k >= MAX_WIDTH;
    operands.weights = batch.sizes.weights + k * operands.weights_of_kernel();
    for (int64_t first = 0; first < batch.n; first += TILE_WINDOWS) {
      operands.windows = batch.sizes.windows + first * operands.pitch;
      float* const target = responses[parity];
      if (batch.n - first > TILE && is_wide)
        multiply_in_parts<2, 2>(operands, target, pool);
      else if (batch.n - first > TILE)
        multiply_in_parts<2, 1>(operands, target, pool);
      else if (is_wide)
        multiply_in_parts<1, 2>(operands, target, pool);
      else
        multiply_in_parts<1, 1>(operands, target, pool);
      const Chunk** const here = of_tiles + first / TILE_WINDOWS;
      pooler = {&batch, here[0], here[1], k, target - first * MAX_WIDTH, is_wide ? 2 : 1};
      batch.panel.shift = static_cast<const float*>(layer.shift) + k;
      batch.panel.first_kernel = k;
      batch.panel.n_kernels = layer.n_kernels - k;
      parity ^= 1;
    }
  }
  while (pooler.pool()) continue;
  batch.n = batch.n_segments = 0;
}

template <class P>  // of 8 bits: Bfloat16, or int16_t if windows are normalized; of others: float
void compute_in_tiles(const Layer& layer, const Band& band, const Call& call) {
  P* const pixels = static_cast<P*>(call.pixels);
  Image<P> source = {layer, band, call, pixels, false, {}};
  float group[MAX_OUTPUTS * 2 * MAX_WIDTH];
  Batch batch = {layer, call};
  prepare_panel(layer, call, group, batch.panel);
  // All batches of an image have about the same length, which does not depend on other images.
  int64_t n_windows = 0;
  for (int64_t i = 0; i < band.n_cells; i++) n_windows += count_windows(band.cells + 6 * i);
  const int64_t most = call.n_tiles * TILE_WINDOWS, n_batches = (n_windows + most - 1) / most;
  const int64_t max_windows = ((n_windows + n_batches - 1) / n_batches + TILE - 1) / TILE * TILE;
  for (int64_t number = 0; number < call.n_images; number++) {
    const char* const image = call.images + number * call.strides[0];
    if constexpr (sizeof(P) == 4) {
      copy_pixels<float>(layer, band, call, image, pixels);
      const int64_t n_pixels = count_pixels(layer, band);
      if (!fit_terms(pixels, band.n_rows * band.n_columns * layer.n_channels)) {
        compute_image<float>(layer, band, call, number);
        continue;
      }
      if (!layer.is_normalized)
        call.pixel_terms == 2 ? divide_pixels<2>(pixels, n_pixels) : divide_pixels<3>(pixels, n_pixels);
      source.may_have_offset = !layer.is_normalized && may_have_offset(layer, band, pixels);
    } else if (call.pixel == PIXEL_u1) {
      copy_pixels<uint8_t, P>(layer, band, image, call.strides, pixels);
    } else {
      copy_pixels<int8_t, P>(layer, band, image, call.strides, pixels);
    }
    float* const out = static_cast<float*>(call.out) + number * call.out_strides[0];
    for (int64_t i = 0; i < band.n_cells; i++) {
      const int64_t* const cell = band.cells + 6 * i;
      Walk<P> walk = {pixels, band, cell, call.out_strides};
      int64_t left = count_windows(cell);
      for (bool begins = true; left > 0; begins = false) {
        const int64_t free = max_windows - batch.n, n = left < free ? left : free;
        left -= n;
        batch.segments[batch.n_segments++] = {cell, out, n, begins, left == 0};
        for (const int64_t stop = batch.n + n; batch.n < stop; batch.n++, walk.step()) {
          Bfloat16* const window = static_cast<Bfloat16*>(call.windows) + batch.n * batch.sizes.pitch;
          batch.factors[batch.n] = fill_window(source, batch.sizes, walk.window, window);
          batch.places[batch.n] = walk.place;
        }
        if (batch.n == max_windows) compute_batch(batch);
      }
    }
    if (batch.n) compute_batch(batch);
  }
}

void compute_in_tiles(const Layer& layer, const Band& band, const Call& call) {
  const Configuration configuration;
  asm volatile("ldtilecfg %0" ::"m"(configuration));
  if (call.pixel != PIXEL_u1 && call.pixel != PIXEL_i1)
    compute_in_tiles<float>(layer, band, call);
  else if (layer.is_normalized)
    compute_in_tiles<int16_t>(layer, band, call);
  else
    compute_in_tiles<Bfloat16>(layer, band, call);
  asm volatile("tilerelease");
}
