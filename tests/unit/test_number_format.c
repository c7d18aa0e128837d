/* test_number_format.c - decoding, against vectors made by another reader of these files (data/number_formats/make.py);
 * sizes, names, f16 both ways over all its values. */
#include "kernel/kernel.h"
#include "support.h"
#include <math.h>
#include <strings.h>

static size_t hex_decode(const char *hex, size_t digits, uint8_t *out)
{
    for (size_t i = 0; i < digits / 2; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return digits / 2;
}

static enum number_format format_named(const char *name)
{
    for (int f = 0; f < NF_COUNT; f++)
        if (strcasecmp(number_format_info((enum number_format)f)->name, name) == 0) return (enum number_format)f;
    fail_msg("format %s", name);
    return NF_COUNT;
}

static void test_decodes_as_gguf_does(void **state)
{
    (void)state;
    static char line[16384];
    static uint8_t blocks[1024], expected[4096];
    static float out[1024];
    uint32_t seen = 0;
    FILE *file = fopen(TEST_DATA "/number_formats/vectors.txt", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char *name = strtok(line, " \n"), *from = strtok(NULL, " \n"), *to = strtok(NULL, " \n");
        enum number_format format = format_named(name);
        size_t bytes = hex_decode(from, strlen(from), blocks + 1); /* an odd address: sources are unaligned */
        size_t count = hex_decode(to, strlen(to), expected) / 4;
        assert_int_equal(number_format_bytes(format, count), bytes);
        number_format_decode(format, blocks + 1, out, count);
        for (size_t i = 0; i < count; i++) {
            float want;
            memcpy(&want, expected + 4 * i, 4);
            if (memcmp(&want, &out[i], 4) && !(want == 0.0f && out[i] == 0.0f))
                fail_msg("%s[%zu]: %a, expected %a", name, i, (double)out[i], (double)want);
        }
        seen |= 1u << format;
    }
    fclose(file);
    assert_int_equal(seen, ((1u << NF_COUNT) - 1) & ~(1u << NF_F32));
}

static void test_decodes_f32_unaligned(void **state)
{
    (void)state;
    float values[3] = {1.5f, -2.25f, 1e-40f}, out[3];
    uint8_t bytes[13];
    memcpy(bytes + 1, values, 12);
    number_format_decode(NF_F32, bytes + 1, out, 3);
    assert_memory_equal(out, values, 12);
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(number_format_bytes(NF_Q4_K, 512), 288);
    assert_int_equal(number_format_bytes(NF_Q4_K, 500), 0);
    assert_int_equal(number_format_bytes(NF_Q4_0, 0), 0);
    assert_int_equal(number_format_bytes(NF_F32, UINT64_MAX / 2), 0);
    assert_int_equal(number_format_bytes(NF_F16, 7), 14);
    for (int f = 0; f < NF_COUNT; f++) {
        const struct number_format_info *info = number_format_info((enum number_format)f);
        assert_true(info->block_elements == 1 || info->block_elements == 32 || info->block_elements == 256);
        assert_int_equal(number_format_bytes((enum number_format)f, info->block_elements), info->block_bytes);
    }
}

static void test_names_of_cache_formats(void **state)
{
    (void)state;
    assert_string_equal(number_format_info(NF_FP8_E4M3)->name, "fp8_e4m3");
    assert_string_equal(number_format_info(NF_FP8_E5M2)->name, "fp8_e5m2");
    assert_string_equal(number_format_info(NF_INT8)->name, "int8");
    assert_string_equal(number_format_info(NF_INT4)->name, "int4");
    for (int f = NF_Q4_0; f < NF_COUNT; f++) assert_false(kernel_cache_format((enum number_format)f));
    for (int f = NF_F32; f <= NF_BF16; f++) assert_true(kernel_cache_format((enum number_format)f));
    for (int f = NF_FP8_E4M3; f < NF_CACHE_END; f++) assert_true(kernel_cache_format((enum number_format)f));
}

static void test_f16_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float value = f16_to_f32((uint16_t)h);
        uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
        if (exponent == 31 && fraction) {
            assert_true(isnan(value));
            assert_true(isnan(f16_to_f32(f16_from_f32(value))));
            continue;
        }
        double want = exponent == 31 ? INFINITY
                      : exponent     ? ldexp(1024 + (double)fraction, (int)exponent - 25)
                                     : ldexp(fraction, -24);
        assert_true((double)value == (h & 0x8000 ? -want : want));
        assert_int_equal(f16_from_f32(value), h);
    }
}

/* Halfway values go to the even neighbour, others to the nearer one. */
static void test_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double low = (double)f16_to_f32((uint16_t)h), high = (double)f16_to_f32((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        assert_int_equal(f16_from_f32(middle), h + (h & 1));
        assert_int_equal(f16_from_f32(nextafterf(middle, 0.0f)), h);
        assert_int_equal(f16_from_f32(-nextafterf(middle, 1e9f)), 0x8000 | (h + 1));
    }
    assert_int_equal(f16_from_f32(65519.0f), 0x7bff);
    assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(f16_from_f32(-1e30f), 0xfc00);
    assert_int_equal(f16_from_f32(1e-30f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decodes_as_gguf_does),
        cmocka_unit_test(test_decodes_f32_unaligned),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_names_of_cache_formats),
        cmocka_unit_test(test_f16_round_trip),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
