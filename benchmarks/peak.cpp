// Measure the peak of one core: independent multiply-adds in registers, in float or double.

#include <chrono>
#include <cstdio>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

template <class T>
double measure() {
  typedef T Vector __attribute__((vector_size(BYTES)));
  constexpr int chains = 12, steps = 400000;
  constexpr double operations = 2.0 * chains * steps * (BYTES / sizeof(T));
  double best = 0;
  for (int repeat = 0; repeat < 20; repeat++) {
    volatile T unknown = 1;  // The compiler must not compute the result.
    Vector sums[chains];
    for (int i = 0; i < chains; i++) sums[i] = Vector{} + T(i) + unknown;
    const Vector factor = Vector{} + T(0.9) * unknown, term = Vector{} + T(0.7) * unknown;
    const auto start = std::chrono::steady_clock::now();
    for (int step = 0; step < steps; step++)
#pragma GCC unroll 12
      for (int i = 0; i < chains; i++) sums[i] = sums[i] * factor + term;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    T total = 0;
    for (int i = 0; i < chains; i++) total += sums[i][0];
    volatile T used = total;
    (void)used;
    const double rate = operations / seconds.count() / 1e9;
    if (rate > best) best = rate;
  }
  return best;
}

int main() { std::printf("%.1f %.1f\n", measure<float>(), measure<double>()); }
