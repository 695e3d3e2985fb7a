// One decode step of the Llama layout on a CPU: one token per row through some layers, K and V written into the slots.
//
// Weights are read where the model holds them. Activations are float32 whatever the weights are. A row's result is the
// same bit for bit whatever the other rows, the batch size or the number of threads.

#include <ctime>
#include <initializer_list>

#include "attention.h"
#include "linear.h"

extern "C" {

struct LinearArgs {
    const void *weight, *bias;
    int32_t out, in;
};

struct LayerArgs {
    const void *input_norm, *mlp_norm;
    LinearArgs query, key, value, out, gate, up, down;
    float input_eps, mlp_eps, scaling;
};

struct StepArgs {
    const LayerArgs *layers;
    int32_t first_layer, end_layer;
    int32_t rows, span, threads;
    int32_t hidden, q_heads, kv_heads, head_dim, intermediate;
    // of layer 0; strides in elements
    void *keys, *values;
    int64_t layer_stride, row_stride, head_stride, slot_stride;
    // [rows]: the slot that each row writes, which is how many it holds
    const int64_t *slots;
    // [rows, head_dim]
    const float *cos, *sin;
    // [rows, hidden], in and out
    float *x;
    float *scratch;
    // [layers done, rows, q_heads, head_dim] in the type of the weights, or null
    void *queries;
    // [rows, q_heads, span], or null; for one layer
    float *mass;
    // seconds of projections, attention and MLP by a clock of POSIX are added here; or null
    double *seconds;
    int32_t clock;
};

struct HeadArgs {
    const void *norm;
    float eps;
    LinearArgs head;
    int32_t rows, threads;
    const float *x;
    float *scratch;
    // [rows, in] in the type of the weights; [rows, out]
    void *hidden;
    float *logits;
};
}

static inline int64_t chunks_of(int64_t slots) { return (slots + CHUNK_SLOTS - 1) / CHUNK_SLOTS; }

// Where the parts of the scratch buffer begin.
struct Scratch {
    float *normed, *qkv, *attended, *gate_up, *activated, *chunk_out;
    Part *parts;
    int64_t floats;

    explicit Scratch(const StepArgs &a) {
        int64_t at = 0;
        auto take = [&](int64_t count) {
            float *part = a.scratch + at;
            at += (count + 15) / 16 * 16;
            return part;
        };
        int64_t rows = a.rows, parts_count = rows * a.q_heads * chunks_of(a.span);
        normed = take(rows * a.hidden);
        qkv = take(rows * (a.q_heads + 2 * a.kv_heads) * a.head_dim);
        attended = take(rows * a.q_heads * a.head_dim);
        gate_up = take(rows * 2 * a.intermediate);
        activated = take(rows * a.intermediate);
        chunk_out = take(parts_count * a.head_dim);
        parts = reinterpret_cast<Part *>(take(parts_count * static_cast<int64_t>(sizeof(Part) / sizeof(float))));
        floats = at;
    }
};

// Adds the time since the last call to a part of a step; only the first thread of the team asks it.
struct Stopwatch {
    double *seconds;
    int32_t clock;
    double last = 0.0;

    double now() const {
        timespec time;
        clock_gettime(static_cast<clockid_t>(clock), &time);
        return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }
    void start() {
        if (seconds) last = now();
    }
    void lap(int part) {
        if (!seconds) return;
        double time = now();
        seconds[part] += time - last;
        last = time;
    }
};
enum Parts { PROJECTIONS, ATTENTION, MLP };

template <typename T>
static Linear<T> typed(const LinearArgs &a) {
    return {static_cast<const T *>(a.weight), static_cast<const T *>(a.bias), a.out, a.in};
}

template <typename T>
static void rms_norm(const float *x, const T *weight, float eps, int size, float *y) {
    Vec squares = {};
    int i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < size; ++i) total += x[i] * x[i];
    float factor = 1.0f / std::sqrt(total / size + eps);
    for (i = 0; i + LANES <= size; i += LANES) store(y + i, load(x + i) * factor * load(weight + i));
    for (; i < size; ++i) y[i] = x[i] * factor * widen(weight[i]);
}

static void silu_product(const float *gate, const float *up, int count, float *to) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        Vec g = load(gate + i);
        store(to + i, g / (1.0f + exponential(-g)) * load(up + i));
    }
    if (i == count) return;
    // the rest as one vector, so that every element is computed alike
    float rest[LANES] = {}, other[LANES] = {};
    memcpy(rest, gate + i, sizeof(float) * (count - i));
    memcpy(other, up + i, sizeof(float) * (count - i));
    Vec g = load(rest);
    store(rest, g / (1.0f + exponential(-g)) * load(other));
    memcpy(to + i, rest, sizeof(float) * (count - i));
}

// Called by every thread of a team: all outputs of a layer, shared out among them. Nobody waits at the end.
template <typename T, typename Write>
static void linear_all(const float *x, int rows, const Linear<T> &layer, Write write) {
#pragma omp for schedule(static) nowait
    for (int begin = 0; begin < layer.out; begin += BLOCK_WIDTH) {
        int end = begin + BLOCK_WIDTH < layer.out ? begin + BLOCK_WIDTH : layer.out;
        linear_block(x, rows, layer, begin, end, write);
    }
}

// Rotate the queries and the key of a row, scale the queries, write K and V into the row's slot.
template <typename T>
static void rotate_and_write(const StepArgs &a, const Scratch &s, int layer, float scaling, int row) {
    const int size = a.head_dim, half = size / 2;
    float *heads = s.qkv + static_cast<int64_t>(row) * (a.q_heads + 2 * a.kv_heads) * size;
    const float *cos = a.cos + static_cast<int64_t>(row) * size, *sin = a.sin + static_cast<int64_t>(row) * size;
    for (int h = 0; h < a.q_heads + a.kv_heads; ++h) {
        float *x = heads + static_cast<int64_t>(h) * size;
        for (int i = 0; i < half; ++i) {
            float left = x[i], right = x[i + half];
            x[i] = left * cos[i] - right * sin[i];
            x[i + half] = right * cos[i + half] + left * sin[i + half];
        }
    }
    int64_t at = layer * a.layer_stride + row * a.row_stride + a.slots[row] * a.slot_stride;
    T *key = static_cast<T *>(a.keys) + at, *value = static_cast<T *>(a.values) + at;
    for (int h = 0; h < a.kv_heads; ++h)
        for (int i = 0; i < size; ++i) {
            narrow(heads[(a.q_heads + h) * size + i], key + h * a.head_stride + i);
            narrow(heads[(a.q_heads + a.kv_heads + h) * size + i], value + h * a.head_stride + i);
        }
    const int64_t width = static_cast<int64_t>(a.q_heads) * size;
    if (a.queries) {
        T *kept = static_cast<T *>(a.queries) + ((layer - a.first_layer) * static_cast<int64_t>(a.rows) + row) * width;
        for (int64_t i = 0; i < width; ++i) narrow(heads[i], kept + i);
    }
    for (int64_t i = 0; i < width; ++i) heads[i] *= scaling;
}

template <typename T>
static void attend(const StepArgs &a, const Scratch &s, int layer) {
    const int size = a.head_dim, group = a.q_heads / a.kv_heads, chunks = static_cast<int>(chunks_of(a.span));
    const int64_t row_width = static_cast<int64_t>(a.q_heads + 2 * a.kv_heads) * size;
#pragma omp for collapse(3) schedule(dynamic, 1)
    for (int row = 0; row < a.rows; ++row)
        for (int head = 0; head < a.kv_heads; ++head)
            for (int chunk = 0; chunk < chunks; ++chunk) {
                int64_t begin = static_cast<int64_t>(chunk) * CHUNK_SLOTS, left = a.slots[row] + 1 - begin;
                if (left <= 0) continue;
                int slots = static_cast<int>(left < CHUNK_SLOTS ? left : CHUNK_SLOTS);
                int64_t place = (static_cast<int64_t>(row) * chunks + chunk) * a.q_heads + head * group;
                Part *parts = s.parts + place;
                for (int g = 0; g < group; ++g) parts[g].out = s.chunk_out + (place + g) * size;
                int64_t at = layer * a.layer_stride + row * a.row_stride + head * a.head_stride + begin * a.slot_stride;
                float *mass = a.mass;
                if (mass) mass += (static_cast<int64_t>(row) * a.q_heads + head * group) * a.span + begin;
                attend_chunk(
                    s.qkv + row * row_width + static_cast<int64_t>(head) * group * size,
                    static_cast<const T *>(a.keys) + at, static_cast<const T *>(a.values) + at, a.slot_stride, slots,
                    size, group, parts, mass, a.span);
            }
#pragma omp for collapse(2) schedule(static)
    for (int row = 0; row < a.rows; ++row)
        for (int head = 0; head < a.q_heads; ++head) {
            int held = static_cast<int>(a.slots[row]) + 1;
            int64_t place = static_cast<int64_t>(row) * a.q_heads + head;
            float *mass = a.mass ? a.mass + place * a.span : nullptr;
            combine_chunks(s.parts + static_cast<int64_t>(row) * chunks * a.q_heads + head,
                           static_cast<int>(chunks_of(held)), a.q_heads, held, size, s.attended + place * size, mass);
            for (int slot = held; mass && slot < a.span; ++slot) mass[slot] = 0.0f;
        }
}

template <typename T>
static void mlp(const StepArgs &a, const Scratch &s, const LayerArgs &layer) {
    const int wide = a.intermediate;
    // gate and up of the same columns by the same thread, which then multiplies them
    const Linear<T> gate = typed<T>(layer.gate), up = typed<T>(layer.up);
    float *ups = s.gate_up + static_cast<int64_t>(a.rows) * wide;
#pragma omp for schedule(static)
    for (int begin = 0; begin < wide; begin += BLOCK_WIDTH) {
        int end = begin + BLOCK_WIDTH < wide ? begin + BLOCK_WIDTH : wide;
        linear_block(s.normed, a.rows, gate, begin, end,
                     [&](int row, int n, float y) { s.gate_up[static_cast<int64_t>(row) * wide + n] = y; });
        linear_block(s.normed, a.rows, up, begin, end,
                     [&](int row, int n, float y) { ups[static_cast<int64_t>(row) * wide + n] = y; });
        for (int row = 0; row < a.rows; ++row) {
            int64_t at = static_cast<int64_t>(row) * wide + begin;
            silu_product(s.gate_up + at, ups + at, end - begin, s.activated + at);
        }
    }
    linear_all(s.activated, a.rows, typed<T>(layer.down),
               [&](int row, int n, float y) { a.x[static_cast<int64_t>(row) * a.hidden + n] += y; });
#pragma omp barrier
}

// Queries, keys and values side by side, [rows, (Hq + 2 H) D].
template <typename T>
static void project(const StepArgs &a, const Scratch &s, const LayerArgs &layer) {
    const int64_t width = static_cast<int64_t>(a.q_heads + 2 * a.kv_heads) * a.head_dim;
    float *to = s.qkv;
    for (const LinearArgs *part : {&layer.query, &layer.key, &layer.value}) {
        linear_all(s.normed, a.rows, typed<T>(*part), [=](int row, int n, float y) { to[row * width + n] = y; });
        to += part->out;
    }
#pragma omp barrier
}

template <typename T>
static void norm_rows(const StepArgs &a, const Scratch &s, const void *weight, float eps) {
#pragma omp for schedule(static)
    for (int row = 0; row < a.rows; ++row) {
        int64_t at = static_cast<int64_t>(row) * a.hidden;
        rms_norm(a.x + at, static_cast<const T *>(weight), eps, a.hidden, s.normed + at);
    }
}

template <typename T>
static void run_layers(const StepArgs &a) {
    const Scratch s(a);
    Stopwatch watch{a.seconds, a.clock};
    watch.start();
#pragma omp parallel num_threads(a.threads)
    for (int index = a.first_layer; index < a.end_layer; ++index) {
        const LayerArgs &layer = a.layers[index];
        norm_rows<T>(a, s, layer.input_norm, layer.input_eps);
        project<T>(a, s, layer);
#pragma omp master
        watch.lap(PROJECTIONS);
#pragma omp for schedule(static)
        for (int row = 0; row < a.rows; ++row) rotate_and_write<T>(a, s, index, layer.scaling, row);
        attend<T>(a, s, index);
#pragma omp master
        watch.lap(ATTENTION);
        linear_all(s.attended, a.rows, typed<T>(layer.out),
                   [&](int row, int n, float y) { a.x[static_cast<int64_t>(row) * a.hidden + n] += y; });
#pragma omp barrier
#pragma omp master
        watch.lap(PROJECTIONS);
        norm_rows<T>(a, s, layer.mlp_norm, layer.mlp_eps);
        mlp<T>(a, s, layer);
#pragma omp master
        watch.lap(MLP);
    }
}

template <typename T>
static void run_head(const HeadArgs &a) {
    const Linear<T> head = typed<T>(a.head);
#pragma omp parallel num_threads(a.threads)
    {
#pragma omp for schedule(static)
        for (int row = 0; row < a.rows; ++row) {
            int64_t at = static_cast<int64_t>(row) * head.in;
            rms_norm(a.x + at, static_cast<const T *>(a.norm), a.eps, head.in, a.scratch + at);
            for (int i = 0; i < head.in; ++i) narrow(a.scratch[at + i], static_cast<T *>(a.hidden) + at + i);
        }
        linear_all(a.scratch, a.rows, head,
                   [&](int row, int n, float y) { a.logits[static_cast<int64_t>(row) * head.out + n] = y; });
    }
}

extern "C" {

// so that the two descriptions of these structures cannot drift apart unnoticed
int32_t kvrepro_bytes_of_linear() { return sizeof(LinearArgs); }
int32_t kvrepro_bytes_of_layer() { return sizeof(LayerArgs); }
int32_t kvrepro_bytes_of_step() { return sizeof(StepArgs); }
int32_t kvrepro_bytes_of_head() { return sizeof(HeadArgs); }

int64_t kvrepro_scratch_floats(const StepArgs *a) { return Scratch(*a).floats; }

void kvrepro_layers_float32(const StepArgs *a) { run_layers<float>(*a); }
void kvrepro_layers_bfloat16(const StepArgs *a) { run_layers<Bfloat16>(*a); }

void kvrepro_head_float32(const HeadArgs *a) { run_head<float>(*a); }
void kvrepro_head_bfloat16(const HeadArgs *a) { run_head<Bfloat16>(*a); }
}
