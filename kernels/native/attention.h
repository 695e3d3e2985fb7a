// Attention of one query per row over the slots in use, in chunks of fixed length that are combined in order.
//
// The chunks of a row may be done by any thread; what is added to what never changes with their number.
#pragma once

#include <cmath>

#include "vectors.h"

static constexpr int CHUNK_SLOTS = 256;
// query heads that share one pass over the keys
static constexpr int MOST_QUERIES = 4;

// What a chunk leaves behind for one query head: the sum of its weighted values, of its weights, and the largest logit.
struct Part {
    float *out;
    float largest, total;
};

template <int QUERIES, typename T>
static inline void chunk_logits(const float *query, const T *keys, int64_t stride, int slots, int size,
                                float (*logits)[CHUNK_SLOTS]) {
    int slot = 0;
    for (; slot + 4 <= slots; slot += 4) {
        Vec sums[QUERIES][4] = {};
        int d = 0;
        for (; d + LANES <= size; d += LANES) {
            Vec key[4];
            for (int i = 0; i < 4; ++i) key[i] = load(keys + (slot + i) * stride + d);
            for (int g = 0; g < QUERIES; ++g) {
                Vec q = load(query + g * size + d);
                for (int i = 0; i < 4; ++i) sums[g][i] += q * key[i];
            }
        }
        for (int g = 0; g < QUERIES; ++g) {
            float *to = logits[g] + slot;
            sum_four(sums[g][0], sums[g][1], sums[g][2], sums[g][3], to);
            for (int rest = d; rest < size; ++rest)
                for (int i = 0; i < 4; ++i) to[i] += query[g * size + rest] * widen(keys[(slot + i) * stride + rest]);
        }
    }
    for (; slot < slots; ++slot)
        for (int g = 0; g < QUERIES; ++g) {
            Vec partial = {};
            int d = 0;
            for (; d + LANES <= size; d += LANES) partial += load(query + g * size + d) * load(keys + slot * stride + d);
            logits[g][slot] = sum(partial);
            for (; d < size; ++d) logits[g][slot] += query[g * size + d] * widen(keys[slot * stride + d]);
        }
}

template <int QUERIES, int VECTORS, typename T>
static inline void weighted_values(const float (*weights)[CHUNK_SLOTS], const T *values, int64_t stride, int slots,
                                   int d, const Part *parts) {
    Vec sums[QUERIES][VECTORS] = {};
    for (int slot = 0; slot < slots; ++slot) {
        Vec value[VECTORS];
        for (int v = 0; v < VECTORS; ++v) value[v] = load(values + slot * stride + d + v * LANES);
        for (int g = 0; g < QUERIES; ++g) {
            Vec weight = broadcast(weights[g][slot]);
            for (int v = 0; v < VECTORS; ++v) sums[g][v] += weight * value[v];
        }
    }
    for (int g = 0; g < QUERIES; ++g)
        for (int v = 0; v < VECTORS; ++v) store(parts[g].out + d + v * LANES, sums[g][v]);
}

// One chunk for `QUERIES` query heads of one KV head. `mass` (or null) receives e^(logit - largest of the chunk).
template <int QUERIES, typename T>
static inline void attend_heads(const float *query, const T *keys, const T *values, int64_t stride, int slots, int size,
                                Part *parts, float *mass, int64_t mass_stride) {
    alignas(64) float weights[QUERIES][CHUNK_SLOTS];
    chunk_logits<QUERIES>(query, keys, stride, slots, size, weights);
    for (int g = 0; g < QUERIES; ++g) {
        // the last vector is filled up with a logit, which changes no maximum
        for (int slot = slots; slot % LANES; ++slot) weights[g][slot] = weights[g][0];
        Vec most = load(weights[g]);
        for (int slot = LANES; slot < slots; slot += LANES) most = larger(most, load(weights[g] + slot));
        float largest = most[0];
        for (int i = 1; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
        for (int slot = 0; slot < slots; slot += LANES)
            store(weights[g] + slot, exponential(load(weights[g] + slot) - largest));
        // what fills the last vector up is no slot
        for (int slot = slots; slot % LANES; ++slot) weights[g][slot] = 0.0f;
        Vec total = {};
        for (int slot = 0; slot < slots; slot += LANES) total += load(weights[g] + slot);
        parts[g].largest = largest;
        parts[g].total = sum(total);
        if (mass) memcpy(mass + g * mass_stride, weights[g], sizeof(float) * slots);
    }
    int d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES) weighted_values<QUERIES, 4>(weights, values, stride, slots, d, parts);
    for (; d + LANES <= size; d += LANES) weighted_values<QUERIES, 1>(weights, values, stride, slots, d, parts);
    for (; d < size; ++d)
        for (int g = 0; g < QUERIES; ++g) {
            float total = 0.0f;
            for (int slot = 0; slot < slots; ++slot) total += weights[g][slot] * widen(values[slot * stride + d]);
            parts[g].out[d] = total;
        }
}

// One chunk for all `group` query heads of a KV head.
template <typename T>
static inline void attend_chunk(const float *query, const T *keys, const T *values, int64_t stride, int slots, int size,
                                int group, Part *parts, float *mass, int64_t mass_stride) {
    for (int g = 0; g < group;) {
        int heads = group - g < MOST_QUERIES ? group - g : MOST_QUERIES;
        const float *q = query + static_cast<int64_t>(g) * size;
        float *to = mass ? mass + g * mass_stride : nullptr;
        switch (heads) {
            case 1: attend_heads<1>(q, keys, values, stride, slots, size, parts + g, to, mass_stride); break;
            case 2: attend_heads<2>(q, keys, values, stride, slots, size, parts + g, to, mass_stride); break;
            case 3: attend_heads<3>(q, keys, values, stride, slots, size, parts + g, to, mass_stride); break;
            default: attend_heads<4>(q, keys, values, stride, slots, size, parts + g, to, mass_stride);
        }
        g += heads;
    }
}

// The chunks of one query head, `step` parts apart, to its output; `mass` (or null) is brought to probabilities.
static inline void combine_chunks(const Part *parts, int chunks, int step, int slots, int size, float *out, float *mass) {
    float largest = parts[0].largest;
    for (int c = 1; c < chunks; ++c) largest = std::fmax(largest, parts[c * step].largest);
    float total = 0.0f;
    for (int c = 0; c < chunks; ++c) total += std::exp(parts[c * step].largest - largest) * parts[c * step].total;
    for (int d = 0; d < size; ++d) out[d] = 0.0f;
    for (int c = 0; c < chunks; ++c) {
        float factor = std::exp(parts[c * step].largest - largest) / total;
        for (int d = 0; d < size; ++d) out[d] += factor * parts[c * step].out[d];
        if (!mass) continue;
        int end = (c + 1) * CHUNK_SLOTS < slots ? (c + 1) * CHUNK_SLOTS : slots;
        for (int slot = c * CHUNK_SLOTS; slot < end; ++slot) mass[slot] *= factor;
    }
}
