// y = x W^T (+ bias) (+ y) for a few rows of x and a weight that is read once, row-major as the model holds it.
//
// Every product of one output is summed in the same order whatever the number of rows, threads or the place in a
// tile, so a row's result does not depend on its neighbours.
#pragma once

#include "vectors.h"

// Rows of x that one pass over a weight serves, and weight rows per tile: as many sums as registers hold.
#if LANES == 8
static constexpr int MOST_ROWS = 4;
static constexpr int tile_width(int rows) { return rows == 1 ? 4 : rows == 2 ? 4 : 3; }
#else
static constexpr int MOST_ROWS = 8;
static constexpr int tile_width(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 6 : rows <= 6 ? 4 : 3; }
#endif
// a multiple of every tile's width, and what one thread takes at a time
static constexpr int BLOCK_WIDTH = 12;

template <typename T>
struct Linear {
    const T *weight;
    const T *bias;
    int out, in;
};

template <int ROWS, int WIDTH, typename T>
static inline void linear_tile(const float *x, int in, const T *weight, float (&y)[WIDTH][ROWS]) {
    Vec sums[WIDTH][ROWS] = {};
    int k = 0;
    for (; k + LANES <= in; k += LANES) {
        Vec w[WIDTH];
        for (int n = 0; n < WIDTH; ++n) {
            const T *from = weight + static_cast<int64_t>(n) * in + k;
            w[n] = load(from);
            // the tile after the next: hardware follows one stream well, and not as many as there are rows here
            __builtin_prefetch(from + static_cast<int64_t>(BLOCK_WIDTH) * in);
        }
        for (int b = 0; b < ROWS; ++b) {
            Vec value = load(x + static_cast<int64_t>(b) * in + k);
            for (int n = 0; n < WIDTH; ++n) sums[n][b] += w[n] * value;
        }
    }
    const Vec *flat = &sums[0][0];
    float *to = &y[0][0];
    int i = 0;
    for (; i + 4 <= WIDTH * ROWS; i += 4) sum_four(flat[i], flat[i + 1], flat[i + 2], flat[i + 3], to + i);
    for (; i < WIDTH * ROWS; ++i) to[i] = sum(flat[i]);
    for (; k < in; ++k)
        for (int n = 0; n < WIDTH; ++n)
            for (int b = 0; b < ROWS; ++b)
                y[n][b] += x[static_cast<int64_t>(b) * in + k] * widen(weight[static_cast<int64_t>(n) * in + k]);
}

template <int ROWS, int WIDTH, typename T, typename Write>
static inline void linear_range(const float *x, const Linear<T> &layer, int begin, int end, int row, Write write) {
    int n = begin;
    for (; n + WIDTH <= end; n += WIDTH) {
        float y[WIDTH][ROWS];
        linear_tile<ROWS, WIDTH>(x, layer.in, layer.weight + static_cast<int64_t>(n) * layer.in, y);
        for (int i = 0; i < WIDTH; ++i)
            for (int b = 0; b < ROWS; ++b) write(row + b, n + i, y[i][b] + (layer.bias ? widen(layer.bias[n + i]) : 0.0f));
    }
    if constexpr (WIDTH > 1)
        if (n < end) linear_range<ROWS, 1>(x, layer, n, end, row, write);
}

// Outputs `begin` to `end` of all rows; `write(row, output, value)` takes each.
template <typename T, typename Write>
static inline void linear_block(const float *x, int rows, const Linear<T> &layer, int begin, int end, Write write) {
    int row = 0;
    while (row < rows) {
        const float *part = x + static_cast<int64_t>(row) * layer.in;
        int left = rows - row < MOST_ROWS ? rows - row : MOST_ROWS;
#define CASE(R)                                                                     \
    case R:                                                                         \
        linear_range<R, tile_width(R)>(part, layer, begin, end, row, write);        \
        break;
        switch (left) {
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
#if LANES != 8
            CASE(5)
            CASE(6)
            CASE(7)
            CASE(8)
#endif
        }
#undef CASE
        row += left;
    }
}
