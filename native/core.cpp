// The exported functions: the instruction sets, and the names of the choices.

#include "core.h"

#include <string.h>

#ifdef SKLEARN_CONV_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const Code CODE(amx), CODE(avx512), CODE(avx2), CODE(sse2), CODE(neon), CODE(baseline);

namespace {

#define HAS(feature) __builtin_cpu_supports(feature)
#define HAS_AVX512 (HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl") && HAS("fma"))

#ifdef SKLEARN_CONV_HAS_AMX
bool has_amx() { return HAS_AVX512 && HAS("avx512bf16") && HAS("amx-tile") && HAS("amx-bf16"); }

// Ask Linux for the permission of this process to use the registers of AMX
bool may_use_amx() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

struct Level {
  const char* name;
  const Code* code;
  bool (*runs)();  // whether this processor, and the system, can run the code
};

// Instruction sets that CMakeLists.txt compiles, from the best one to the one that every processor has
const Level LEVELS[] = {
#ifdef SKLEARN_CONV_HAS_AMX
    {"AMX", &CODE(amx), [] { return has_amx() && may_use_amx(); }},
#endif
#ifdef SKLEARN_CONV_HAS_AVX512
    {"AVX-512", &CODE(avx512), [] { return HAS_AVX512; }},
#endif
#ifdef SKLEARN_CONV_HAS_AVX2
    {"AVX2", &CODE(avx2), [] { return HAS("avx2") && HAS("fma"); }},
#endif
#ifdef SKLEARN_CONV_HAS_SSE2
    {"SSE2", &CODE(sse2), [] { return true; }},
#endif
#ifdef SKLEARN_CONV_HAS_NEON
    {"NEON", &CODE(neon), [] { return true; }},
#endif
#ifdef SKLEARN_CONV_HAS_BASELINE
    {"baseline", &CODE(baseline), [] { return true; }},
#endif
};

// Round a number to bfloat16, and return the bits; the rest remains
uint16_t take_term(float& number) {
  uint32_t bits;
  memcpy(&bits, &number, 4);
  bits += 0x7fff + (bits >> 16 & 1);
  bits &= 0xffff0000;
  float term;
  memcpy(&term, &bits, 4);
  number -= term;
  return bits >> 16;
}

}  // namespace

SKLEARN_CONV_EXPORT int64_t sklearn_conv_interface() { return SKLEARN_CONV_INTERFACE; }

// Return the name of an instruction set that this processor has, the best one first, and its code; null
// if there are no more
SKLEARN_CONV_EXPORT const char* sklearn_conv_level(int64_t number, Code* code) {
  for (const Level& level : LEVELS)
    if (level.runs() && number-- == 0) {
      *code = *level.code;
      return level.name;
    }
  return nullptr;
}

// Return whether the processor has a matrix unit that the system does not let this process use
SKLEARN_CONV_EXPORT int64_t sklearn_conv_is_refused() {
#ifdef SKLEARN_CONV_HAS_AMX
  return has_amx() && !may_use_amx();
#else
  return false;
#endif
}

// Names in the tables of core.h, each followed by a space
#define NAME(name, ...) #name " "
SKLEARN_CONV_EXPORT const char* sklearn_conv_functions() { return FUNCTIONS(NAME); }
SKLEARN_CONV_EXPORT const char* sklearn_conv_poolings() { return POOLINGS(NAME); }
SKLEARN_CONV_EXPORT const char* sklearn_conv_pixels() { return PIXELS(NAME); }

// Write the weights of k kernels, (n, k), as `tiles` of struct Call; k is a multiple of TILE. The buffer is 0.
SKLEARN_CONV_EXPORT void sklearn_conv_pack_tiles(const float* weights, int64_t n, int64_t k, int64_t pixel_terms,
                                                 int64_t n_steps, uint16_t* tiles) {
  for (int64_t first = 0; first < k; first += 2 * TILE) {
    const int64_t width = k - first < 2 * TILE ? TILE : 2 * TILE, n_rest = n - n_steps * STEP;
    int64_t n_products = 0;
    for (int64_t i = 0; i < width; i++) {
      const auto put = [&](int64_t step, int64_t place, uint16_t term) {
        uint16_t* const tile = tiles + (step * width + i / TILE * TILE) * STEP;
        tile[(place / 2 * TILE + i % TILE) * 2 + place % 2] = term;
      };
      for (int64_t j = 0; j < n; j++) {
        uint16_t terms[N_TERMS];
        float rest = weights[j * k + first + i];
        for (uint16_t& term : terms) term = take_term(rest);
        if (j < n_steps * STEP) {
          for (int64_t term = 0; term < N_TERMS; term++) put(j / STEP * N_TERMS + term, j % STEP, terms[term]);
          continue;
        }
        n_products = 0;
        for (int64_t pixel_term = 0; pixel_term < pixel_terms; pixel_term++)
          for (int64_t term = 0; term < N_TERMS - pixel_term; term++) {
            const int64_t place = n_products++ * n_rest + j % STEP;
            put(n_steps * N_TERMS + place / STEP, place % STEP, terms[term]);
          }
      }
    }
    tiles += (n_steps * N_TERMS + (n_products * n_rest + STEP - 1) / STEP) * width * STEP;
  }
}
