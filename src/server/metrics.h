/* metrics.h - what the server counts, for Prometheus: vLLM's names and labels, under a prefix that can be vLLM's own.
 *
 * Requests are counted here as they end; the engine and its KV cache count for themselves (struct kvasir_engine_stats), and
 * are asked when somebody asks us. TTFT and the queue begin when the engine is given the request, after tokenization.
 * All on the event loop's thread. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H
#include "server/reply.h"

struct metrics;
struct metrics *metrics_open(void); /* NULL: no memory */
void metrics_close(struct metrics *metrics);
/* A request of HTTP was answered or its client has left. */
void metrics_exchange(struct metrics *metrics, const struct exchange *exchange);
/* `count` tokens of one answer came, `seconds` after those before. */
void metrics_tokens(struct metrics *metrics, double seconds, size_t count);
/* An answer has ended, `seconds` after its request came. */
void metrics_answer(struct metrics *metrics, enum kvasir_finish finish, const struct kvasir_timings *timings,
                    double seconds);
/* All answers to a request have ended. max_tokens: 0 where it did not say; longest: of the answers, in tokens. */
void metrics_request(struct metrics *metrics, uint32_t answers, uint32_t max_tokens, uint64_t longest);
/* GET /metrics. */
void metrics_reply(struct server *server, struct evhttp_request *http, const struct api *api);
/* May a metric's name begin so? */
bool metrics_prefix_is_valid(const char *prefix);

#endif
