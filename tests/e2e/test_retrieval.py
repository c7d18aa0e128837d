#!/usr/bin/env python3
"""Retrieval attention as users ask for it: options, variables, fields of requests, and what is told of it.

    KVASIR=build/kvasir python3 test_retrieval.py [CLASS]

Models are tiny: how good its answers are is `kvasir eval retrieval`'s business.
"""
import json
import os
import resource
import subprocess
import tempfile

from test_operate import metrics, program
from test_server import A, HERE, KVASIR, WAIT_S, Case, main

TINY = os.path.join(HERE, "../data/tiny/qwen2")
SMALL = ("--retrieval-init-tokens", "16", "--retrieval-local-tokens", "32", "--retrieval-topk", "0.25", "--retrieval-dense-boundary", "100")
PUBLISHED = {"VLLM_PLUGINS": "ascend,retrieval", "VLLM_RETRIEVAL_INIT_TOKENS_NUM": "16", "VLLM_RETRIEVAL_LOCAL_TOKENS_NUM": "32",
             "VLLM_RETRIEVAL_TOPK_PERCENT": "0.25", "VLLM_RETRIEVAL_DENSE_BOUNDARY": "100", "VLLM_RETRIEVAL_OFFLOAD_BOUNDARY": "64K"}
IDS = ",".join(str(3 + 7 * i % 500) for i in range(300))


class RetrievalRun(Case):
    @classmethod
    def setUpClass(cls):  # needs no server
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def kvasir(self, *options, ids=IDS, **variables):
        """The answer's JSON, and the closing line."""
        done = subprocess.run([KVASIR, "run", TINY, "--prompt-ids", ids, "-n", "24", "--ignore-eos", "--output", "json", *options],
                              capture_output=True, text=True, timeout=WAIT_S, check=False, env={**os.environ, **variables})
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout), done.stderr

    def found(self, *options, **more):
        """With what a folder has: once more where a busy machine would compute sooner than read."""
        for _ in range(8):
            answer, line = self.kvasir(*options, "--kv-stats", **more)
            if not answer["kv"]["fetches_late"]:
                break
        return answer, line

    def test_rows(self):
        dense, line = self.kvasir()
        self.assertNotIn("retrieval", dense)
        self.assertNotIn("retrieval", line)
        sparse, line = self.kvasir("--retrieval", "on", *SMALL)
        inspected = json.loads(program("inspect", TINY, "--output", "json").stdout)["kv"]
        self.assertGreater(inspected["index_bytes_per_token"], 0)
        self.assertEqual(sparse["kv"]["bytes_per_token"] - dense["kv"]["bytes_per_token"], inspected["index_bytes_per_token"])
        rows = sparse["retrieval"]
        # 23 tokens after the first: 16 and 32 of some 310, and a quarter of the rest, in groups of 16.
        self.assertTrue(0.30 < rows["rows_read"] / rows["rows_dense"] < 0.45, rows)
        self.assertIn(f"retrieval read {100 * rows['rows_read'] / rows['rows_dense']:.1f} % of rows", line)
        self.assertEqual(sparse["token_ids"][0], dense["token_ids"][0])  # the prompt is computed exactly
        for same in (self.kvasir("--retrieval", "on", *SMALL, "-t", "1"), self.kvasir(**PUBLISHED),
                     self.kvasir("--retrieval", "auto", *SMALL), self.kvasir(KVASIR_RETRIEVAL="on", **{**PUBLISHED, "VLLM_PLUGINS": "x"})):
            self.assertEqual((same[0]["token_ids"], same[0]["retrieval"]), (sparse["token_ids"], rows))

    def test_all_is_dense(self):
        dense = self.kvasir()[0]["token_ids"]
        for options in (("--retrieval-topk", "1"), ("--retrieval-dense-boundary", "301"), ("--retrieval-dense-boundary", "1K"),
                        ("--retrieval-local-tokens", "400"), ("--retrieval", "off")):
            answer, line = self.kvasir("--retrieval", "on", *SMALL, *options)
            self.assertEqual((answer["token_ids"], answer.get("retrieval", {}).get("rows_dense", 0)), (dense, 0), options)
            self.assertNotIn("retrieval", line)
        self.assertEqual(self.kvasir(**{**PUBLISHED, "VLLM_PLUGINS": "retrievals"})[0]["token_ids"], dense)
        self.assertEqual(self.kvasir("--retrieval", "off", **PUBLISHED)[0]["token_ids"], dense)

    def test_files(self):
        """What is saved after a sparse answer was computed anew, exactly: a later run finds all of it."""
        with tempfile.TemporaryDirectory(prefix="kvasir-e2e-") as folder:
            path = os.path.join(folder, "a.kv")
            sparse = self.kvasir("--retrieval", "on", *SMALL, "--kv-save", path)[0]
            ids = ",".join(str(token) for token in sparse["prompt_ids"] + sparse["token_ids"] + [5])
            loaded, line = self.kvasir("--retrieval", "on", *SMALL, "--kv-load", path, ids=ids)
            self.assertIn("prompt 325 tokens, 324 cached", line)
            for options in (("--retrieval", "on"), ("--retrieval", "auto")):
                self.assertEqual(self.kvasir(*options, *SMALL, ids=ids)[0]["token_ids"], loaded["token_ids"])
            done = program("run", TINY, "--prompt-ids", ids, "--kv-load", path)  # without an index it is of something else
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)

    def test_restart(self):
        """The prompt's blocks come back from a folder with their entries of the index; of the answer nothing does."""
        with tempfile.TemporaryDirectory(prefix="kvasir-e2e-") as folder:
            options = ("--retrieval", "on", *SMALL, "--kv-disk", os.path.join(folder, "kv"))
            first = self.kvasir(*options)[0]
            again, line = self.found(*options)
            self.assertIn("prompt 300 tokens, 288 cached", line)
            self.assertEqual((again["token_ids"], again["retrieval"]), (first["token_ids"], first["retrieval"]))
            ids = ",".join(str(token) for token in first["prompt_ids"] + first["token_ids"] + [5])
            more, line = self.found(*options, ids=ids)
            self.assertIn("prompt 325 tokens, 288 cached", line)
            self.assertEqual(more["token_ids"], self.kvasir(*options[:-2], ids=ids)[0]["token_ids"])

    def test_offload(self):
        """K and V in a folder: the same answer, in less memory."""
        sparse = self.kvasir("--retrieval", "on", *SMALL)[0]
        with tempfile.TemporaryDirectory(prefix="kvasir-e2e-") as folder:
            options = ("--retrieval", "on", *SMALL, "--kv-disk", os.path.join(folder, "kv"), "--kv-stats")
            for boundary, some in (("200", True), ("301", False)):
                answer = self.kvasir(*options, "--retrieval-offload-boundary", boundary)[0]
                self.assertEqual((answer["token_ids"], answer["retrieval"]), (sparse["token_ids"], sparse["retrieval"]))
                self.assertEqual((answer["kv"]["most_bytes_offloaded"] > 0, answer["kv"]["read_slices"] > 0), (some, some))

    def test_small_files(self):
        """Files that may not grow (ulimit -f) are as a full disk: what was to go there stays in memory."""
        sparse = self.kvasir("--retrieval", "on", *SMALL)[0]
        with tempfile.TemporaryDirectory(prefix="kvasir-e2e-") as folder:
            done = subprocess.run([KVASIR, "run", TINY, "--prompt-ids", IDS, "-n", "24", "--ignore-eos", "--output", "json", "--retrieval", "on", *SMALL,
                                   "--kv-disk", os.path.join(folder, "kv"), "--retrieval-offload-boundary", "200"],
                                  capture_output=True, text=True, timeout=WAIT_S, check=False,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["token_ids"], sparse["token_ids"])
        self.assertIn("the disk of the folder for the KV cache is full", done.stderr)

    def test_bad_values(self):
        for options, says in ((("--retrieval", "yes"), "'yes' is not one of off|on|auto"),
                              (("--retrieval-topk", "20"), "--retrieval-topk: '20' is not in the range"),
                              (("--retrieval-dense-boundary", "32X"), "'32X' is not a number of tokens such as 32768 or 32K"),
                              (("--retrieval-local-tokens", "0"), "--retrieval-local-tokens"),
                              (("--retrieval", "on", "--retrieval-offload-boundary", "1K"), "below its dense boundary"),
                              (("--retrieval", "on", "--no-kv-cache"), "needs the KV cache")):
            done = program("run", TINY, "--prompt-ids", "1,2", *options)
            self.assertIn(says, done.stderr)
            self.assertEqual((done.stdout, done.stderr.count("\n"), done.returncode in (1, 2)), ("", 1, True), done.stderr)
        for name, value in (("VLLM_RETRIEVAL_TOPK_PERCENT", "20%"), ("VLLM_RETRIEVAL_DENSE_BOUNDARY", "big"), ("KVASIR_RETRIEVAL", "1")):
            for command in (("run", TINY, "--prompt-ids", "1"), ("serve", TINY, "--port", "0")):
                done = program(*command, env={**os.environ, name: value})
                self.assertEqual((done.stdout, done.stderr.count("\n"), done.returncode), ("", 1, 2), done.stderr)
                self.assertIn(f"{name}: '{value}'", done.stderr)


class RetrievalServer(Case):
    OPTIONS = ("--retrieval", "on", *SMALL)

    def counted(self, body, path="/v1/completions", server=None):
        """By how much its metrics grew: answers, rows read, rows of full attention."""
        names = [f"retrieval_{name}_total" for name in ("answers", "rows_read", "rows_dense")]
        before = metrics(server or self.server)[1]
        status, _, answer = (server or self.server).ask(path, body)
        self.assertEqual(status, 200, answer)
        after = metrics(server or self.server)[1]
        return [after[name] - before[name] for name in names]

    def test_fields(self):
        long, short = "m" * 300, "m" * 50
        body = {"prompt": long, "max_tokens": 20}
        answers, read, dense = self.counted(body)
        self.assertTrue(answers == 1 and 0.3 < read / dense < 0.45, (answers, read, dense))
        for fields in ({"retrieval": "off"}, {"retrieval": {"topk": 1}}, {"prompt": short}, {"max_tokens": 1}):
            self.assertEqual(self.counted({**body, **fields}), [0, 0, 0], fields)
        for fields, low, high in (({"retrieval": "on"}, 0.3, 0.45), ({"retrieval": {"mode": "auto", "topk": 0.5}}, 0.5, 0.7), ({"retrieval": None}, 0.3, 0.45)):
            answers, read, dense = self.counted({**body, **fields})
            self.assertTrue(answers == 1 and low < read / dense < high, (fields, answers, read, dense))
        self.assertEqual(self.counted({**body, "n": 3})[0], 3)
        chat = {"messages": [{"role": "user", "content": long}], "max_tokens": 20}
        self.assertEqual(self.counted(chat, "/v1/chat/completions")[0], 1)
        self.assertEqual(self.counted({**chat, "retrieval": "off"}, "/v1/chat/completions")[0], 0)
        self.assertEqual(self.counted({"input": long, "max_output_tokens": 20, "retrieval": {"topk": 0.1}}, "/v1/responses")[0], 1)

    def test_next_turn(self):
        """What a sparse answer computed is found by nobody, what its prompt left by all."""
        text = "n" * 300
        _, _, first = self.server.ask("/v1/completions", {"prompt": text, "max_tokens": 40, "logit_bias": A})
        more = {"prompt": text + first["choices"][0]["text"] + "more", "max_tokens": 5, "logit_bias": A}
        for retrieval in ("off", "on"):
            _, _, answer = self.server.ask("/v1/completions", {**more, "retrieval": retrieval})
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            self.assertTrue(cached == 300 if retrieval == "off" else cached > 330, (retrieval, answer["usage"]))

    def test_refused(self):
        for bad in (True, 0.2, "ON", {"topk": 0}, {"mode": "on", "top_k": 0.2}):
            status, _, answer = self.server.ask("/v1/completions", {"prompt": "a", "retrieval": bad})
            self.assertEqual((status, answer["error"]["param"]), (400, "retrieval"))
        plain = self.own()
        for bad in ("on", "auto", {"topk": 0.2}):
            status, _, answer = plain.ask("/v1/completions", {"prompt": "a", "retrieval": bad})
            self.assertEqual(status, 400)
            self.assertIn("the engine was opened without it", answer["error"]["message"])
        self.assertEqual(self.counted({"prompt": "m" * 300, "retrieval": "off"}, server=plain), [0, 0, 0])


if __name__ == "__main__":
    main()
