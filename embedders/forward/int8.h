/* Products of int8, and the inputs' way there.
 *
 * A row of inputs is 8 bits, unsigned, with a scale and a least value of its own: round((x - least) / scale). Weights are signed,
 * with a scale for each column. AVX2 adds products in pairs to 16 bits, saturated, so neighbouring weights of one sign are at most
 * 128 together: 255 * 128 = 32640 stays below 32768. So every kernel computes the same integers, and which one runs is of no
 * matter to a vector.
 *
 * A panel is [k / 4, 16, 4]: four inputs of a row meet four weights of each column in one instruction.
 */

/* out[rows, 16] = a[rows, k] panel */
typedef void Tile8(const uint8_t *a, int64_t k, const int8_t *panel, int32_t *out);

#define TILE8_SCALAR(COUNT)                                                                                            \
    static void scalar##COUNT(const uint8_t *a, int64_t k, const int8_t *panel, int32_t *out) {                        \
        for (int64_t r = 0; r < COUNT; r++)                                                                            \
            for (int64_t c = 0; c < PANEL; c++) {                                                                      \
                int32_t sum = 0;                                                                                       \
                for (int64_t i = 0; i < k; i++) sum += a[r * k + i] * panel[i / 4 * 4 * PANEL + 4 * c + i % 4];        \
                out[PANEL * r + c] = sum;                                                                              \
            }                                                                                                          \
    }

#define TILE8_256(NAME, TARGET, DOT, COUNT)                                                                            \
    __attribute__((target(TARGET))) static void NAME##COUNT(const uint8_t *a, int64_t k, const int8_t *panel, int32_t *out) {\
        __m256i sums[COUNT][2];                                                                                        \
        UNROLL for (int r = 0; r < COUNT; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();                       \
        for (int64_t i = 0; i < k; i += 4, panel += 4 * PANEL) {                                                       \
            const __m256i left = _mm256_loadu_si256((const __m256i *)panel);                                           \
            const __m256i right = _mm256_loadu_si256((const __m256i *)(panel + 32));                                   \
            UNROLL for (int r = 0; r < COUNT; r++) {                                                                   \
                const __m256i x = _mm256_set1_epi32(quad(a + r * k + i));                                              \
                sums[r][0] = DOT(sums[r][0], x, left);                                                                 \
                sums[r][1] = DOT(sums[r][1], x, right);                                                                \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int r = 0; r < COUNT; r++) {                                                                       \
            _mm256_store_si256((__m256i *)(out + PANEL * r), sums[r][0]);                                              \
            _mm256_store_si256((__m256i *)(out + PANEL * r + 8), sums[r][1]);                                          \
        }                                                                                                              \
    }

#define TILE8_512(COUNT)                                                                                               \
    __attribute__((target("avx512f,avx512vnni"))) static void wide##COUNT(const uint8_t *a, int64_t k, const int8_t *panel,\
                                                                          int32_t *out) {                              \
        __m512i sums[COUNT];                                                                                           \
        _Pragma("GCC unroll 16") for (int r = 0; r < COUNT; r++) sums[r] = _mm512_setzero_si512();                     \
        for (int64_t i = 0; i < k; i += 4, panel += 4 * PANEL) {                                                       \
            const __m512i weights = _mm512_loadu_si512(panel);                                                         \
            _Pragma("GCC unroll 16") for (int r = 0; r < COUNT; r++)                                                   \
                sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(quad(a + r * k + i)), weights);               \
        }                                                                                                              \
        _Pragma("GCC unroll 16") for (int r = 0; r < COUNT; r++) _mm512_store_si512(out + PANEL * r, sums[r]);         \
    }

/* Four bytes that need not be aligned. */
static inline __attribute__((always_inline)) int32_t quad(const uint8_t *x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return four;
}

#define DOT_AVX2(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
#define UP_TO_6(TILE) TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#define AVX2_TILE(COUNT) TILE8_256(pairs, "avx2", DOT_AVX2, COUNT)
#define VNNI_TILE(COUNT) TILE8_256(quads, "avx2,avxvnni", _mm256_dpbusd_avx_epi32, COUNT)
UP_TO_6(TILE8_SCALAR)
UP_TO_6(AVX2_TILE)
UP_TO_6(VNNI_TILE)
UP_TO_6(TILE8_512)
TILE8_512(7) TILE8_512(8) TILE8_512(9) TILE8_512(10) TILE8_512(11) TILE8_512(12)

#define NAMES_TO_6(NAME) NULL, NAME##1, NAME##2, NAME##3, NAME##4, NAME##5, NAME##6
static const struct {
    const char *name;
    int64_t rows;
    Tile8 *tiles[MOST_ROWS + 1];
} KERNELS[] = {
    {NULL, 0, {NULL}},
    {"scalar", 6, {NAMES_TO_6(scalar)}},
    {"avx2", 6, {NAMES_TO_6(pairs)}},
    {"avx_vnni", 6, {NAMES_TO_6(quads)}},
    {"avx512_vnni", MOST_ROWS, {NAMES_TO_6(wide), wide7, wide8, wide9, wide10, wide11, wide12}},
};
enum { KERNEL_COUNT = sizeof(KERNELS) / sizeof(KERNELS[0]) };

static int kernel_runs(int kernel) {
    __builtin_cpu_init();
    switch (kernel) {
        case 3: return __builtin_cpu_supports("avxvnni") != 0;
        case 4: return __builtin_cpu_supports("avx512vnni") != 0;
        default: return kernel > 0 && kernel < KERNEL_COUNT;
    }
}

/* A row's scale and least value. */
typedef struct {
    float scale, least;
} Range;

/* A row in 8 bits. A number that is not finite makes the scale NaN, and with it all that the row is multiplied with. */
AVX2 static void quantise(const float *x, const float *smoothing, int64_t n, uint8_t *out, Range *range) {
    __m256 low = _mm256_set1_ps(INFINITY), high = _mm256_set1_ps(-INFINITY), nothing = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 smoothed = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(smoothing + i));
        low = _mm256_min_ps(low, smoothed);
        high = _mm256_max_ps(high, smoothed);
        nothing = _mm256_fmadd_ps(smoothed, _mm256_setzero_ps(), nothing); /* of infinity and NaN it is NaN */
    }
    float least[8], most[8], finite[8];
    _mm256_storeu_ps(least, low);
    _mm256_storeu_ps(most, high);
    _mm256_storeu_ps(finite, nothing);
    for (int i = 1; i < 8; i++) {
        least[0] = least[i] < least[0] ? least[i] : least[0];
        most[0] = most[i] > most[0] ? most[i] : most[0];
        finite[0] += finite[i];
    }
    const float width = most[0] - least[0];
    range->scale = width / 255.0f + finite[0];
    range->least = least[0];
    const __m256 factor = _mm256_set1_ps(width > 1e-30f ? 255.0f / width : 0.0f), from = _mm256_set1_ps(least[0]);
    for (int64_t i = 0; i < n; i += 16) {
        const __m256 a = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(smoothing + i));
        const __m256 b = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(smoothing + i + 8));
        const __m256i rounded = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(a, from), factor)),
                                                   _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(b, from), factor)));
        const __m256i ordered = _mm256_permute4x64_epi64(rounded, 0xD8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
        _mm_storeu_si128((__m128i *)(out + i), bytes);
    }
}
