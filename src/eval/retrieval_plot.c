/* retrieval_plot.c - a heat map of what retrieval answers right of what dense attention does, as one SVG 1.1 picture: a panel for each
 * task and budget, depth of the needle to the right, lengths downwards.
 *
 * It needs nothing but itself: text in the reader's own sans-serif, colours for light and dark surroundings. */
#include "eval/retrieval_internal.h"

#define CELL_WIDTH 40u
#define CELL_HEIGHT 24u
#define LABEL_WIDTH 70u
#define TITLE_HEIGHT 40u
#define PANEL_WIDTH (LABEL_WIDTH + CELL_WIDTH * RETRIEVAL_DEPTHS + 20u)

static const char HEAD[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" width=\"%u\" height=\"%u\" role=\"img\" "
    "aria-label=\"answers kept by retrieval attention, by task, depth and length\">\n"
    "<style>\n"
    "text { font: 12px sans-serif; fill: #1f2328; }\n"
    ".title { font-weight: bold; }\n"
    ".paper { fill: #ffffff; }\n"
    ".none { fill: #d0d7de; }\n"
    ".cell { fill: #1f2328; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "  text { fill: #e6edf3; }\n"
    "  .paper { fill: #0d1117; }\n"
    "  .none { fill: #30363d; }\n"
    "}\n"
    "</style>\n"
    "<rect class=\"paper\" width=\"%u\" height=\"%u\"/>\n";

/* From red (0) over yellow to green (1). */
static void draw_cell(uint32_t x, uint32_t y, uint32_t both, uint32_t dense, struct buffer *out)
{
    buffer_printf(out, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" ", x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2);
    if (!dense) {
        buffer_text(out, "class=\"none\"/>\n");
        return;
    }
    double share = (double)both / dense;
    buffer_printf(out, "fill=\"hsl(%.0f, 65%%, 62%%)\"><title>%u of %u</title></rect>\n", 120 * share, both, dense);
    buffer_printf(out, "<text class=\"cell\" x=\"%u\" y=\"%u\" text-anchor=\"middle\">%.0f</text>\n",
                  x + CELL_WIDTH / 2 - 1, y + CELL_HEIGHT / 2 + 3, 100 * share);
}

static void draw_panel(const struct retrieval *r, uint32_t task, size_t budget, uint32_t x, uint32_t y,
                       struct buffer *out)
{
    const struct eval_retrieval_options *o = r->options;
    buffer_printf(
        out,
        "<text class=\"title\" x=\"%u\" y=\"%u\">%s<tspan font-weight=\"normal\">, budget %.3g %%</tspan></text>\n",
        x + LABEL_WIDTH, y + 18, haystack_task_name(task), 100 * o->budgets[budget]);
    for (uint32_t d = 0; d < RETRIEVAL_DEPTHS; d++)
        buffer_printf(out, "<text x=\"%u\" y=\"%u\" text-anchor=\"middle\">%u</text>\n",
                      x + LABEL_WIDTH + d * CELL_WIDTH + CELL_WIDTH / 2 - 1, y + 34, 100 * d / RETRIEVAL_DEPTHS);
    for (size_t i = 0; i < o->length_count; i++) {
        const struct retrieval_cell *cell = retrieval_cell(r, i, task, budget);
        uint32_t top = y + TITLE_HEIGHT + (uint32_t)i * CELL_HEIGHT;
        buffer_printf(out, "<text x=\"%u\" y=\"%u\" text-anchor=\"end\">%u</text>\n", x + LABEL_WIDTH - 8,
                      top + CELL_HEIGHT / 2 + 3, cell->length);
        for (uint32_t d = 0; d < RETRIEVAL_DEPTHS; d++)
            draw_cell(x + LABEL_WIDTH + d * CELL_WIDTH, top, cell->both_at[d], cell->dense_at[d], out);
    }
}

enum status retrieval_plot(const struct retrieval *r, struct buffer *out, struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    const uint32_t panel_height = TITLE_HEIGHT + (uint32_t)o->length_count * CELL_HEIGHT + 16;
    uint32_t rows = 0;
    for (uint32_t task = 0; task < TASK_COUNT; task++) rows += retrieval_tests(r, task);
    const uint32_t width = (uint32_t)o->budget_count * PANEL_WIDTH, height = rows * panel_height + 34;
    buffer_printf(out, HEAD, width, height, width, height, width, height);
    buffer_printf(
        out,
        "<text x=\"%u\" y=\"20\">%% of dense attention's right answers, by depth of the needle (%% of the text) "
        "and length</text>\n",
        LABEL_WIDTH);
    for (uint32_t task = 0, row = 0; task < TASK_COUNT; task++) {
        for (size_t b = 0; b < o->budget_count && retrieval_tests(r, task); b++)
            draw_panel(r, task, b, (uint32_t)b * PANEL_WIDTH, 34 + row * panel_height, out);
        row += retrieval_tests(r, task);
    }
    buffer_text(out, "</svg>\n");
    return report_done(out, error);
}
