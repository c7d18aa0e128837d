/* histogram.c - see histogram.h. */
#include "server/histogram.h"
#include <math.h>

void histogram_init(struct histogram *histogram, const double *bounds, uint32_t count)
{
    ASSERT(count <= HISTOGRAM_BOUNDS_MAX);
    *histogram = (struct histogram){.bounds = bounds, .count = count};
}

void histogram_add(struct histogram *histogram, double value, uint64_t times)
{
    uint32_t i = 0;
    while (i < histogram->count && value > histogram->bounds[i]) i++;
    histogram->counts[i] += times;
    histogram->sum += value * (double)times;
}

void metric_head(struct buffer *out, const char *prefix, const char *name, const char *type, const char *help)
{
    buffer_printf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

static void write_value(struct buffer *out, double value)
{
    if (value == floor(value) && fabs(value) < 1e15)
        buffer_printf(out, " %.0f\n", value);
    else
        buffer_printf(out, " %.9g\n", value);
}

void metric_sample(struct buffer *out, const char *prefix, const char *name, const char *labels, double value)
{
    buffer_printf(out, "%s%s", prefix, name);
    if (*labels) buffer_printf(out, "{%s}", labels);
    write_value(out, value);
}

void metric_histogram(struct buffer *out, const char *prefix, const char *name, const char *labels,
                      const struct histogram *histogram)
{
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    uint64_t below = 0;
    for (uint32_t i = 0; i < histogram->count; i++) {
        below += histogram->counts[i];
        buffer_printf(out, "%s%s_bucket{%s%sle=\"%.10g\"} %llu\n", prefix, name, labels, comma, histogram->bounds[i],
                      (unsigned long long)below);
    }
    below += histogram->counts[histogram->count];
    buffer_printf(out, "%s%s_bucket{%s%sle=\"+Inf\"} %llu\n", prefix, name, labels, comma, (unsigned long long)below);
    buffer_printf(out, "%s%s_sum%s%s%s", prefix, name, open, labels, close);
    write_value(out, histogram->sum);
    buffer_printf(out, "%s%s_count%s%s%s %llu\n", prefix, name, open, labels, close, (unsigned long long)below);
}

void metric_label(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            buffer_text(out, "\\n");
        else
            buffer_printf(out, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
    }
    buffer_text(out, "\"");
}
