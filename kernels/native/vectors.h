// Vectors of the machine's own width in the compilers' portable form (GCC and Clang, any CPU).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t WordVec __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));

// bfloat16 is the upper half of a float
struct Bfloat16 {
    uint16_t bits;
};

template <typename To, typename From>
static inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float widen(float value) { return value; }
static inline float widen(Bfloat16 value) { return bits_of<float>(static_cast<uint32_t>(value.bits) << 16); }

static inline void narrow(float value, float *to) { *to = value; }
static inline void narrow(float value, Bfloat16 *to) {
    uint32_t bits = bits_of<uint32_t>(value);
    // to nearest, ties to even; a NaN stays one
    bool is_nan = value != value;
    to->bits = is_nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline Vec load(const float *from) {
    Vec value;
    memcpy(&value, from, sizeof value);
    return value;
}
static inline Vec load(const Bfloat16 *from) {
    HalfVec half;
    memcpy(&half, from, sizeof half);
    return bits_of<Vec>(__builtin_convertvector(half, WordVec) << 16);
}
static inline void store(float *to, Vec value) { memcpy(to, &value, sizeof value); }

static inline Vec broadcast(float value) { return Vec{} + value; }

// Lanes of two vectors by number, the second one's counted on from the first's.
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntVec{__VA_ARGS__})
#endif

// The sums over the lanes of four vectors; the order of additions depends on nothing but LANES.
static inline void sum_four(Vec a, Vec b, Vec c, Vec d, float *sums) {
    // halves of two vectors are added until one vector holds the sums of all four
#if LANES == 16
    Vec ab = SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    Vec cd = SHUFFLE(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    Vec all = SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
              SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += SHUFFLE(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += SHUFFLE(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    all = SHUFFLE(all, all, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
#elif LANES == 8
    Vec ab = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    Vec cd = SHUFFLE(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    Vec all = SHUFFLE(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) + SHUFFLE(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
    all = SHUFFLE(all, all, 0, 2, 4, 6, 0, 2, 4, 6) + SHUFFLE(all, all, 1, 3, 5, 7, 1, 3, 5, 7);
#else
    Vec ab = SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7);
    Vec cd = SHUFFLE(c, d, 0, 1, 4, 5) + SHUFFLE(c, d, 2, 3, 6, 7);
    Vec all = SHUFFLE(ab, cd, 0, 2, 4, 6) + SHUFFLE(ab, cd, 1, 3, 5, 7);
#endif
    memcpy(sums, &all, 4 * sizeof(float));
}

// The sum over the lanes, added up as `sum_four` does.
static inline float sum(Vec value) {
    float sums[4];
    sum_four(value, Vec{}, Vec{}, Vec{}, sums);
    return sums[0];
}

// A NaN in `b` comes through.
static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

// e^x within 2 ulp for x in [-87, 88], clamped outside; NaN stays NaN.
static inline Vec exponential(Vec x) {
    x = smaller(broadcast(88.0f), larger(broadcast(-87.0f), x));
    // adding and taking away 1.5 * 2^23 rounds to the nearest integer
    const Vec magic = broadcast(12582912.0f);
    Vec n = (x * 1.44269504088896341f + magic) - magic;
    Vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    IntVec power = __builtin_convertvector(n, IntVec);
    return p * bits_of<Vec>((power + 127) << 23);
}
