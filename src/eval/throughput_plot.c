/* throughput_plot.c - throughput and TTFT of the levels as one SVG 1.1 picture: two panels over a common axis.
 *
 * It needs nothing but itself: text in the reader's own sans-serif, colours for light and dark surroundings
 * (prefers-color-scheme). An axis is linear from 0; one whose values span WIDE or more is logarithmic. */
#include "eval/throughput_internal.h"
#include <math.h>
#include <stdlib.h>

#define WIDE 16.0 /* largest / smallest */
#define WIDTH 760
#define HEIGHT 640
#define LEFT 84.0
#define RIGHT 730.0
#define LABEL_GAP 30.0 /* px between two labels of the common axis, at least */

struct axis {
    double from, to;   /* values at its ends */
    double begin, end; /* px there */
    bool logarithmic;
};

/* What a panel shows of a level: a line, its class and its name in the legend. */
struct series {
    const char *style, *name;
    size_t at; /* of a double in struct throughput_level */
};

struct panel {
    const char *title, *unit;
    double top, bottom; /* px */
    struct series series[2];
    size_t series_count;
};

static const struct panel PANELS[] = {
    {"Throughput",
     "output tokens per second",
     56,
     296,
     {{"a", "output tokens per second", offsetof(struct throughput_level, output_tokens_per_s)}},
     1},
    {"Time to first token",
     "seconds",
     356,
     576,
     {{"a", "p50", offsetof(struct throughput_level, ttft_s.p50)},
      {"b", "p99", offsetof(struct throughput_level, ttft_s.p99)}},
     2},
};

static const char HEAD[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
    "aria-label=\"throughput and time to first token\">\n"
    "<style>\n"
    "text { font: 13px sans-serif; fill: #1f2328; }\n"
    ".title { font-weight: bold; }\n"
    ".paper { fill: #ffffff; }\n"
    ".grid { stroke: #d0d7de; }\n"
    ".a, .b { fill: none; stroke: #0969da; stroke-width: 2; }\n"
    ".b { stroke: #bc4c00; stroke-dasharray: 6 3; }\n"
    "circle.a { fill: #0969da; }\n"
    "circle.b { fill: #bc4c00; stroke-dasharray: none; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "  text { fill: #e6edf3; }\n"
    "  .paper { fill: #0d1117; }\n"
    "  .grid { stroke: #30363d; }\n"
    "  .a { stroke: #58a6ff; }\n"
    "  .b { stroke: #f0883e; }\n"
    "  circle.a { fill: #58a6ff; }\n"
    "  circle.b { fill: #f0883e; }\n"
    "}\n"
    "</style>\n"
    "<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n";

static double value_of(const struct throughput_level *level, size_t offset)
{
    return *(const double *)(const void *)((const char *)level + offset);
}

/* ---- axes -------------------------------------------------------------------------------------------------------- */

static double axis_px(const struct axis *axis, double value)
{
    double share = axis->logarithmic ? log(value / axis->from) / log(axis->to / axis->from)
                                     : (value - axis->from) / (axis->to - axis->from);
    return axis->begin + share * (axis->end - axis->begin);
}

/* 1, 2 or 5 times a power of ten: the least that is not below `value`. */
static double round_step(double value)
{
    double ten = pow(10, floor(log10(value)));
    const double steps[] = {1, 2, 5};
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++)
        if (steps[i] * ten >= value * 0.999999) return steps[i] * ten;
    return 10 * ten;
}

/* An axis that holds values from `least` to `most`, both above 0, ending at ticks. */
static struct axis axis_over(double least, double most, double begin, double end)
{
    struct axis axis = {.begin = begin, .end = end, .logarithmic = most >= WIDE * least};
    if (axis.logarithmic) {
        axis.from = pow(10, floor(log10(least)));
        axis.to = pow(10, ceil(log10(most)));
    } else {
        double step = round_step(most / 5);
        axis.to = step * ceil(most / step);
    }
    return axis;
}

/* The tick after `tick`. */
static double next_tick(const struct axis *axis, double tick)
{
    return axis->logarithmic ? tick * 10 : tick + round_step(axis->to / 5);
}

static void draw_ticks(const struct axis *axis, struct buffer *out)
{
    for (double tick = axis->from; tick <= axis->to * 1.000001; tick = next_tick(axis, tick)) {
        double y = axis_px(axis, tick);
        buffer_printf(out, "<line class=\"grid\" x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\"/>\n", LEFT, y, RIGHT,
                      y);
        buffer_printf(out, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 8, y + 4, tick);
    }
}

/* A label at every level that is not too near to the one before. */
static void draw_levels(const struct axis *x, const struct throughput_level *const *levels, size_t count, double y,
                        struct buffer *out)
{
    double last = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        double px = axis_px(x, levels[i]->at);
        if (px - last < LABEL_GAP) continue;
        buffer_printf(out, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.0f\" x2=\"%.1f\" y2=\"%.0f\"/>\n", px, y, px,
                      y + 5);
        buffer_printf(out, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.6g</text>\n", px, y + 20,
                      levels[i]->at);
        last = px;
    }
}

/* ---- panels ------------------------------------------------------------------------------------------------------ */

static void draw_series(const struct series *series, const struct axis *x, const struct axis *y,
                        const struct throughput_level *const *levels, size_t count, struct buffer *out)
{
    buffer_printf(out, "<polyline class=\"%s\" points=\"", series->style);
    for (size_t i = 0; i < count; i++) {
        double value = value_of(levels[i], series->at);
        if (value > 0) buffer_printf(out, "%.1f,%.1f ", axis_px(x, levels[i]->at), axis_px(y, value));
    }
    buffer_text(out, "\"/>\n");
    for (size_t i = 0; i < count; i++) {
        double value = value_of(levels[i], series->at);
        if (!(value > 0)) continue;
        buffer_printf(out,
                      "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>%s at %.6g: %.4g</title></circle>\n",
                      series->style, axis_px(x, levels[i]->at), axis_px(y, value), series->name, levels[i]->at, value);
    }
}

static void draw_legend(const struct panel *panel, struct buffer *out)
{
    for (size_t i = 0; i < panel->series_count && panel->series_count > 1; i++) {
        double left = RIGHT - 70 * (double)(panel->series_count - i), y = panel->top - 14;
        buffer_printf(out, "<line class=\"%s\" x1=\"%.0f\" y1=\"%.0f\" x2=\"%.0f\" y2=\"%.0f\"/>\n",
                      panel->series[i].style, left, y, left + 24, y);
        buffer_printf(out, "<text x=\"%.0f\" y=\"%.0f\">%s</text>\n", left + 30, y + 4, panel->series[i].name);
    }
}

static void draw_panel(const struct panel *panel, const struct axis *x, const struct throughput_level *const *levels,
                       size_t count, struct buffer *out)
{
    double least = INFINITY, most = 0;
    for (size_t s = 0; s < panel->series_count; s++)
        for (size_t i = 0; i < count; i++) {
            double value = value_of(levels[i], panel->series[s].at);
            if (value > 0) least = fmin(least, value);
            if (value > 0) most = fmax(most, value);
        }
    buffer_printf(out,
                  "<text class=\"title\" x=\"%.0f\" y=\"%.0f\">%s<tspan font-weight=\"normal\">, %s</tspan></text>\n",
                  LEFT, panel->top - 10, panel->title, panel->unit);
    draw_legend(panel, out);
    if (!(most > 0)) return; /* nothing was measured */
    struct axis y = axis_over(least, most, panel->bottom, panel->top);
    draw_ticks(&y, out);
    draw_levels(x, levels, count, panel->bottom, out);
    for (size_t s = 0; s < panel->series_count; s++) draw_series(&panel->series[s], x, &y, levels, count, out);
}

static int by_level(const void *a, const void *b)
{
    double x = (*(const struct throughput_level *const *)a)->at, y = (*(const struct throughput_level *const *)b)->at;
    return x < y ? -1 : x > y;
}

enum status throughput_plot(const struct throughput *throughput, struct buffer *out, struct error *error)
{
    size_t count = throughput->level_count;
    const struct throughput_level **levels = mem_zero(count, sizeof *levels);
    if (!levels) return error_set(error, ST_NOMEM, "not enough memory for a plot");
    for (size_t i = 0; i < count; i++) levels[i] = &throughput->levels[i];
    qsort(levels, count, sizeof *levels, by_level);
    buffer_printf(out, HEAD, WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    struct axis x = {0};
    if (count) x = axis_over(levels[0]->at, levels[count - 1]->at, LEFT, RIGHT);
    if (x.logarithmic) { /* the levels are its ticks: it need not end at a power of ten */
        x.from = levels[0]->at;
        x.to = levels[count - 1]->at;
    }
    for (size_t i = 0; i < ARRAY_COUNT(PANELS); i++) draw_panel(&PANELS[i], &x, levels, count, out);
    buffer_printf(out, "<text x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n</svg>\n", (LEFT + RIGHT) / 2,
                  HEIGHT - 14,
                  throughput->options->concurrency_count ? "requests at a time" : "requests arriving per second");
    mem_free(levels);
    return report_done(out, error);
}
