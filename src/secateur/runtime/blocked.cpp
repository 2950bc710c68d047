// Convolutional networks over activations in blocks of 16 channels (nChw16c): dense and depthwise convolutions,
// pooling, sums and scales. A depthwise convolution reads the taps that a block of 16 channels keeps, and no others.
//
// A program is a list of operations between buffers. With as many images as threads, every thread takes whole images;
// with fewer, the threads share each operation out and wait for each other. From `split` on, operations read pooled
// numbers, and all images go through them at once, as the pixels of one row.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

typedef float V __attribute__((vector_size(64)));              // 16 channels
typedef float U __attribute__((vector_size(64), aligned(4)));  // the same, anywhere in memory
typedef int32_t I __attribute__((vector_size(64)));

#ifdef __AVX512F__
constexpr int MOST = 28;  // sums that stay in registers
#else
constexpr int MOST = 6;
#endif
constexpr int LONGEST = MOST < 14 ? MOST : 14;  // pixels of a tile
constexpr int64_t TAPS = 1024;                   // of one kernel, at most

// offset: of the image's first number. inner: channels that stand together. top, left: zeros before the first row and
// column; ph, pw: rows and columns with zeros. tail: kept for all images at once.
struct Buffer {
  int64_t offset, blocks, inner, h, w, top, left, ph, pw, tail;
};
struct Op {
  int64_t kind, in, out, other, act, kh, kw, sh, sw, dh, dw, top, left, weight, bias, taps;
};
enum { CONV, DEPTHWISE, POOL, SCALE, ADD };

struct Program {
  const Op* ops;
  int64_t count, split;
  const Buffer* buffers;
  int64_t many;
  const float* data;
  const int64_t* table;
};
struct Run {
  const Program& program;
  const std::vector<Buffer>& buffers;
  float* tail;
  int64_t images;
};
struct Place {  // of a pixel, and steps in floats to the next block, row and pixel
  float* at;
  int64_t block, row, pixel;
};

static inline V splat(float x) { return V{} + x; }
static inline V least(V limit, V x) { return limit < x ? limit : x; }  // what is no number stays so
static inline V most(V limit, V x) { return limit > x ? limit : x; }

// e^x to 2 units in the last place: 2^n e^r, with r up to ln 2 / 2, by its series.
static inline V exponential(V x) {
  x = least(splat(88.f), most(splat(-87.f), x));
  V half = x * splat(1.44269504f);
  I n = __builtin_convertvector(half + (half < V{} ? splat(-0.5f) : splat(0.5f)), I);
  V whole = __builtin_convertvector(n, V);
  V r = x - whole * splat(0.693359375f) + whole * splat(2.12194440e-4f);
  V sum = splat(1.f / 5040);
  for (float c : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) sum = sum * r + splat(c);
  I bits = (n + 127) << 23;
  V power;
  memcpy(&power, &bits, sizeof power);
  return sum * power;
}

static inline V activated(V x, int64_t kind) {
  const V zero{}, one = splat(1.f), six = splat(6.f);
  switch (kind) {
    case 1: return most(zero, x);
    case 2: return least(six, most(zero, x));
    case 3: return x * least(six, most(zero, x + splat(3.f))) * splat(1.f / 6);  // hardswish
    case 4: return least(six, most(zero, x + splat(3.f))) * splat(1.f / 6);      // hardsigmoid
    case 5: return one / (one + exponential(-x));                                // sigmoid
    case 6: return x / (one + exponential(-x));                                  // silu
  }
  return x;
}

// The pixel of a buffer's first row and column, or of `top` rows and `left` columns of zeros before it.
static Place place(const Run& run, float* room, int64_t which, int64_t top = 0, int64_t left = 0) {
  const Buffer& b = run.buffers[which];
  const int64_t row = b.pw * b.inner;
  float* base = (b.tail ? run.tail : room) + b.offset;
  return {base + (b.top - top) * row + (b.left - left) * b.inner, b.ph * row, row, b.inner};
}

static void part(int64_t count, int64_t who, int64_t of, int64_t& from, int64_t& to) {
  from = count * who / of;
  to = count * (who + 1) / of;
}

// Pixels of a tile: rows are cut into as few and as equal tiles as registers allow.
static int64_t tile_of(int64_t w) {
  const int64_t tiles = (w + LONGEST - 1) / LONGEST;
  return (w + tiles - 1) / tiles;
}

// R pixels by B blocks of 16 outputs: sums stay in registers over all inputs and taps.
template <int R, int B>
static void tile(const Op& op, const float* x, const Place& from, int64_t blocks, const float* w, int64_t apart,
                 const float* bias, float* y, const Place& to, const float* other, const Place& more) {
  V sums[B][R];
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++) sums[b][r] = *(const U*)(bias + 16 * b);
  const int64_t step = op.sw * from.pixel;
  for (int64_t ky = 0; ky < op.kh; ky++)
    for (int64_t kx = 0; kx < op.kw; kx++) {
      const float* at = x + ky * op.dh * from.row + kx * op.dw * from.pixel;
      for (int64_t c = 0; c < blocks; c++, at += from.block)
        for (int64_t i = 0; i < from.pixel; i++, w += 16) {
          V k[B];
          for (int b = 0; b < B; b++) k[b] = *(const U*)(w + b * apart);
#pragma GCC unroll 14
          for (int r = 0; r < R; r++) {
            const V value = splat(at[r * step + i]);
            for (int b = 0; b < B; b++) sums[b][r] += value * k[b];
          }
        }
    }
  for (int b = 0; b < B; b++)
    for (int r = 0; r < R; r++) {
      V sum = sums[b][r];
      if (other) sum += *(const U*)(other + b * more.block + r * 16);
      *(U*)(y + b * to.block + r * 16) = activated(sum, op.act);
    }
}

typedef void (*Tile)(const Op&, const float*, const Place&, int64_t, const float*, int64_t, const float*, float*,
                     const Place&, const float*, const Place&);
template <int R, int B>
static constexpr Tile pick() {
  if constexpr (R * B <= MOST) return tile<R, B>;
  return nullptr;
}
#define ROW(R) {pick<R, 1>(), pick<R, 2>(), pick<R, 3>(), pick<R, 4>()}
static const Tile TILES[15][4] = {{},     ROW(1), ROW(2), ROW(3),  ROW(4),  ROW(5),  ROW(6), ROW(7),
                                  ROW(8), ROW(9), ROW(10), ROW(11), ROW(12), ROW(13), ROW(14)};

static void convolve(const Run& run, const Op& op, float* room, int64_t who, int64_t of) {
  const Buffer &in = run.buffers[op.in], &out = run.buffers[op.out];
  const Place from = place(run, room, op.in, op.top, op.left), to = place(run, room, op.out);
  const Place more = op.other < 0 ? to : place(run, room, op.other);
  int64_t h = out.h, w = out.w;
  bool flat = op.kh * op.kw * op.sh * op.sw == 1 && in.pw == in.w && out.pw == out.w;  // one long row
  if (flat && (op.other < 0 || run.buffers[op.other].pw == w)) w *= h, h = 1;
  const int64_t size = tile_of(w), group = std::min<int64_t>(4, std::max<int64_t>(1, MOST / size));
  const int64_t tiles = (w + size - 1) / size, groups = (out.blocks + group - 1) / group;
  const int64_t apart = op.kh * op.kw * in.blocks * in.inner * 16;
  int64_t g0 = 0, g1 = groups, t0 = 0, t1 = h * tiles;
  if (t1 >= 16 * of || groups < of)
    part(h * tiles, who, of, t0, t1);  // many pixels: each thread reads all weights
  else
    part(groups, who, of, g0, g1);
  for (int64_t g = g0; g < g1; g++) {
    const int64_t b = g * group, many = std::min(group, out.blocks - b);
    const float *weight = run.program.data + op.weight + b * apart, *bias = run.program.data + op.bias + b * 16;
    for (int64_t t = t0; t < t1; t++) {
      const int64_t y = t / tiles, x = t % tiles * size, n = std::min(size, w - x);
      const float* other = op.other < 0 ? nullptr : more.at + b * more.block + y * more.row + x * 16;
      TILES[n][many - 1](op, from.at + y * op.sh * from.row + x * op.sw * from.pixel, from, in.blocks, weight, apart,
                         bias, to.at + b * to.block + y * to.row + x * 16, to, other, more);
    }
  }
}

// R pixels of one block of a depthwise convolution.
template <int R>
static void strip(const float* x, int64_t step, const int64_t* taps, int64_t count, const float* w, V bias, float* y,
                  int64_t act) {
  V sums[R];
  for (int r = 0; r < R; r++) sums[r] = bias;
  for (int64_t t = 0; t < count; t++) {
    const V k = *(const U*)(w + 16 * t);
    const float* at = x + taps[t];
#pragma GCC unroll 14
    for (int r = 0; r < R; r++) sums[r] += k * *(const U*)(at + r * step);
  }
  for (int r = 0; r < R; r++) *(U*)(y + 16 * r) = activated(sums[r], act);
}

typedef void (*Strip)(const float*, int64_t, const int64_t*, int64_t, const float*, V, float*, int64_t);
template <int R>
static constexpr Strip one() {
  if constexpr (R <= LONGEST) return strip<R>;
  return nullptr;
}
static const Strip STRIPS[15] = {nullptr,  one<1>(), one<2>(),  one<3>(),  one<4>(),  one<5>(),  one<6>(), one<7>(),
                                 one<8>(), one<9>(), one<10>(), one<11>(), one<12>(), one<13>(), one<14>()};

// The table holds first tap and count for every block, then the places `y * kw + x` of all taps.
static void depthwise(const Run& run, const Op& op, float* room, int64_t who, int64_t of) {
  const Buffer& out = run.buffers[op.out];
  const Place from = place(run, room, op.in, op.top, op.left), to = place(run, room, op.out);
  const int64_t *spans = run.program.table + op.taps, *places = spans + 2 * out.blocks;
  int64_t b0 = 0, b1 = out.blocks, y0 = 0, y1 = out.h, offsets[TAPS];
  if (out.blocks >= 4 * of)
    part(out.blocks, who, of, b0, b1);
  else
    part(out.h, who, of, y0, y1);
  const int64_t size = tile_of(out.w);
  for (int64_t b = b0; b < b1; b++) {
    const int64_t first = spans[2 * b], count = spans[2 * b + 1];
    for (int64_t t = 0; t < count; t++) {
      const int64_t tap = places[first + t];
      offsets[t] = tap / op.kw * op.dh * from.row + tap % op.kw * op.dw * 16;
    }
    const V bias = *(const U*)(run.program.data + op.bias + 16 * b);
    const float* weight = run.program.data + op.weight + 16 * first;
    for (int64_t y = y0; y < y1; y++)
      for (int64_t x = 0; x < out.w; x += size)
        STRIPS[std::min(size, out.w - x)](from.at + b * from.block + y * op.sh * from.row + x * op.sw * 16,
                                          op.sw * 16, offsets, count, weight, bias,
                                          to.at + b * to.block + y * to.row + x * 16, op.act);
  }
}

// The mean of every channel; of all images side by side where the next operations take them so.
static void pool(const Run& run, const Op& op, float* room, int64_t image, int64_t who, int64_t of) {
  const Buffer &in = run.buffers[op.in], &out = run.buffers[op.out];
  const Place from = place(run, room, op.in), to = place(run, room, op.out);
  int64_t b0, b1;
  part(out.blocks, who, of, b0, b1);
  for (int64_t b = b0; b < b1; b++) {
    V sum{};
    for (int64_t y = 0; y < in.h; y++)
      for (int64_t x = 0; x < in.w; x++) sum += *(const U*)(from.at + b * from.block + y * from.row + x * 16);
    *(U*)(to.at + b * to.block + (out.tail ? image * 16 : 0)) = activated(sum * splat(1.f / (in.h * in.w)), op.act);
  }
}

// A sum of two tensors, a tensor alone, or a tensor times a number for each of its channels; then the activation.
static void combine(const Run& run, const Op& op, float* room, int64_t who, int64_t of) {
  const Buffer& out = run.buffers[op.out];
  const Place from = place(run, room, op.in), to = place(run, room, op.out);
  const Place more = op.other < 0 ? from : place(run, room, op.other);
  const bool each = op.kind == ADD || run.buffers[op.other].h * run.buffers[op.other].w == out.h * out.w;
  int64_t r0, r1;
  part(out.blocks * out.h, who, of, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t b = r / out.h, y = r % out.h;
    const float *one = from.at + b * from.block + y * from.row, *two = more.at + b * more.block;
    if (each) two += y * more.row;
    float* at = to.at + b * to.block + y * to.row;
    for (int64_t x = 0; x < out.w; x++) {
      V value = *(const U*)(one + 16 * x);
      if (op.other >= 0) {
        const V second = *(const U*)(two + (each ? 16 * x : 0));
        value = op.kind == ADD ? value + second : value * second;
      }
      *(U*)(at + 16 * x) = activated(value, op.act);
    }
  }
}

// Buffers share memory with others, so the zeros around one are written anew.
static void border(const Run& run, int64_t which, float* room, int64_t who, int64_t of) {
  const Buffer& b = run.buffers[which];
  if (b.ph == b.h && b.pw == b.w) return;
  int64_t r0, r1;
  part(b.blocks * b.ph, who, of, r0, r1);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t y = r % b.ph - b.top;
    float* row = room + b.offset + r * b.pw * b.inner;
    const int64_t whole = b.pw * b.inner, left = b.left * b.inner, right = (b.left + b.w) * b.inner;
    if (y < 0 || y >= b.h) {
      memset(row, 0, whole * sizeof(float));
    } else {
      memset(row, 0, left * sizeof(float));
      memset(row + right, 0, (whole - right) * sizeof(float));
    }
  }
}

static void step(const Run& run, const Op& op, float* room, int64_t image, int64_t who, int64_t of) {
  switch (op.kind) {
    case CONV: convolve(run, op, room, who, of); break;
    case DEPTHWISE: depthwise(run, op, room, who, of); break;
    case POOL: pool(run, op, room, image, who, of); break;
    default: combine(run, op, room, who, of);
  }
  border(run, op.out, room, who, of);
}

// One image `[channels, h, w]` into the first buffer.
static void read(const Run& run, const float* x, int64_t channels, float* room, int64_t who, int64_t of) {
  const Buffer& b = run.buffers[0];
  const Place to = place(run, room, 0);
  int64_t y0, y1;
  part(b.h, who, of, y0, y1);
  for (int64_t y = y0; y < y1; y++)
    for (int64_t block = 0; block < b.blocks; block++) {
      const int64_t first = block * b.inner, there = std::min(b.inner, channels - first);
      float* at = to.at + block * to.block + y * to.row;
      const float* from = x + (first * b.h + y) * b.w;
      for (int64_t k = 0; k < b.w; k++, at += b.inner)  // pixel by pixel: writes stand one after another
        for (int64_t c = 0; c < b.inner; c++) at[c] = c < there ? from[c * b.h * b.w + k] : 0.f;
    }
  border(run, 0, room, who, of);
}

// Threads that wait for each other; after some turns in vain a thread lets others run.
class Barrier {
 public:
  explicit Barrier(int64_t of) : left(of), of(of) {}
  void wait() {
    const int now = turn.load();
    if (left.fetch_sub(1) == 1) {
      left = of;
      turn++;
      return;
    }
    for (int i = 0; turn.load() == now; i++)
      if (i > 2000) std::this_thread::yield();
  }

 private:
  std::atomic<int64_t> left;
  std::atomic<int> turn{0};
  int64_t of;
};

typedef std::chrono::steady_clock Clock;

// x: [images, channels, h, w]. rooms: [threads, room]; tail: what `tail` buffers need, times images. spent: seconds
// that the first thread is in each operation, waiting included, are added there; or null.
extern "C" void run_program(const Program* program, const float* x, int64_t images, int64_t channels, float* rooms,
                            int64_t room, float* tail, int64_t threads, double* spent) {
  std::vector<Buffer> buffers(program->buffers, program->buffers + program->many);
  for (Buffer& b : buffers)
    if (b.tail) b.w = b.pw = images, b.offset *= images;
  const Run run{*program, buffers, tail, images};
  const int64_t size = channels * buffers[0].h * buffers[0].w;
  const bool apart = images >= threads;  // every thread its own images
  Barrier barrier(threads);
  const auto work = [&](int64_t who) {
    const bool timed = spent && who == 0;
    Clock::time_point start = timed ? Clock::now() : Clock::time_point();
    const auto told = [&](int64_t k) {
      if (!timed) return;
      const Clock::time_point now = Clock::now();
      if (k >= 0) spent[k] += std::chrono::duration<double>(now - start).count();
      start = now;
    };
    const int64_t me = apart ? 0 : who, of = apart ? 1 : threads;
    float* mine = rooms + (apart ? who : 0) * room;
    for (int64_t image = apart ? who : 0; image < images; image += apart ? threads : 1) {
      read(run, x + image * size, channels, mine, me, of);
      if (!apart) barrier.wait();
      told(-1);
      for (int64_t k = 0; k < program->split; k++) {
        step(run, program->ops[k], mine, image, me, of);
        if (!apart) barrier.wait();
        told(k);
      }
    }
    barrier.wait();
    told(-1);
    for (int64_t k = program->split; k < program->count; k++) {
      step(run, program->ops[k], rooms, 0, who, threads);
      barrier.wait();
      told(k);
    }
  };
  std::vector<std::thread> others;
  for (int64_t t = 1; t < threads; t++) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();
}
