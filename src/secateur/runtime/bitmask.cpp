// Products of weights with zeros anywhere, stored as a mask bit a weight and the bfloat16 values that are kept.
//
// Sixteen rows stand in the lanes. For every input a tile has sixteen bits, a row each, and its kept values follow one
// another. They are spread over the lanes by the bits: by AVX-512's expand, or by a table of byte shuffles.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int ROWS = 16;
constexpr int MOST = 8;  // vectors at once

#if defined(__AVX2__) && defined(__FMA__)
struct Shuffles {  // where the bytes of eight values come from, by the eight bits that say which lanes have one
    alignas(16) uint8_t bytes[256][16];
    Shuffles() {
        for (int mask = 0; mask < 256; ++mask) {
            int place = 0;
            for (int lane = 0; lane < 8; ++lane) {
                const bool has = mask >> lane & 1;
                bytes[mask][2 * lane] = has ? static_cast<uint8_t>(2 * place) : 0x80;  // 0x80 gives a zero
                bytes[mask][2 * lane + 1] = has ? static_cast<uint8_t>(2 * place + 1) : 0x80;
                place += has;
            }
        }
    }
};
const Shuffles SHUFFLES;

inline __m128i spread(const uint16_t* values, int mask) {
    const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(SHUFFLES.bytes[mask]));
    return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)), order);
}
#endif

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)
constexpr int KIND = 512;

inline __m512 lanes(const uint16_t* values, uint32_t mask) {
#if defined(__AVX512VBMI2__)
    const __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    const __m256i both = _mm256_maskz_expand_epi16(static_cast<__mmask16>(mask), kept);
#else
    const int low = mask & 0xFF;
    const __m256i both = _mm256_set_m128i(spread(values + __builtin_popcount(low), mask >> 8), spread(values, low));
#endif
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(both), 16));
}

template <int BATCH>
inline void tile_row(const uint16_t* values, const uint16_t* masks, const float* x, int64_t inputs, float* out) {
    __m512 even[BATCH], odd[BATCH];
    for (int b = 0; b < BATCH; ++b) even[b] = odd[b] = _mm512_setzero_ps();
    int64_t input = 0;
    for (; input + 1 < inputs; input += 2) {  // two sums, so that one does not wait for the other
        const uint32_t first = masks[input], second = masks[input + 1];
        const uint16_t* next = values + __builtin_popcount(first);
        const __m512 one = lanes(values, first), two = lanes(next, second);
        values = next + __builtin_popcount(second);
        for (int b = 0; b < BATCH; ++b) {
            even[b] = _mm512_fmadd_ps(one, _mm512_set1_ps(x[b * inputs + input]), even[b]);
            odd[b] = _mm512_fmadd_ps(two, _mm512_set1_ps(x[b * inputs + input + 1]), odd[b]);
        }
    }
    if (input < inputs) {
        const __m512 one = lanes(values, masks[input]);
        for (int b = 0; b < BATCH; ++b) even[b] = _mm512_fmadd_ps(one, _mm512_set1_ps(x[b * inputs + input]), even[b]);
    }
    for (int b = 0; b < BATCH; ++b) _mm512_storeu_ps(out + b * ROWS, _mm512_add_ps(even[b], odd[b]));
}

#elif defined(__AVX2__) && defined(__FMA__)
constexpr int KIND = 256;

template <int BATCH>
inline void tile_row(const uint16_t* values, const uint16_t* masks, const float* x, int64_t inputs, float* out) {
    __m256 upper[BATCH], lower[BATCH];
    for (int b = 0; b < BATCH; ++b) upper[b] = lower[b] = _mm256_setzero_ps();
    for (int64_t input = 0; input < inputs; ++input) {
        const int low = masks[input] & 0xFF, high = masks[input] >> 8;
        const uint16_t* next = values + __builtin_popcount(low);
        const __m256 one = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(spread(values, low)), 16));
        const __m256 two = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(spread(next, high)), 16));
        values = next + __builtin_popcount(high);
        for (int b = 0; b < BATCH; ++b) {
            const __m256 factor = _mm256_set1_ps(x[b * inputs + input]);
            lower[b] = _mm256_fmadd_ps(one, factor, lower[b]);
            upper[b] = _mm256_fmadd_ps(two, factor, upper[b]);
        }
    }
    for (int b = 0; b < BATCH; ++b) {
        _mm256_storeu_ps(out + b * ROWS, lower[b]);
        _mm256_storeu_ps(out + b * ROWS + 8, upper[b]);
    }
}

#else
constexpr int KIND = 0;  // right, and not fast: callers take the dense product

template <int BATCH>
inline void tile_row(const uint16_t* values, const uint16_t* masks, const float* x, int64_t inputs, float* out) {
    std::fill(out, out + BATCH * ROWS, 0.0f);
    for (int64_t input = 0; input < inputs; ++input)
        for (int row = 0; row < ROWS; ++row) {
            if (!(masks[input] >> row & 1)) continue;
            const uint32_t bits = static_cast<uint32_t>(*values++) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            for (int b = 0; b < BATCH; ++b) out[b * ROWS + row] += value * x[b * inputs + input];
        }
}
#endif

template <int BATCH>
void product(const uint16_t* values, const uint16_t* masks, const int64_t* starts, const float* x, float* out,
             int64_t rows, int64_t inputs, int threads) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t tile = 0; tile < tiles; ++tile) {
        float sums[MOST * ROWS];
        tile_row<BATCH>(values + starts[tile], masks + tile * inputs, x, inputs, sums);
        const int64_t count = std::min<int64_t>(ROWS, rows - tile * ROWS);
        for (int b = 0; b < BATCH; ++b) std::memcpy(out + b * rows + tile * ROWS, sums + b * ROWS, 4 * count);
    }
}

}  // namespace

extern "C" {

// Width of the registers that are used: 512, 256, or 0 for plain code.
int bitmask_kind() { return KIND; }

// values end in sixteen spare ones, which are read and not used.
void bitmask_product(const uint16_t* values, const uint16_t* masks, const int64_t* starts, const float* x, float* out,
                     int64_t rows, int64_t inputs, int batch, int threads) {
    switch (batch) {
        case 1: return product<1>(values, masks, starts, x, out, rows, inputs, threads);
        case 2: return product<2>(values, masks, starts, x, out, rows, inputs, threads);
        case 3: return product<3>(values, masks, starts, x, out, rows, inputs, threads);
        case 4: return product<4>(values, masks, starts, x, out, rows, inputs, threads);
        case 5: return product<5>(values, masks, starts, x, out, rows, inputs, threads);
        case 6: return product<6>(values, masks, starts, x, out, rows, inputs, threads);
        case 7: return product<7>(values, masks, starts, x, out, rows, inputs, threads);
        case 8: return product<8>(values, masks, starts, x, out, rows, inputs, threads);
    }
}
}
