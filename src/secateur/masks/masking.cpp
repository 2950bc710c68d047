// Soft n:m masks of frozen weights: forward, backward, and the step of Adam on their logits.
//
// Logits stand as [candidates][blocks], weights as [blocks][m]. The noise of a logit is a hash of its
// place and a key, so that the backward pass draws it again instead of keeping it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 16;  // blocks worked on at once: one AVX-512 register, two of AVX2
constexpr int MOST = 70;   // candidates of a block
constexpr int WIDEST = 70; // weights of a block

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline uint32_t hashed(uint32_t place, uint32_t low, uint32_t high) {
    uint32_t x = place * 0x9E3779B9u + low;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x += high;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    x *= 0x9E3779B1u;
    x ^= x >> 15;
    return x;
}

// ln x for normal x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), and a polynomial in m - 1 that is exact at 1.
inline float logarithm(float x) {
    const uint32_t bits = as_bits(x);
    const uint32_t shifted = bits - 0x3F3504F3u;  // sqrt(1/2)
    const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
    const float y = as_float(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * y - 1.1514610310e-1f;
    p = p * y + 1.1676998740e-1f;
    p = p * y - 1.2420140846e-1f;
    p = p * y + 1.4249322787e-1f;
    p = p * y - 1.6668057665e-1f;
    p = p * y + 2.0000714765e-1f;
    p = p * y - 2.4999993993e-1f;
    p = p * y + 3.3333331174e-1f;
    const float square = y * y;
    return y + (p * y * square - 0.5f * square) + static_cast<float>(exponent) * 0.693147180559945f;
}

// e^x for x <= 0; below -87 it is 0.
inline float exponential(float x) {
    const float bounded = std::max(x, -87.0f);
    const float scaled = std::floor(bounded * 1.44269504088896341f + 0.5f);
    const float rest = (bounded - scaled * 0.693359375f) + scaled * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    const float value = p * rest * rest + rest + 1.0f;
    const uint32_t power = static_cast<uint32_t>(static_cast<int32_t>(scaled) + 127) << 23;
    return x < -87.0f ? 0.0f : value * as_float(power);
}

inline float of_half(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }

inline uint16_t to_half(float value) {  // bfloat16, to the nearest, ties to even
    const uint32_t bits = as_bits(value);
    return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

struct Sampling {
    int64_t blocks;
    int candidates, m, kept;
    const uint8_t* members;  // [candidates][kept]: the places that a candidate keeps
    uint32_t low, high;      // key of the noise
    float sharpness, temperature;
};

// Probabilities of LANES blocks from `first`: softmax over candidates of (sharpness * logit + noise) / temperature.
inline void probabilities(const Sampling& s, const float* logits, int64_t first, int count, float (*y)[LANES]) {
    float top[LANES], sum[LANES] = {};
    std::fill(top, top + LANES, -3e38f);
    const float cooled = 1.0f / s.temperature;
    for (int i = 0; i < s.candidates; ++i) {
        const int64_t start = static_cast<int64_t>(i) * s.blocks + first;
        float own[LANES] = {};
        std::copy(logits + start, logits + start + count, own);
        const uint32_t place = static_cast<uint32_t>(start);
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
            const uint32_t drawn = hashed(place + static_cast<uint32_t>(lane), s.low, s.high);
            const float uniform = (static_cast<float>(static_cast<int32_t>(drawn >> 9)) + 0.5f) * (1.0f / 8388608.0f);
            const float noise = -logarithm(-logarithm(uniform));
            const float z = (s.sharpness * own[lane] + noise) * cooled;
            y[i][lane] = z;
            top[lane] = z > top[lane] ? z : top[lane];
        }
    }
    for (int i = 0; i < s.candidates; ++i)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
            y[i][lane] = exponential(y[i][lane] - top[lane]);
            sum[lane] += y[i][lane];
        }
    for (int lane = 0; lane < LANES; ++lane) sum[lane] = 1.0f / sum[lane];
    for (int i = 0; i < s.candidates; ++i)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) y[i][lane] *= sum[lane];
}

inline void masks(const Sampling& s, const float (*y)[LANES], float (*mask)[LANES]) {
    for (int j = 0; j < s.m; ++j)
        for (int lane = 0; lane < LANES; ++lane) mask[j][lane] = 0.0f;
    for (int i = 0; i < s.candidates; ++i)
        for (int k = 0; k < s.kept; ++k) {
            float* place = mask[s.members[i * s.kept + k]];
#pragma omp simd
            for (int lane = 0; lane < LANES; ++lane) place[lane] += y[i][lane];
        }
}

// The one of every block with the highest probability, as 0 and 1.
inline void harden(const Sampling& s, float (*y)[LANES]) {
    for (int lane = 0; lane < LANES; ++lane) {
        int best = 0;
        for (int i = 1; i < s.candidates; ++i)
            if (y[i][lane] > y[best][lane]) best = i;
        for (int i = 0; i < s.candidates; ++i) y[i][lane] = i == best ? 1.0f : 0.0f;
    }
}

template <typename T> inline float loaded(T value);
template <> inline float loaded<float>(float value) { return value; }
template <> inline float loaded<uint16_t>(uint16_t value) { return of_half(value); }
template <typename T> inline T kept_as(float value);
template <> inline float kept_as<float>(float value) { return value; }
template <> inline uint16_t kept_as<uint16_t>(float value) { return to_half(value); }

template <typename W, typename T>
void forward(const Sampling& s, const float* logits, const W* weight, T* masked, int hard, int threads) {
    const int64_t chunks = (s.blocks + LANES - 1) / LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        float y[MOST][LANES], mask[WIDEST][LANES];
        const int64_t first = chunk * LANES;
        const int count = static_cast<int>(std::min<int64_t>(LANES, s.blocks - first));
        probabilities(s, logits, first, count, y);
        if (hard) harden(s, y);
        masks(s, y, mask);
        const W* from = weight + first * s.m;
        T* to = masked + first * s.m;
        for (int j = 0; j < s.m; ++j)
            for (int lane = 0; lane < count; ++lane)
                to[lane * s.m + j] = kept_as<T>(loaded(from[lane * s.m + j]) * mask[j][lane]);
    }
}

template <typename W, typename T>
void backward(const Sampling& s, const float* logits, const W* weight, const T* gradient, float* out, float pull,
              int threads) {
    const int64_t chunks = (s.blocks + LANES - 1) / LANES;
    const float scale = s.sharpness / s.temperature;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        float y[MOST][LANES], mask[WIDEST][LANES], back[WIDEST][LANES];
        const int64_t first = chunk * LANES;
        const int count = static_cast<int>(std::min<int64_t>(LANES, s.blocks - first));
        probabilities(s, logits, first, count, y);
        masks(s, y, mask);
        const W* from = weight + first * s.m;
        const T* slope = gradient + first * s.m;
        for (int j = 0; j < s.m; ++j) {
            for (int lane = count; lane < LANES; ++lane) back[j][lane] = 0.0f;
            for (int lane = 0; lane < count; ++lane) {
                const float w = loaded(from[lane * s.m + j]);
                back[j][lane] = w * (loaded(slope[lane * s.m + j]) - 2.0f * pull * w * mask[j][lane]);
            }
        }
        float mean[LANES] = {}, gain[MOST][LANES];
        for (int i = 0; i < s.candidates; ++i) {
#pragma omp simd
            for (int lane = 0; lane < LANES; ++lane) gain[i][lane] = 0.0f;
            for (int k = 0; k < s.kept; ++k) {
                const float* place = back[s.members[i * s.kept + k]];
#pragma omp simd
                for (int lane = 0; lane < LANES; ++lane) gain[i][lane] += place[lane];
            }
#pragma omp simd
            for (int lane = 0; lane < LANES; ++lane) mean[lane] += y[i][lane] * gain[i][lane];
        }
        for (int i = 0; i < s.candidates; ++i) {
            float* to = out + static_cast<int64_t>(i) * s.blocks + first;
            for (int lane = 0; lane < count; ++lane) to[lane] = scale * y[i][lane] * (gain[i][lane] - mean[lane]);
        }
    }
}

}  // namespace

extern "C" {

// weight and masked: kinds 0 float32, 1 bfloat16.
void mask_forward(int64_t blocks, int candidates, int m, int kept, const uint8_t* members, uint32_t low, uint32_t high,
                  float sharpness, float temperature, const float* logits, const void* weight, int weight_kind,
                  void* masked, int masked_kind, int hard, int threads) {
    const Sampling s{blocks, candidates, m, kept, members, low, high, sharpness, temperature};
    const float* wide = static_cast<const float*>(weight);
    const uint16_t* narrow = static_cast<const uint16_t*>(weight);
    if (weight_kind == 0 && masked_kind == 0) forward(s, logits, wide, static_cast<float*>(masked), hard, threads);
    if (weight_kind == 0 && masked_kind == 1) forward(s, logits, wide, static_cast<uint16_t*>(masked), hard, threads);
    if (weight_kind == 1 && masked_kind == 0) forward(s, logits, narrow, static_cast<float*>(masked), hard, threads);
    if (weight_kind == 1 && masked_kind == 1) forward(s, logits, narrow, static_cast<uint16_t*>(masked), hard, threads);
}

void mask_backward(int64_t blocks, int candidates, int m, int kept, const uint8_t* members, uint32_t low, uint32_t high,
                   float sharpness, float temperature, const float* logits, const void* weight, int weight_kind,
                   const void* gradient, int gradient_kind, float* out, float pull, int threads) {
    const Sampling s{blocks, candidates, m, kept, members, low, high, sharpness, temperature};
    const float* wide = static_cast<const float*>(weight);
    const uint16_t* narrow = static_cast<const uint16_t*>(weight);
    const float* slopes = static_cast<const float*>(gradient);
    const uint16_t* halves = static_cast<const uint16_t*>(gradient);
    if (weight_kind == 0 && gradient_kind == 0) backward(s, logits, wide, slopes, out, pull, threads);
    if (weight_kind == 0 && gradient_kind == 1) backward(s, logits, wide, halves, out, pull, threads);
    if (weight_kind == 1 && gradient_kind == 0) backward(s, logits, narrow, slopes, out, pull, threads);
    if (weight_kind == 1 && gradient_kind == 1) backward(s, logits, narrow, halves, out, pull, threads);
}

// One step of Adam with moments in bfloat16; first_scale and second_scale undo their bias towards zero.
void adam_step(int64_t count, float* value, const float* gradient, uint16_t* first, uint16_t* second, float rate,
               float beta1, float beta2, float first_scale, float second_scale, float epsilon, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) {
        const float g = gradient[i];
        const uint16_t m = to_half(beta1 * of_half(first[i]) + (1.0f - beta1) * g);
        const uint16_t v = to_half(beta2 * of_half(second[i]) + (1.0f - beta2) * g * g);
        first[i] = m;
        second[i] = v;
        value[i] -= rate * of_half(m) * first_scale / (std::sqrt(of_half(v) * second_scale) + epsilon);
    }
}
}
