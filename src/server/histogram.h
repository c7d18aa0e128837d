/* histogram.h - Prometheus histograms and their text (https://github.com/prometheus/docs, exposition formats, version 0.0.4). */
#ifndef SERVER_HISTOGRAM_H
#define SERVER_HISTOGRAM_H
#include "base/base.h"

#define HISTOGRAM_BOUNDS_MAX 24u

struct histogram {
    const double *bounds; /* [count], ascending: upper ends of the buckets; the last one is +Inf */
    uint32_t count;
    uint64_t counts[HISTOGRAM_BOUNDS_MAX + 1]; /* not cumulative */
    double sum;
};
void histogram_init(struct histogram *histogram, const double *bounds, uint32_t count);
void histogram_add(struct histogram *histogram, double value, uint64_t times);

/* "# HELP" and "# TYPE" of one metric, then its samples; `labels`: "" or `name="value",…` (escaped). */
void metric_head(struct buffer *out, const char *prefix, const char *name, const char *type, const char *help);
void metric_sample(struct buffer *out, const char *prefix, const char *name, const char *labels, double value);
void metric_histogram(struct buffer *out, const char *prefix, const char *name, const char *labels,
                      const struct histogram *histogram);
/* name="value", with what the format wants escaped. */
void metric_label(struct buffer *out, const char *name, const char *value);

#endif
