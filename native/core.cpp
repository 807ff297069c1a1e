// The exported functions, which choose the code for an instruction set.

#include "core.h"

namespace {

struct Level {
  const char* name;
  const InstructionSet* code;
};

}  // namespace

#if defined(__x86_64__)
extern const InstructionSet instruction_set_baseline;
#ifdef SKLEARN_CONV_HAS_AVX2
extern const InstructionSet instruction_set_avx2;
#endif
#ifdef SKLEARN_CONV_HAS_AVX512
extern const InstructionSet instruction_set_avx512;
#endif
#elif defined(__aarch64__)
extern const InstructionSet instruction_set_neon;
#else
extern const InstructionSet instruction_set_baseline;
#endif

namespace {

// From the best one to the one that every processor has
const Level LEVELS[] = {
#if defined(__x86_64__)
#ifdef SKLEARN_CONV_HAS_AVX512
    {"AVX-512", &instruction_set_avx512},
#endif
#ifdef SKLEARN_CONV_HAS_AVX2
    {"AVX2", &instruction_set_avx2},
#endif
    {"SSE2", &instruction_set_baseline},
#elif defined(__aarch64__)
    {"NEON", &instruction_set_neon},
#else
    {"baseline", &instruction_set_baseline},
#endif
};

constexpr int64_t N_LEVELS = sizeof(LEVELS) / sizeof(LEVELS[0]);

}  // namespace

SKLEARN_CONV_EXPORT int64_t sklearn_conv_interface() { return SKLEARN_CONV_INTERFACE; }

SKLEARN_CONV_EXPORT int64_t sklearn_conv_n_levels() { return N_LEVELS; }

SKLEARN_CONV_EXPORT const char* sklearn_conv_level_name(int64_t level) { return LEVELS[level].name; }

// Whether this processor, and the system, can run the code of a level
SKLEARN_CONV_EXPORT int64_t sklearn_conv_level_runs(int64_t level) {
#if defined(__x86_64__)
  const char first = LEVELS[level].name[0], last = LEVELS[level].name[3];
  if (first == 'S') return 1;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  return last == '2' || (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
#else
  return level < N_LEVELS;
#endif
}

SKLEARN_CONV_EXPORT int64_t sklearn_conv_vector_bytes(int64_t level) { return LEVELS[level].code->vector_bytes; }

SKLEARN_CONV_EXPORT int64_t sklearn_conv_positions(int64_t level) { return LEVELS[level].code->positions; }

// Return 0, or 1 if a number in the structures is unknown or too large: the library is older than its
// caller
SKLEARN_CONV_EXPORT int64_t sklearn_conv_compute(int64_t level, const Layer* layer, const Band* band, const Call* call) {
  if (call->pixel < 0 || call->pixel >= N_PIXELS) return 1;
  if (call->n_tiles > MAX_TILES || layer->n_outputs > MAX_OUTPUTS) return 1;
  for (int64_t i = 0; i < layer->n_outputs; i++)
    if (layer->outputs[i].function < 0 || layer->outputs[i].function >= N_FUNCTIONS) return 1;
  for (int64_t i = 0; i < layer->n_poolings; i++)
    if (layer->poolings[i] < 0 || layer->poolings[i] >= N_POOLINGS) return 1;
  LEVELS[level].code->compute(layer, band, call);
  return 0;
}
