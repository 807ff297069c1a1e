// Products of pixels of 8 bits on the matrix unit (AMX), as accurate as in float.
//
// An integer of 8 bits, and the difference of two of them, is exact in bfloat16. A float, which has 24
// binary digits, is the sum of three numbers in bfloat16, which have 8. So the sum of three products is
// as good as a product in float, and the matrix unit computes 16 x 16 x 32 products at a time.
//
// Windows are copied one after the other, those of several cells together. Responses of 32 windows and
// 32 kernels are stored, and then activated and pooled by the vector unit, while the matrix unit
// computes the next ones. If the last numbers of a window fill at most half of a step, it has copies
// of them, which are multiplied by several terms at a time. tile.cpp includes this file in its namespace.

typedef uint16_t Bfloat16;  // the bits of a number

constexpr int TILE = 16;     // windows, and kernels, of a tile
constexpr int STEP = 32;     // numbers of a window in a tile
constexpr int N_TERMS = 3;   // of a weight
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
inline void check_tile(const void* first_row, int64_t step) {
#ifdef __SANITIZE_ADDRESS__
  for (int row = 0; row < TILE; row++)
    for (int byte = 0; byte < 64; byte += 63) (void)*(static_cast<const volatile char*>(first_row) + row * step + byte);
#else
  (void)first_row, (void)step;
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

// Store the responses of W tiles of windows and V tiles of kernels; n_last is the number of products of the
// last step. In between, the vector unit does a part
// of some other work after each few products: all of it is more than the processor looks ahead to.
template <int W, int V, class F>
inline void multiply(const Bfloat16* windows, int64_t pitch, const Bfloat16* weights, int64_t n_steps, int64_t n_last,
                     float* responses, F do_other_work) {
  const int64_t row = pitch * sizeof(Bfloat16);
  clear_tile<0>();
  clear_tile<1>();
  clear_tile<2>();
  clear_tile<3>();
  for (int64_t step = 0; step < n_steps; step++, windows += STEP) {
    load_tile<4>(windows, row);
    if (W > 1) load_tile<5>(windows + TILE * pitch, row);
    const int64_t n_terms = step < n_steps - 1 ? N_TERMS : n_last;
    for (int64_t term = 0; term < n_terms; term++, weights += V * TILE * STEP) {
      load_tile<6>(weights, STEP * sizeof(Bfloat16));
      if (V > 1) load_tile<7>(weights + TILE * STEP, STEP * sizeof(Bfloat16));
      add_product<0, 4, 6>();
      if (V > 1) add_product<1, 4, 7>();
      if (W > 1) add_product<2, 5, 6>();
      if (W > 1 && V > 1) add_product<3, 5, 7>();
      do_other_work();
    }
  }
  while (do_other_work()) continue;
  store_tile<0>(responses);
  if (V > 1) store_tile<1>(responses + TILE);
  if (W > 1) store_tile<2>(responses + TILE * MAX_WIDTH);
  if (W > 1 && V > 1) store_tile<3>(responses + TILE * MAX_WIDTH + TILE);
}

template <int W, int V, class F>
void multiply_in_parts(const Bfloat16* windows, int64_t pitch, const Bfloat16* weights, int64_t n_last, float* responses,
                       F do_other_work) {
  const int64_t n_steps = pitch / STEP;
  if (n_steps <= MAX_STEPS) return multiply<W, V>(windows, pitch, weights, n_steps, n_last, responses, do_other_work);
  multiply<W, V>(windows, pitch, weights, MAX_STEPS, N_TERMS, responses, do_other_work);
  for (int64_t step = MAX_STEPS; step < n_steps; step += MAX_STEPS) {
    alignas(64) float more[N_RESPONSES];
    const bool is_last = n_steps - step <= MAX_STEPS;
    multiply<W, V>(windows + step * STEP, pitch, weights + step * N_TERMS * V * TILE * STEP,
                   is_last ? n_steps - step : MAX_STEPS, is_last ? n_last : N_TERMS, more, do_other_work);
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

inline __m512i load_piece(const Piece* piece, const void* window) {
  return _mm512_maskz_loadu_epi16(piece->lanes, static_cast<const int16_t*>(window) + piece->start);
}

// Return the next vector of a window, filled up with zeros
inline __m512i next_vector(const Piece*& piece, const void* window) {
  __m512i x = load_piece(piece, window);
  for (; !piece->is_last; piece++) x = _mm512_or_si512(x, load_piece(piece + 1, window));
  piece++;
  return x;
}

// Bits of the lanes of the vector that begins at number j, of the first n numbers
inline __mmask32 lanes_inside(int64_t n, int64_t j) {
  return n - j >= STEP ? ~0u : n > j ? (1u << (n - j)) - 1 : 0;
}

// Copy a window, with the copies of its last numbers, filled up to full steps; return the factor of its responses
inline float fill_window(const Layer&, const Band& band, const Bfloat16* source, int64_t, int64_t pitch, void* window) {
  const Piece* piece = band.pieces;
  for (int64_t j = 0; j < pitch; j += STEP)
    _mm512_store_si512(static_cast<Bfloat16*>(window) + j, next_vector(piece, source));
  return 1;
}

// The same for integers, of which one is subtracted, as in `normalize`. Their sums are exact.
inline float fill_window(const Layer& layer, const Band& band, const int16_t* source, int64_t n_copies, int64_t pitch,
                         void* window) {
  const int64_t d = layer.n_weights, n_more = (n_copies - 1) * (d % STEP);
  const __m512i center = _mm512_set1_epi16(source[band.numbers[d / 2]]), one = _mm512_set1_epi16(1);
  const Piece* piece = band.pieces;
  __m512i sums = _mm512_setzero_si512(), squares = sums;
  for (int64_t j = 0; j < pitch; j += STEP) {
    const __m512i all = _mm512_maskz_sub_epi16(lanes_inside(d + n_more, j), next_vector(piece, source), center);
    const __m512i x = _mm512_maskz_mov_epi16(lanes_inside(d, j), all);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(x, one));
    squares = _mm512_add_epi32(squares, _mm512_madd_epi16(x, x));
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(all)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(all, 1)));
    _mm512_store_si512(static_cast<Bfloat16*>(window) + j, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  const int64_t sum = _mm512_reduce_add_epi32(sums), square = _mm512_reduce_add_epi32(squares);
  const double variance = double(d * square - sum * sum) / (double(d) * double(d));
  return float(1 / __builtin_sqrt(variance + layer.eps));
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
  const int64_t pitch = (layer.n_weights + STEP - 1) / STEP * STEP;
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
  const Bfloat16* const windows = static_cast<const Bfloat16*>(batch.call.windows);
  const Bfloat16* const tiles = static_cast<const Bfloat16*>(batch.call.tiles);
  Pooler pooler = {&batch, chunks, chunks, 0, nullptr, 0};
  const int64_t n_last = (N_TERMS + batch.call.n_copies - 1) / batch.call.n_copies;
  const int64_t n_in_tile = (batch.pitch / STEP - 1) * N_TERMS + n_last;
  const auto pool = [&pooler] { return pooler.pool(); };
  int parity = 0;
  for (int64_t k = 0; k < layer.n_padded; k += MAX_WIDTH) {
    const bool is_wide = layer.n_padded - k >= MAX_WIDTH;
    const Bfloat16* const weights = tiles + k * n_in_tile * STEP;
    for (int64_t first = 0; first < batch.n; first += TILE_WINDOWS) {
      const Bfloat16* const source = windows + first * batch.pitch;
      float* const target = responses[parity];
      if (batch.n - first > TILE && is_wide)
        multiply_in_parts<2, 2>(source, batch.pitch, weights, n_last, target, pool);
      else if (batch.n - first > TILE)
        multiply_in_parts<2, 1>(source, batch.pitch, weights, n_last, target, pool);
      else if (is_wide)
        multiply_in_parts<1, 2>(source, batch.pitch, weights, n_last, target, pool);
      else
        multiply_in_parts<1, 1>(source, batch.pitch, weights, n_last, target, pool);
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

template <class P>  // Bfloat16, or int16_t if windows are normalized
void compute_in_tiles(const Layer& layer, const Band& band, const Call& call) {
  P* const pixels = static_cast<P*>(call.pixels);
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
    if (call.pixel == PIXEL_u1)
      copy_pixels<uint8_t, P>(layer, band, image, call.strides, pixels);
    else
      copy_pixels<int8_t, P>(layer, band, image, call.strides, pixels);
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
          Bfloat16* const window = static_cast<Bfloat16*>(call.windows) + batch.n * batch.pitch;
          batch.factors[batch.n] = fill_window(layer, band, walk.window, call.n_copies, batch.pitch, window);
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
  if (layer.is_normalized)
    compute_in_tiles<int16_t>(layer, band, call);
  else
    compute_in_tiles<Bfloat16>(layer, band, call);
  asm volatile("tilerelease");
}
