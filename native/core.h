// The interface of the library of the native engine: what sklearn_conv/_engine/native_library.py passes to it.
//
// All structures consist of 64-bit fields, so that they have the same layout everywhere. Their
// counterparts in Python have the same fields in the same order. Whoever changes one of them, or a
// limit, increases SKLEARN_CONV_INTERFACE, and INTERFACE in native_library.py.

#ifndef SKLEARN_CONV_CORE_H
#define SKLEARN_CONV_CORE_H

#include <stdint.h>

#define SKLEARN_CONV_INTERFACE 7

#ifdef _WIN32
#define SKLEARN_CONV_EXPORT extern "C" __declspec(dllexport)
#else
#define SKLEARN_CONV_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The choices that the library knows, each a line in a table. Python asks for the names, and uses
// NumPy for other choices. Their numbers are FUNCTION_relu, POOLING_mean, PIXEL_f4 and so on.

// Functions that an activation applies to the responses: (name, result for a vector z). NaN stays NaN, except for step.
#define FUNCTIONS(LINE)             \
  LINE(identity, z)                 \
  LINE(relu, positive(z))           \
  LINE(abs, zero > z ? -z : z)      \
  LINE(square, z * z)               \
  LINE(step, z > zero ? one : zero)

// What is computed from the activated responses of a cell: (name, what is joined, result for their sum
// or maximum x)
#define POOLINGS(LINE)      \
  LINE(mean, SUM, x / n_positions) \
  LINE(sum, SUM, x)         \
  LINE(max, MAXIMUM, x)

// Types of the pixels: (name in NumPy, type)
#define PIXELS(LINE)                                              \
  LINE(u1, uint8_t) LINE(i1, int8_t) LINE(u2, uint16_t)           \
  LINE(i2, int16_t) LINE(f2, Half) LINE(f4, float) LINE(f8, double) \
  LINE(i4, int32_t) LINE(u4, uint32_t) LINE(i8, int64_t) LINE(u8, uint64_t)

#define NUMBER(name, ...) FUNCTION_##name,
enum Function { FUNCTIONS(NUMBER) };
#undef NUMBER
#define NUMBER(name, ...) POOLING_##name,
enum Pooling { POOLINGS(NUMBER) };
#undef NUMBER
#define NUMBER(name, ...) PIXEL_##name,
enum Pixel { PIXELS(NUMBER) };
#undef NUMBER

// One feature for each kernel: function(z + constant), or function(constant - z) if it is negative
struct Output {
  int64_t function;
  int64_t is_negative;
  const void* constant;  // (padded kernels,), or null for 0
};

// Consecutive numbers of a window
struct Run {
  int64_t start;   // first number, from the first number of the window
  int64_t length;
};

// Numbers of a window that are consecutive in the copy of the pixels and in a vector of 32 numbers
struct Piece {
  int64_t start;    // the place of the vector's first number, if all of them were consecutive
  int64_t lanes;    // bits of the numbers of the piece
  int64_t is_last;  // whether it is the last one of its vector
};

// Limits that the caller must respect
constexpr int64_t MAX_TILES = 8;  // of Call::n_tiles
constexpr int64_t MAX_OUTPUTS = 32;  // of Layer::n_outputs

// If all pixels of a window are near a large number, this number is subtracted from them: the
// rounding of its products would be larger than the differences between the pixels. "Near" means
// that their range, multiplied by this factor, is below the smallest absolute value. In float32,
// the rounding of other windows is below 1e-5 of the range.
constexpr int64_t OFFSET_TO_RANGE = 64;

// A layer. "Number" is float or double; kernels are padded to full vectors.
struct Layer {
  int64_t is_double;
  int64_t n_channels;
  int64_t n_weights;   // kh * kw * c
  int64_t n_kernels;
  // Panels of `width` kernels, [panel][n_weights + 1][width]. The last panel may be one vector wide.
  // The last row is the sum of each kernel: the weight of a number that was subtracted from a window.
  const void* weights;
  const void* shift;       // constant part of the responses z, (padded kernels,)
  int64_t n_padded;        // number of kernels including those that fill the last vector
  int64_t n_outputs;
  const Output* outputs;
  int64_t n_poolings;      // 0: maps, which are not pooled
  const int64_t* poolings;
  const int32_t* numbers;  // 0 to n_weights: places of the numbers of a window that was copied
  int64_t is_normalized;
  double eps;
};

// Windows of a rectangle of the map, and the pixels under them. A copy of these pixels has the shape
// (n_rows, n_columns, n_channels).
struct Band {
  int64_t n_rows;
  const int64_t* rows;  // row of the image for each row of the copy, or -1 for a row of zeros
  int64_t n_columns;
  int64_t n_segments;
  const int64_t* segments;  // (n_segments, 3): column of the copy, column of the image or -1, length
  int64_t row_step;         // numbers of the copy from a window to the window below it
  int64_t column_step;      // and to the window to the right of it
  const int32_t* numbers;   // (n_weights,): place of each number of a window, from its first number
  int64_t n_runs;
  const Run* runs;          // the same, as runs of consecutive numbers
  const Piece* pieces;      // the same, as pieces of vectors
  int64_t corner;           // numbers from the first weight to the last one of the first row
  int64_t n_cells;
  const int64_t* cells;  // (n_cells, 6): first and last + 1 row, the same for columns, row and column of the result
};

// Images, buffers and the place of the result
struct Call {
  int64_t n_images;
  const char* images;
  int64_t strides[4];  // bytes
  int64_t pixel;       // enum Pixel
  void* out;
  // Numbers from one image, row, column, pooling and output of the result to the next
  int64_t out_strides[5];
  // If not null, there is one image, responses are added to these sums, and `out` is not used:
  // [column of the result][output][sum, max][n_padded]
  double* sums;
  // If not null, a matrix unit multiplies the pixels by these weights, each of which is the sum of N_TERMS terms:
  // panels of two tiles of kernels, [panel][step][term][tile][pair][kernel][2]. The rest follows,
  // [panel][step of the rest][tile][pair][kernel][2]: for each product of a term of the pixels and one of the
  // weights, the latter's, (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), up to the number of terms of a pixel.
  const void* tiles;
  int64_t pixel_terms;  // terms of a pixel: 1 for 8 bits, else 2 or 3
  int64_t n_steps;      // steps of all terms
  int64_t n_rest;       // numbers of a window after them, whose products of terms follow one another
  int64_t n_tiles;    // number of tiles that use the same weights, which then come from the
                      // first-level cache, one after the other; sums of such a group are in float
  void* pixels;       // buffer for the copy of the pixels of a band, and for a vector more; with 2 or 3 `pixel_terms`,
                      // for these, [term][number], after it, both filled up to full steps
  void* windows;      // buffer for n_tiles * positions windows of n_weights + 1 numbers, each filled
                      // up to full vectors, and for a vector more; with `tiles`, for n_tiles *
                      // tile_windows windows of numbers of 16 bits, [step][term][STEP] and then
                      // [step of the rest][STEP], and for a window in float
  double* cell_sums;  // buffer for the sums of a cell, [output][sum, max][n_padded]
};

// Columns that are multiplied at once
constexpr int64_t GROUP = 16;

// Rows of features, in float or half precision, all of them finite. With columns, the products of each
// row x are computed, (x @ columns - shift) * weight. Then, with sums, products times rows are added to them.
// With coefficients and one group, x @ columns is added to the products, and coefficients times rows to the sums.
struct Rows {
  int64_t pixel;         // PIXEL_f2 or PIXEL_f4
  const char* features;  // of row 0; the features of a row are consecutive
  int64_t stride;        // bytes from row to row
  int64_t n_features;
  int64_t n_rows;
  const int64_t* index;  // (n_rows,): numbers of the rows, or null for the first ones
  int64_t n_groups;      // of GROUP columns
  const float* columns;  // [group][n_features][GROUP], or null
  const float* shift;    // [group][GROUP]
  const float* weights;  // (n_rows,)
  const float* coefficients;  // [n_rows][GROUP], or null
  float* products;       // [n_rows][group][GROUP]
  float* sums;           // [group][n_features][GROUP], or null
};

// Constants of a matrix unit
constexpr int TILE = 16;        // windows of a tile, and kernels
constexpr int64_t STEP = 32;    // numbers of each of them in a tile
constexpr int64_t N_TERMS = 3;  // of a weight

// The code for an instruction set, which tile.cpp provides
struct Code {
  int64_t vector_bytes;
  int64_t positions;  // number of windows of a tile
  int64_t tile_windows;  // number of windows of two tiles of a matrix unit; 0: there is none
  void (*compute)(const Layer*, const Band*, const Call*);
  void (*multiply_rows)(const Rows*);
};

#define CODE_(level) code_##level
#define CODE(level) CODE_(level)

#endif
