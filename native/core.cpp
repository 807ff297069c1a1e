// The exported functions: the instruction sets, and the names of the choices.

#include "core.h"

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
