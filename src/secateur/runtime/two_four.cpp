// Products of packed 2:4 weights with a few vectors, and the dense bfloat16 loop they are compared with.
//
// Sixteen rows stand in the lanes. A tile is sixteen rows by four inputs: sixteen pairs of kept bfloat16 values
// (the first in the low half of 32 bits), and two words of sixteen 2-bit places. A lane takes its input out of four
// by its place, without a gather.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int ROWS = 16;
constexpr int MOST = 8;  // vectors at once

inline float wide(uint32_t high_half) {
    float value;
    std::memcpy(&value, &high_half, 4);
    return value;
}

#if defined(__AVX512F__)
constexpr int KIND = 512;

template <int BATCH>
inline void tile_row(const uint32_t* values, const uint32_t* places, const float* x, int64_t inputs, int64_t tiles,
                     float* out) {
    const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
    __m512 first[BATCH], second[BATCH];
    for (int b = 0; b < BATCH; ++b) first[b] = second[b] = _mm512_setzero_ps();
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const __m512i pair = _mm512_loadu_si512(values + tile * ROWS);
        const __m512i one = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(places[2 * tile])), shifts);
        const __m512i two = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(places[2 * tile + 1])), shifts);
        const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
        const __m512 top = _mm512_castsi512_ps(_mm512_and_si512(pair, high));
        for (int b = 0; b < BATCH; ++b) {
            const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(x + b * inputs + 4 * tile));
            first[b] = _mm512_fmadd_ps(low, _mm512_permutevar_ps(four, one), first[b]);
            second[b] = _mm512_fmadd_ps(top, _mm512_permutevar_ps(four, two), second[b]);
        }
    }
    for (int b = 0; b < BATCH; ++b) _mm512_storeu_ps(out + b * ROWS, _mm512_add_ps(first[b], second[b]));
}

template <int BATCH>
inline void dense_row(const uint32_t* values, const float* x, int64_t inputs, float* out) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
    __m512 first[BATCH], second[BATCH];
    for (int b = 0; b < BATCH; ++b) first[b] = second[b] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < inputs / 2; ++pair) {
        const __m512i both = _mm512_loadu_si512(values + pair * ROWS);
        const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        const __m512 top = _mm512_castsi512_ps(_mm512_and_si512(both, high));
        for (int b = 0; b < BATCH; ++b) {
            first[b] = _mm512_fmadd_ps(low, _mm512_set1_ps(x[b * inputs + 2 * pair]), first[b]);
            second[b] = _mm512_fmadd_ps(top, _mm512_set1_ps(x[b * inputs + 2 * pair + 1]), second[b]);
        }
    }
    for (int b = 0; b < BATCH; ++b) _mm512_storeu_ps(out + b * ROWS, _mm512_add_ps(first[b], second[b]));
}

#elif defined(__AVX2__) && defined(__FMA__)
constexpr int KIND = 256;

template <int BATCH>
inline void tile_row(const uint32_t* values, const uint32_t* places, const float* x, int64_t inputs, int64_t tiles,
                     float* out) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    for (int half = 0; half < 2; ++half) {  // eight rows at a time: their places are the lower or upper 16 bits
        const __m256i shifts = _mm256_add_epi32(_mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), _mm256_set1_epi32(16 * half));
        __m256 sum[BATCH];
        for (int b = 0; b < BATCH; ++b) sum[b] = _mm256_setzero_ps();
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const __m256i pair =
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + tile * ROWS + 8 * half));
            const __m256i one = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(places[2 * tile])), shifts);
            const __m256i two = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(places[2 * tile + 1])), shifts);
            const __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
            const __m256 top = _mm256_castsi256_ps(_mm256_and_si256(pair, high));
            for (int b = 0; b < BATCH; ++b) {
                const __m256 four = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(x + b * inputs + 4 * tile));
                sum[b] = _mm256_fmadd_ps(low, _mm256_permutevar_ps(four, one), sum[b]);
                sum[b] = _mm256_fmadd_ps(top, _mm256_permutevar_ps(four, two), sum[b]);
            }
        }
        for (int b = 0; b < BATCH; ++b) _mm256_storeu_ps(out + b * ROWS + 8 * half, sum[b]);
    }
}

template <int BATCH>
inline void dense_row(const uint32_t* values, const float* x, int64_t inputs, float* out) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    for (int half = 0; half < 2; ++half) {
        __m256 sum[BATCH];
        for (int b = 0; b < BATCH; ++b) sum[b] = _mm256_setzero_ps();
        for (int64_t pair = 0; pair < inputs / 2; ++pair) {
            const __m256i both =
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + pair * ROWS + 8 * half));
            const __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
            const __m256 top = _mm256_castsi256_ps(_mm256_and_si256(both, high));
            for (int b = 0; b < BATCH; ++b) {
                sum[b] = _mm256_fmadd_ps(low, _mm256_set1_ps(x[b * inputs + 2 * pair]), sum[b]);
                sum[b] = _mm256_fmadd_ps(top, _mm256_set1_ps(x[b * inputs + 2 * pair + 1]), sum[b]);
            }
        }
        for (int b = 0; b < BATCH; ++b) _mm256_storeu_ps(out + b * ROWS + 8 * half, sum[b]);
    }
}

#else
constexpr int KIND = 0;  // right, and not fast: callers take the dense product

template <int BATCH>
inline void tile_row(const uint32_t* values, const uint32_t* places, const float* x, int64_t inputs, int64_t tiles,
                     float* out) {
    std::fill(out, out + BATCH * ROWS, 0.0f);
    for (int64_t tile = 0; tile < tiles; ++tile)
        for (int row = 0; row < ROWS; ++row) {
            const uint32_t pair = values[tile * ROWS + row];
            const int one = (places[2 * tile] >> (2 * row)) & 3, two = (places[2 * tile + 1] >> (2 * row)) & 3;
            for (int b = 0; b < BATCH; ++b) {
                const float* four = x + b * inputs + 4 * tile;
                out[b * ROWS + row] += wide(pair << 16) * four[one] + wide(pair & 0xFFFF0000u) * four[two];
            }
        }
}

template <int BATCH>
inline void dense_row(const uint32_t* values, const float* x, int64_t inputs, float* out) {
    std::fill(out, out + BATCH * ROWS, 0.0f);
    for (int64_t pair = 0; pair < inputs / 2; ++pair)
        for (int row = 0; row < ROWS; ++row) {
            const uint32_t both = values[pair * ROWS + row];
            for (int b = 0; b < BATCH; ++b)
                out[b * ROWS + row] += wide(both << 16) * x[b * inputs + 2 * pair] +
                                       wide(both & 0xFFFF0000u) * x[b * inputs + 2 * pair + 1];
        }
}
#endif

template <typename Row>
void rows_of(int64_t rows, int batch, float* out, int threads, Row row_block) {
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t block = 0; block < blocks; ++block) {
        float sums[MOST * ROWS];
        row_block(block, sums);
        const int64_t count = std::min<int64_t>(ROWS, rows - block * ROWS);
        for (int b = 0; b < batch; ++b) std::memcpy(out + b * rows + block * ROWS, sums + b * ROWS, 4 * count);
    }
}

template <int BATCH>
void sparse(const uint32_t* values, const uint32_t* places, const float* x, float* out, int64_t rows, int64_t inputs,
            int threads) {
    const int64_t tiles = inputs / 4;
    rows_of(rows, BATCH, out, threads, [=](int64_t block, float* sums) {
        tile_row<BATCH>(values + block * tiles * ROWS, places + block * tiles * 2, x, inputs, tiles, sums);
    });
}

template <int BATCH>
void dense(const uint32_t* values, const float* x, float* out, int64_t rows, int64_t inputs, int threads) {
    rows_of(rows, BATCH, out, threads, [=](int64_t block, float* sums) {
        dense_row<BATCH>(values + block * (inputs / 2) * ROWS, x, inputs, sums);
    });
}

}  // namespace

extern "C" {

// Width of the registers that are used: 512, 256, or 0 for plain code.
int two_four_kind() { return KIND; }

void two_four_product(const uint32_t* values, const uint32_t* places, const float* x, float* out, int64_t rows,
                      int64_t inputs, int batch, int threads) {
    switch (batch) {
        case 1: return sparse<1>(values, places, x, out, rows, inputs, threads);
        case 2: return sparse<2>(values, places, x, out, rows, inputs, threads);
        case 3: return sparse<3>(values, places, x, out, rows, inputs, threads);
        case 4: return sparse<4>(values, places, x, out, rows, inputs, threads);
        case 5: return sparse<5>(values, places, x, out, rows, inputs, threads);
        case 6: return sparse<6>(values, places, x, out, rows, inputs, threads);
        case 7: return sparse<7>(values, places, x, out, rows, inputs, threads);
        case 8: return sparse<8>(values, places, x, out, rows, inputs, threads);
    }
}

void dense_product(const uint32_t* values, const float* x, float* out, int64_t rows, int64_t inputs, int batch,
                   int threads) {
    if (batch == 1) dense<1>(values, x, out, rows, inputs, threads);
    if (batch == 8) dense<8>(values, x, out, rows, inputs, threads);
}
}
