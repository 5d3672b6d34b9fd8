/* The pass of a post-norm encoder (BERT-style) over packed sequences, for x86-64 CPUs with AVX2.
 *
 * torch's products are either on weights in float32, which do not fit a processor's cache, or FBGEMM's on weights in
 * float16, which read each weight again for every six tokens, reach two thirds of what the processor multiplies, and
 * leave bias and activation to passes of their own. Here a panel of 16 columns is read once for all tokens, and what is
 * done to a product is done while it is in the nearest cache.
 *
 * Workers share a pass without an owner: each takes the next unit of a stage (a head, a panel, a row) until there is
 * none, and waits until all of them are done. One that comes late, or never, is not waited for.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* Columns of a panel, and most rows of a tile: 12 sums, 2 weights and an input fill the 16 registers of AVX2. A tile of int8
 * products has up to MOST_ROWS where there are 32. */
enum { PANEL = 16, ROWS = 6, MOST_ROWS = 12 };
/* Rows that are multiplied with one panel after the other: their inputs stay in the cache meanwhile. */
enum { BLOCK = 192 };
enum { EMBED, ATTEND, QUANTISE_SEEN, OUTPUT, NORM, UP, QUANTISE_INNER, DOWN, LAST_NORM, STAGES_OF_A_LAYER = 8 };
enum { GELU, GELU_TANH, RELU, ACTIVATIONS };
/* Looks at a counter before the core is offered to others: some ten microseconds. */
enum { PATIENCE = 1000 };

#include "int8.h"

/* Weights [columns / 16] panels: float16 [in, 16], or int8 [in / 4, 16, 4]. All else is float32. */
typedef struct {
    const void *panels;
    const float *bias;      /* [columns] */
    const float *scales;    /* of int8, [columns] */
    const float *sums;      /* of int8, [columns]: of the weights, for the inputs' least value */
    const float *smoothing; /* of int8, [in]: factors of the inputs, by which the weights were divided */
} Matrix;

typedef struct {
    Matrix inputs, output, up, down;
    const float *norm, *norm_bias, *last_norm, *last_norm_bias;
    double epsilon, last_epsilon;
} Layer;

typedef struct {
    const Layer *layers;
    const float *words, *positions, *norm, *norm_bias;
    double epsilon, scale; /* scale: of the scores */
    int64_t hidden, inner, heads, depth, activation, vocabulary;
    int64_t second; /* rows of positions until those of a pair's second text */
    int64_t kernel; /* of int8 products; 0: weights are float16 */
} Model;

typedef struct {
    const int64_t *ids;
    const int64_t *types;        /* [tokens]: 1 in a pair's second text; or none */
    const int32_t *bounds;       /* [sequences + 1], those of the whole batch: the first need not be 0 */
    const float *bias;           /* [heads, bias_size, bias_size], added to the scores; or none */
    float *x, *sum, *seen, *inner; /* [tokens, hidden] thrice, [tokens, inner]; the result is in x */
    float *scratch;              /* [workers, scratch_size] */
    uint8_t *x8, *wide8;         /* of int8, x [tokens, hidden], and what OUTPUT or DOWN reads [tokens, the wider] */
    Range *x_ranges, *wide_ranges; /* [tokens] */
    atomic_int *taken, *done;    /* [stages], zero */
    int64_t sequences, tokens, bias_size, workers, scratch_size;
    atomic_int begun, inside;    /* workers that came, and that have not left yet */
    atomic_int unknown;          /* whether an id is not in the vocabulary */
} Job;

static inline int64_t begin_of(const Job *job, int64_t sequence) { return job->bounds[sequence] - job->bounds[0]; }

INLINE __m256 exponential(__m256 x) { /* to 2 units in the last place; of NaN it is NaN */
    x = _mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_max_ps(_mm256_set1_ps(-87.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    x = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    x = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), x);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, x, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(x, x), _mm256_add_ps(x, _mm256_set1_ps(1.0f)));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

INLINE __m256 gelu(__m256 x) { /* erf: Abramowitz and Stegun 7.1.26, to 1.5e-7 */
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    __m256 z = _mm256_mul_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(0.70710678f));
    __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.3275911f), one));
    __m256 p = _mm256_set1_ps(1.061405429f);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-1.453152027f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.421413741f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0.284496736f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.254829592f));
    p = _mm256_mul_ps(_mm256_mul_ps(p, t), exponential(_mm256_xor_ps(_mm256_mul_ps(z, z), sign)));
    __m256 erf = _mm256_or_ps(_mm256_sub_ps(one, p), _mm256_and_ps(sign, x));
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), _mm256_add_ps(one, erf));
}

INLINE __m256 gelu_tanh(__m256 x) { /* x / 2 (1 + tanh u) is x / (1 + exp(-2 u)) */
    __m256 u = _mm256_mul_ps(x, _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1.0f)));
    __m256 e = exponential(_mm256_mul_ps(u, _mm256_set1_ps(-1.5957691f)));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

INLINE __m256 activated(__m256 x, int64_t activation) {
    return activation == GELU ? gelu(x) : activation == GELU_TANH ? gelu_tanh(x) : _mm256_max_ps(_mm256_setzero_ps(), x);
}

/* out[rows, 16] = a[rows, k] panel[k, 16]. Four steps at once: the loop's own instructions would cost a seventh. */
#define TILE(COUNT)                                                                                         \
    AVX2 static void tile##COUNT(const float *a, int64_t k, const uint16_t *panel, float *out) {            \
        __m256 sums[COUNT][2];                                                                              \
        UNROLL for (int r = 0; r < COUNT; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();               \
        _Pragma("GCC unroll 4") for (int64_t i = 0; i < k; i++, panel += PANEL) {                           \
            __m256 left = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)panel));                          \
            __m256 right = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(panel + 8)));                   \
            UNROLL for (int r = 0; r < COUNT; r++) {                                                        \
                __m256 x = _mm256_broadcast_ss(a + r * k + i);                                              \
                sums[r][0] = _mm256_fmadd_ps(x, left, sums[r][0]);                                          \
                sums[r][1] = _mm256_fmadd_ps(x, right, sums[r][1]);                                         \
            }                                                                                               \
        }                                                                                                   \
        UNROLL for (int r = 0; r < COUNT; r++) {                                                            \
            _mm256_store_ps(out + PANEL * r, sums[r][0]);                                                   \
            _mm256_store_ps(out + PANEL * r + 8, sums[r][1]);                                               \
        }                                                                                                   \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static void (*const TILES[ROWS + 1])(const float *, int64_t, const uint16_t *, float *) = {
    NULL, tile1, tile2, tile3, tile4, tile5, tile6};

/* Rows of the tile that begins with `first`: as even as they can be, for a tile of one row is as slow as one of four. */
static inline int64_t tile_rows(const Model *m, int64_t tokens, int64_t first) {
    const int64_t most = m->kernel ? KERNELS[m->kernel].rows : ROWS, tiles = (tokens - first + most - 1) / most;
    return (tokens - first + tiles - 1) / tiles;
}

/* What a product reads: rows in float32, or in int8. */
typedef struct {
    const float *rows;
    const uint8_t *rows8;
    const Range *ranges;
} Inputs;

/* out[count, 16] = rows [first, first + count) of the inputs times the panel of 16 columns that begins at `column`. */
INLINE void multiply(const Model *m, const Inputs *in, int64_t k, int64_t first, int64_t count, const Matrix *w, int64_t column,
                     float *out) {
    if (!m->kernel) {
        TILES[count](in->rows + first * k, k, (const uint16_t *)w->panels + column * k, out);
        return;
    }
    _Alignas(64) int32_t sums[MOST_ROWS * PANEL];
    KERNELS[m->kernel].tiles[count](in->rows8 + first * k, k, (const int8_t *)w->panels + column * k, sums);
    for (int64_t half = 0; half < PANEL; half += 8) {
        const __m256 unit = _mm256_loadu_ps(w->scales + column + half), all = _mm256_loadu_ps(w->sums + column + half);
        for (int64_t r = 0; r < count; r++) {
            const __m256 scale = _mm256_set1_ps(in->ranges[first + r].scale), least = _mm256_set1_ps(in->ranges[first + r].least);
            const __m256 x = _mm256_cvtepi32_ps(_mm256_load_si256((const __m256i *)(sums + PANEL * r + half)));
            _mm256_store_ps(out + PANEL * r + half, _mm256_fmadd_ps(_mm256_mul_ps(x, scale), unit, _mm256_mul_ps(least, all)));
        }
    }
}

INLINE float total(__m256 x) {
    float s[8];
    _mm256_storeu_ps(s, x);
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

AVX2 static void normalise(const float *x, float *out, const float *weight, const float *bias, double epsilon, int64_t n) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + i));
    const __m256 mean = _mm256_set1_ps(total(sum) / (float)n);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 d = _mm256_sub_ps(_mm256_loadu_ps(x + i), mean);
        squares = _mm256_fmadd_ps(d, d, squares);
    }
    const __m256 factor = _mm256_set1_ps((float)(1.0 / sqrt((double)total(squares) / (double)n + epsilon)));
    for (int64_t i = 0; i < n; i += 8) {
        __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), mean), factor);
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(d, _mm256_loadu_ps(weight + i), _mm256_loadu_ps(bias + i)));
    }
}

static void embed(const Model *m, Job *job, int64_t token) {
    int64_t sequence = 0, d = m->hidden, id = job->ids[token];
    while (begin_of(job, sequence + 1) <= token) sequence++;
    if (id < 0 || id >= m->vocabulary) {
        atomic_store_explicit(&job->unknown, 1, memory_order_relaxed);
        id = 0;
    }
    const int64_t second = job->types != NULL && job->types[token] ? m->second : 0;
    const float *word = m->words + id * d, *position = m->positions + (second + token - begin_of(job, sequence)) * d;
    float *sum = job->sum + token * d;
    for (int64_t i = 0; i < d; i++) sum[i] = word[i] + position[i];
    normalise(sum, job->x + token * d, m->norm, m->norm_bias, m->epsilon, d);
    if (m->kernel) quantise(job->x + token * d, m->layers->inputs.smoothing, d, job->x8 + token * d, job->x_ranges + token);
}

/* Queries, keys and values of a head. Keys are turned over, so that scores are sums of columns. */
INLINE void project_head(const Model *m, const Layer *layer, const Job *job, int64_t head, const int64_t *columns, int64_t width,
                         float *query, float *keys, float *value) {
    const int64_t tokens = job->tokens, d = m->hidden, size = d / m->heads;
    const Inputs in = {job->x, job->x8, job->x_ranges};
    _Alignas(32) float tile[MOST_ROWS * PANEL], row[PANEL];
    for (int64_t block = 0; block < tokens; block += BLOCK)
        for (int64_t at = 0; at < 3 * size; at += PANEL) {
            const int64_t part = at / size, c = at % size, column = part * d + head * size + c;
            const int64_t last = block + BLOCK < tokens ? block + BLOCK : tokens;
            const __m256 left = _mm256_loadu_ps(layer->inputs.bias + column);
            const __m256 right = _mm256_loadu_ps(layer->inputs.bias + column + 8);
            for (int64_t first = block, rows; first < last; first += rows) {
                rows = tile_rows(m, last, first);
                multiply(m, &in, d, first, rows, &layer->inputs, column, tile);
                for (int64_t r = 0; r < rows; r++) {
                    float *to = part == 1 ? row : (part ? value : query) + (first + r) * size + c;
                    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_load_ps(tile + PANEL * r), left));
                    _mm256_storeu_ps(to + 8, _mm256_add_ps(_mm256_load_ps(tile + PANEL * r + 8), right));
                    if (part == 1)
                        for (int i = 0; i < PANEL; i++) keys[(c + i) * width + columns[first + r]] = row[i];
                }
            }
        }
}

/* Of up to four rows: exp(score - greatest), [4, room], and one over their sums. */
INLINE void weigh(const float *query, int64_t rows, int64_t size, const float *keys, int64_t width, int64_t length, float scale,
                  const float *bias, int64_t bias_size, float *weights, int64_t room, float *factors) {
    const float *q[4];
    for (int r = 0; r < 4; r++) q[r] = query + (r < rows ? r : 0) * size;
    /* Two columns of vectors at once: four sums would wait for each multiplication. */
    for (int64_t t = 0; t < length; t += 16) {
        const int64_t other = t + 8 < length ? 8 : 0;
        __m256 s[4][2];
        UNROLL for (int r = 0; r < 4; r++) s[r][0] = s[r][1] = _mm256_setzero_ps();
        for (int64_t i = 0; i < size; i++) {
            const __m256 left = _mm256_loadu_ps(keys + i * width + t), right = _mm256_loadu_ps(keys + i * width + t + other);
            UNROLL for (int r = 0; r < 4; r++) {
                const __m256 x = _mm256_broadcast_ss(q[r] + i);
                s[r][0] = _mm256_fmadd_ps(x, left, s[r][0]);
                s[r][1] = _mm256_fmadd_ps(x, right, s[r][1]);
            }
        }
        UNROLL for (int r = 0; r < 4; r++) {
            _mm256_storeu_ps(weights + r * room + t + other, _mm256_mul_ps(s[r][1], _mm256_set1_ps(scale)));
            _mm256_storeu_ps(weights + r * room + t, _mm256_mul_ps(s[r][0], _mm256_set1_ps(scale)));
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        float *w = weights + r * room, greatest[8];
        if (bias != NULL)
            for (int64_t t = 0; t < length; t++) w[t] += bias[r * bias_size + t];
        /* What stands behind the last key must not count. */
        for (int64_t t = length; t % 8; t++) w[t] = -INFINITY;
        __m256 most = _mm256_loadu_ps(w), sum = _mm256_setzero_ps();
        for (int64_t t = 8; t < length; t += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(w + t));
        _mm256_storeu_ps(greatest, most);
        for (int i = 1; i < 8; i++) greatest[0] = greatest[i] > greatest[0] ? greatest[i] : greatest[0];
        for (int64_t t = 0; t < length; t += 8) {
            __m256 e = exponential(_mm256_sub_ps(_mm256_loadu_ps(w + t), _mm256_set1_ps(greatest[0])));
            _mm256_storeu_ps(w + t, e);
            if (t + 8 <= length) sum = _mm256_add_ps(sum, e);
        }
        float all = total(sum);
        for (int64_t t = length & ~(int64_t)7; t < length; t++) all += w[t];
        factors[r] = 1.0f / all;
    }
}

AVX2 static void attend(const Model *m, const Layer *layer, const Job *job, int64_t head, float *scratch) {
    const int64_t tokens = job->tokens, d = m->hidden, size = d / m->heads;
    float factors[4] = {0};
    /* Every sequence's keys begin at a multiple of 8, so that no load reads another's. */
    int64_t *columns = (int64_t *)scratch, width = 0;
    for (int64_t s = 0; s < job->sequences; s++) {
        for (int64_t t = begin_of(job, s); t < begin_of(job, s + 1); t++) columns[t] = width + t - begin_of(job, s);
        width += (begin_of(job, s + 1) - begin_of(job, s) + 7) & ~(int64_t)7;
    }
    float *query = scratch + 2 * tokens, *value = query + tokens * size, *keys = value + tokens * size;
    float *weights = keys + width * size;
    for (int64_t i = 0; i < size * width; i++) keys[i] = 0;
    project_head(m, layer, job, head, columns, width, query, keys, value);
    for (int64_t s = 0; s < job->sequences; s++) {
        const int64_t first = begin_of(job, s), length = begin_of(job, s + 1) - first;
        for (int64_t i = 0, rows; i < length; i += rows) {
            rows = length - i < 4 ? length - i : 4;
            const float *bias = job->bias == NULL ? NULL : job->bias + (head * job->bias_size + i) * job->bias_size;
            weigh(query + (first + i) * size, rows, size, keys + columns[first], width, length, (float)m->scale, bias,
                  job->bias_size, weights, width, factors);
            for (int64_t c = 0; c < size; c += PANEL) {
                __m256 sums[4][2];
                UNROLL for (int r = 0; r < 4; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
                for (int64_t t = 0; t < length; t++) {
                    const float *v = value + (first + t) * size + c;
                    __m256 left = _mm256_loadu_ps(v), right = _mm256_loadu_ps(v + 8);
                    UNROLL for (int r = 0; r < 4; r++) {
                        __m256 w = _mm256_broadcast_ss(weights + r * width + t);
                        sums[r][0] = _mm256_fmadd_ps(w, left, sums[r][0]);
                        sums[r][1] = _mm256_fmadd_ps(w, right, sums[r][1]);
                    }
                }
                UNROLL for (int r = 0; r < 4; r++) if (r < rows) {
                    float *to = job->seen + (first + i + r) * d + head * size + c;
                    __m256 factor = _mm256_set1_ps(factors[r]);
                    _mm256_storeu_ps(to, _mm256_mul_ps(sums[r][0], factor));
                    _mm256_storeu_ps(to + 8, _mm256_mul_ps(sums[r][1], factor));
                }
            }
        }
    }
}

/* 16 columns of a block of rows: activation(a w + bias), or added + a w + bias. */
AVX2 static void project(const Model *m, Inputs in, int64_t k, const Matrix *w, const float *added, float *out, int64_t tokens,
                         int64_t n, int64_t unit) {
    const int64_t panel = unit % (n / PANEL), block = unit / (n / PANEL) * BLOCK;
    const int64_t last = block + BLOCK < tokens ? block + BLOCK : tokens;
    _Alignas(32) float tile[MOST_ROWS * PANEL];
    const __m256 left = _mm256_loadu_ps(w->bias + PANEL * panel), right = _mm256_loadu_ps(w->bias + PANEL * panel + 8);
    for (int64_t first = block, rows; first < last; first += rows) {
        rows = tile_rows(m, last, first);
        multiply(m, &in, k, first, rows, w, PANEL * panel, tile);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t to = (first + r) * n + PANEL * panel;
            __m256 x = _mm256_add_ps(_mm256_load_ps(tile + PANEL * r), left);
            __m256 y = _mm256_add_ps(_mm256_load_ps(tile + PANEL * r + 8), right);
            if (added == NULL) {
                x = activated(x, m->activation);
                y = activated(y, m->activation);
            } else {
                x = _mm256_add_ps(_mm256_loadu_ps(added + to), x);
                y = _mm256_add_ps(_mm256_loadu_ps(added + to + 8), y);
            }
            _mm256_storeu_ps(out + to, x);
            _mm256_storeu_ps(out + to + 8, y);
        }
    }
}

static int64_t units_of(const Model *m, const Job *job, int kind) {
    const int64_t tokens = job->tokens, blocks = (tokens + BLOCK - 1) / BLOCK;
    switch (kind) {
        case ATTEND: return m->heads;
        case UP: return m->inner / PANEL * blocks;
        case OUTPUT: case DOWN: return m->hidden / PANEL * blocks;
        case QUANTISE_SEEN: case QUANTISE_INNER: return m->kernel ? tokens : 0;
        default: return tokens;
    }
}

static void run_unit(const Model *m, Job *job, int kind, const Layer *l, int64_t unit, float *scratch) {
    const int64_t d = m->hidden, inner = m->inner, tokens = job->tokens;
    const int last = l != NULL && l + 1 == m->layers + m->depth;
    float *x = job->x + unit * d, *sum = job->sum + unit * d;
    switch (kind) {
        case EMBED: embed(m, job, unit); break;
        case ATTEND: attend(m, l, job, unit, scratch); break;
        case QUANTISE_SEEN:
            quantise(job->seen + unit * d, l->output.smoothing, d, job->wide8 + unit * d, job->wide_ranges + unit);
            break;
        case OUTPUT:
            project(m, (Inputs){job->seen, job->wide8, job->wide_ranges}, d, &l->output, job->x, job->sum, tokens, d, unit);
            break;
        case NORM:
            normalise(sum, x, l->norm, l->norm_bias, l->epsilon, d);
            if (m->kernel) quantise(x, l->up.smoothing, d, job->x8 + unit * d, job->x_ranges + unit);
            break;
        case UP:
            project(m, (Inputs){job->x, job->x8, job->x_ranges}, d, &l->up, NULL, job->inner, tokens, inner, unit);
            break;
        case QUANTISE_INNER:
            quantise(job->inner + unit * inner, l->down.smoothing, inner, job->wide8 + unit * inner, job->wide_ranges + unit);
            break;
        case DOWN:
            project(m, (Inputs){job->inner, job->wide8, job->wide_ranges}, inner, &l->down, job->x, job->sum, tokens, d, unit);
            break;
        default:
            normalise(sum, x, l->last_norm, l->last_norm_bias, l->last_epsilon, d);
            if (m->kernel && !last) quantise(x, l[1].inputs.smoothing, d, job->x8 + unit * d, job->x_ranges + unit);
    }
}

/* A worker that comes after all is done finds no unit left. It reads the job and the model's numbers and nothing else, for
 * what the job points to may be gone by then. */
static void work(const Model *m, Job *job) {
    const int64_t worker = atomic_fetch_add(&job->begun, 1);
    if (worker >= job->workers) return;
    float *scratch = job->scratch + worker * job->scratch_size;
    for (int64_t stage = 0; stage <= m->depth * STAGES_OF_A_LAYER; stage++) {
        const int kind = stage ? 1 + (int)((stage - 1) % STAGES_OF_A_LAYER) : EMBED;
        const Layer *layer = stage ? m->layers + (stage - 1) / STAGES_OF_A_LAYER : NULL;
        const int64_t units = units_of(m, job, kind);
        int count = 0;
        for (int64_t unit; (unit = atomic_fetch_add_explicit(&job->taken[stage], 1, memory_order_relaxed)) < units; count++)
            run_unit(m, job, kind, layer, unit, scratch);
        if (count) atomic_fetch_add_explicit(&job->done[stage], count, memory_order_release);
        for (int looks = 0; atomic_load_explicit(&job->done[stage], memory_order_acquire) < units; looks++)
            if (looks < PATIENCE) _mm_pause(); else sched_yield();
    }
}

/* out[i] = the sum of rows [first, last) of hidden, or of row j times weight + j - first; always in the order of the rows. */
AVX2 static void add_up(const float *hidden, int64_t d, const int64_t *segments, int64_t count, int weighted, float *out) {
    for (int64_t i = 0; i < count; i++, segments += 3, out += d) {
        for (int64_t c = 0; c < d; c++) out[c] = 0;
        for (int64_t row = segments[0]; row < segments[1]; row++) {
            const float factor = weighted ? (float)(segments[2] + row - segments[0]) : 1.0f, *x = hidden + row * d;
            for (int64_t c = 0; c < d; c++) out[c] += factor * x[c];
        }
    }
}

/* reduce(hidden, dimension, segments, count, weighted, out): addresses and numbers. */
static PyObject *reduce(PyObject *self, PyObject *arguments) {
    (void)self;
    unsigned long long hidden, segments, out;
    long long dimension, count;
    int weighted;
    if (!PyArg_ParseTuple(arguments, "KLKLpK", &hidden, &dimension, &segments, &count, &weighted, &out)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    add_up((const float *)(uintptr_t)hidden, dimension, (const int64_t *)(uintptr_t)segments, count, weighted,
           (float *)(uintptr_t)out);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* run(model, job): addresses. Whether this worker was the last one to leave, so that the job may be used again, and whether an
 * id was unknown, which must be read before leaving. */
static PyObject *run(PyObject *self, PyObject *arguments) {
    (void)self;
    unsigned long long model, address;
    if (!PyArg_ParseTuple(arguments, "KK", &model, &address)) return NULL;
    Job *job = (Job *)(uintptr_t)address;
    int last, unknown;
    Py_BEGIN_ALLOW_THREADS
    work((const Model *)(uintptr_t)model, job);
    unknown = atomic_load(&job->unknown);
    last = atomic_fetch_sub(&job->inside, 1) == 1;
    Py_END_ALLOW_THREADS
    return Py_BuildValue("ii", last, unknown);
}

static PyObject *supported(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    __builtin_cpu_init();
    return PyBool_FromLong(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"));
}

/* The kernels of int8 products that this processor can run, best first. */
static PyObject *kernels(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    PyObject *found = PyList_New(0);
    for (int i = KERNEL_COUNT - 1; found != NULL && i > 0; i--) {
        if (!kernel_runs(i)) continue;
        PyObject *pair = Py_BuildValue("si", KERNELS[i].name, i);
        if (pair == NULL || PyList_Append(found, pair)) Py_CLEAR(found);
        Py_XDECREF(pair);
    }
    return found;
}

/* What the Python side must agree with. */
static PyObject *layout(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return Py_BuildValue("nnni", (Py_ssize_t)sizeof(Layer), (Py_ssize_t)sizeof(Model), (Py_ssize_t)sizeof(Job), PANEL);
}
#else
static PyObject *run(PyObject *self, PyObject *arguments) {
    (void)self, (void)arguments;
    PyErr_SetString(PyExc_RuntimeError, "the native pass is for x86-64");
    return NULL;
}

static PyObject *reduce(PyObject *self, PyObject *arguments) { return run(self, arguments); }

static PyObject *supported(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyBool_FromLong(0);
}

static PyObject *layout(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyTuple_New(0);
}

static PyObject *kernels(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyList_New(0);
}
#endif

static PyMethodDef FUNCTIONS[] = {
    {"run", run, METH_VARARGS, "run(model, job): take part in a pass; whether this worker left last, and whether an id was unknown."},
    {"reduce", reduce, METH_VARARGS, "reduce(hidden, dimension, segments, count, weighted, out): sums of rows."},
    {"supported", supported, METH_NOARGS, "Whether this processor has what the pass needs."},
    {"kernels", kernels, METH_NOARGS, "Names and numbers of the kernels of int8 products that run here, best first."},
    {"layout", layout, METH_NOARGS, "Bytes of a layer, a model and a job; columns of a panel."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_native", "The pass of a post-norm encoder, compiled.", 0, FUNCTIONS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&MODULE); }
