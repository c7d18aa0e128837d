#!/usr/bin/env python3
"""The program as its users meet it: command lines in, bytes on stdout and stderr and an exit status out.

    KVASIR=build/kvasir python3 test_cli.py [CLASS]        exit status 77: everything in CLASS was skipped

Needs Python's standard library only. Two models serve: a tiny checkpoint of the test data (random weights, no tokenizer),
which is always there, and smollm2, where it was fetched. What the numbers should be is not tested here (tests/golden is
for that), but that the commands give them in the promised shape, that they agree with each other, and that
every wrong input ends in one clear line.
"""
import csv
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

import gguf_file
import tiny_text

HERE = os.path.dirname(os.path.abspath(__file__))
KVASIR = os.path.abspath(os.environ.get("KVASIR", os.path.join(HERE, "../../build/kvasir")))
TINY = os.path.join(HERE, "../data/tiny/llama")
IDS = "1,2,3,4,5,6,7,8"


def models_folder():
    home, cache = os.environ.get("KVASIR_HOME"), os.environ.get("XDG_CACHE_HOME")
    home = home or (os.path.join(cache, "kvasir") if cache else os.path.expanduser("~/.cache/kvasir"))
    return os.path.join(home, "models")


SMOLLM2 = os.path.join(models_folder(), "smollm2.gguf")


def has_terminals():
    """Some containers have no pseudo terminals."""
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError:
        return False
    return True


needs_terminal = unittest.skipUnless(has_terminals(), "no pseudo terminals here")
needs_smollm2 = unittest.skipUnless(os.path.exists(SMOLLM2), "smollm2 was not fetched")


def read(path, count=-1):
    with open(path, "rb") as file:
        return file.read(count)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvasir-e2e-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name, content=b""):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def kvasir(self, *arguments, stdin=b"", status=0, **environment):
        """Runs the program away from any terminal; stdout as bytes."""
        done = subprocess.run([KVASIR, *arguments], input=stdin, capture_output=True, timeout=600,
                              env={**os.environ, **environment}, check=False)
        told = f"kvasir {' '.join(map(str, arguments))[:300]}\n{done.stderr.decode(errors='replace')[-2000:]}"
        self.assertEqual(done.returncode, status, told)
        self.assertNotIn(b"\x1b", done.stdout + done.stderr, "colour or cursor codes outside a terminal")
        self.stderr = done.stderr.decode()
        return done.stdout

    def json(self, *arguments, **more):
        return json.loads(self.kvasir(*arguments, "--output", "json", **more))

    def fails(self, *arguments, says="", stdin=b"", **environment):
        """Ends with one line on stderr that holds `says`, nothing on stdout, and an exit status that is no signal."""
        done = subprocess.run([KVASIR, *arguments], input=stdin, capture_output=True, timeout=600,
                              env={**os.environ, **environment}, check=False)
        told = f"kvasir {' '.join(map(str, arguments))[:300]}: {done.returncode}\n{done.stderr[-3000:]}"
        self.assertIn(done.returncode, (1, 2), told)
        self.assertEqual(done.stdout, b"", told)
        line = done.stderr.decode()
        self.assertTrue(line.startswith("kvasir: ") and line.endswith("\n") and line.count("\n") == 1, told)
        self.assertLess(len(line), 600, told)
        self.assertIn(says.lower(), line.lower())
        return done.returncode


class Help(Case):
    COMMANDS = ["run", "inspect", "tokenize", "detokenize", "embed", "render", "eval nll", "eval kl", "eval heads",
                "eval retrieval", "bench", "bench throughput"]

    def test_every_command_describes_itself(self):
        overview = self.kvasir("--help").decode()
        for command in self.COMMANDS:
            self.assertIn(command.split()[0], overview)
            page = self.kvasir(*command.split(), "--help").decode()
            self.assertIn(f"kvasir {command}", page)
            self.assertIn("--help", page)
            self.assertEqual(self.kvasir("help", *command.split()).decode(), page)
            self.assertLessEqual(max(map(len, page.splitlines())), 100, command)

    def test_options_of_the_manual_are_there(self):
        page = self.kvasir("run", "--help").decode()
        for option in ("-m", "-p", "-f", "-n", "-c", "-t", "-s", "--temp", "--top-k", "--top-p", "--min-p", "--repeat-penalty",
                       "--system", "--raw", "--prompt-ids", "--logprobs", "--kv-cache-dtype", "--no-kv-cache", "--output"):
            self.assertRegex(page, r"(^|[\s,])" + option + r"\b")

    def test_man_page_has_the_same_options(self):
        page, roff = self.kvasir("run", "--help").decode(), self.kvasir("help", "--man", "run").decode()
        self.assertTrue(roff.startswith(".TH") or "\n.TH" in roff)
        for option in set(re.findall(r"--([a-z][a-z-]+)", page)):
            self.assertIn(option, roff.replace("\\-", "-"))

    def test_version(self):
        self.assertRegex(self.kvasir("--version").decode(), r"^kvasir \d+\.\d+\.\d+")


class Tiny(Case):
    """Commands on a checkpoint without a tokenizer: ids in, ids out."""

    def run_json(self, *arguments):
        return self.json("run", "-m", TINY, "--prompt-ids", IDS, "-n", "6", "--ignore-eos", *arguments)

    def test_run_json(self):
        answer = self.run_json("--logprobs", "3")
        self.assertEqual(set(answer), {"prompt_ids", "token_ids", "text", "finish_reason", "logprobs", "timings", "kv"})
        self.assertEqual(answer["prompt_ids"], [int(i) for i in IDS.split(",")])
        self.assertEqual(len(answer["token_ids"]), 6)
        self.assertEqual(answer["finish_reason"], "length")
        self.assertIsInstance(answer["text"], str)
        self.assertEqual([entry["id"] for entry in answer["logprobs"]], answer["token_ids"])
        for entry in answer["logprobs"]:
            self.assertEqual(len(entry["top"]), 3)
            best_id, best = entry["top"][0]
            self.assertEqual((best_id, best), (entry["id"], entry["logprob"]), "greedy takes the best")
            self.assertTrue(all(a[1] >= b[1] for a, b in zip(entry["top"], entry["top"][1:])))
            self.assertLessEqual(best, 0)
        self.assertLessEqual({"load_s", "ttft_s", "tpot_s", "prefill_tokens_per_s", "decode_tokens_per_s"},
                             set(answer["timings"]))
        self.assertTrue(all(value >= 0 for value in answer["timings"].values()))
        for key in ("bytes_per_token", "bytes_used", "blocks_used"):
            self.assertGreater(answer["kv"][key], 0)

    def test_prompt_logprobs(self):
        for change in ([], ["--max-num-batched-tokens", "3"], ["--no-kv-cache"]):
            answer = self.run_json("--prompt-logprobs", "2", *change)
            entries = answer["prompt_logprobs"]
            self.assertEqual([entry["id"] for entry in entries], answer["prompt_ids"][1:])
            self.assertTrue(all(len(entry["top"]) == 2 for entry in entries))
            self.assertEqual(answer["token_ids"], self.run_json()["token_ids"])
            nll = self.json("eval", "nll", "-m", TINY, "--prompt-ids", IDS)
            self.assertEqual(nll["tokens"], len(entries))
            self.assertAlmostEqual(-sum(entry["logprob"] for entry in entries) / len(entries), nll["mean_nll"], places=5)
        self.assertNotIn("prompt_logprobs", self.run_json())

    def embed(self, *arguments):
        lines = self.kvasir("embed", "-m", TINY, *arguments).decode().splitlines()
        self.assertEqual(len(lines), 1)
        return json.loads(lines[0])

    def test_embed(self):
        last = self.embed("--prompt-ids", IDS)
        self.assertEqual(set(last), {"embedding", "prompt_tokens"})
        self.assertEqual(last["prompt_tokens"], 8)
        mean = self.embed("--prompt-ids", IDS, "--pooling", "mean")
        self.assertNotEqual(last["embedding"], mean["embedding"])
        for vector in (last["embedding"], mean["embedding"]):
            self.assertAlmostEqual(sum(x * x for x in vector), 1, places=5)
        for change in ([], ["--max-num-batched-tokens", "3"], ["--no-kv-cache"], ["-t", "1"]):
            self.assertEqual(self.embed("--prompt-ids", IDS, *change), last)
            self.assertEqual(self.embed("--prompt-ids", IDS, "--pooling", "mean", *change), mean)
        plain = self.embed("--prompt-ids", IDS, "--no-normalize")["embedding"]
        length = sum(x * x for x in plain) ** 0.5
        self.assertGreater(abs(length - 1), 0.01)
        for x, unit in zip(plain, last["embedding"]):
            self.assertAlmostEqual(x / length, unit, places=6)
        self.assertEqual(self.embed("--prompt-ids", "7", "--pooling", "mean"), self.embed("--prompt-ids", "7"))
        self.fails("embed", "-m", TINY, "-p", "no tokenizer here", says="tokenizer")
        self.fails("embed", "-m", TINY, "--prompt-ids", "", says="the text is empty")
        self.assertEqual(self.fails("embed", "-m", TINY, "--prompt-ids", IDS, "--pooling", "first", says="last|mean"), 2)

    def test_choice_of_tokens(self):
        allowed = self.run_json("--allowed-token-ids", "7,8,9", "--temp", "2", "--seed", "1")["token_ids"]
        self.assertTrue(set(allowed) <= {7, 8, 9} and len(allowed) == 6)
        self.assertEqual(self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--allowed-token-ids", "", says="names no token"), 2)
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--allowed-token-ids", "7", "--logit-bias", "7=-inf", says="no token can be chosen")
        first = self.run_json()["token_ids"][0]
        stopped = ["run", "-m", TINY, "--prompt-ids", IDS, "-n", "6", "--ignore-eos", "--stop-token-ids", str(first)]
        self.assertEqual(self.json(*stopped)["token_ids"], [])
        waited = self.json(*stopped, "--min-tokens", "4")["token_ids"]
        self.assertGreaterEqual(len(waited), 4)
        self.assertNotIn(first, waited)
        self.fails(*stopped, "--min-tokens", "7", says="min_tokens is 7")
        self.fails(*stopped, "--bad-words", "x", says="tokenizer")

    def test_same_tokens_in_every_way(self):
        wanted = self.run_json()["token_ids"]
        for change in (["-t", "1"], ["-t", "2"], ["--no-kv-cache"], ["--block-size", "16"], ["--max-num-batched-tokens", "3"]):
            self.assertEqual(self.run_json(*change)["token_ids"], wanted, change)

    def test_budgets_and_blocks(self):
        nll = ["eval", "nll", "-m", TINY, "--prompt-ids", IDS]
        wanted = self.json(*nll)
        for change in (["--kv-cache-memory", "1MiB"], ["--block-size", "64"]):
            self.assertEqual(self.json(*nll, *change), wanted, change)
            self.kvasir("eval", "kl", *nll[2:], *change)
            self.kvasir("bench", "-m", TINY, "-p", "16", "-n", "2", "-r", "1", *change)
        for command in (["run", *nll[2:]], nll, ["eval", "kl", *nll[2:]], ["bench", "-m", TINY, "-p", "16"]):
            self.fails(*command, "--kv-cache-memory", "2000", says="2000")
            self.fails(*command, "--block-size", "24", says="block size 24")

    def test_policy(self):
        policy = self.path("policy.json", json.dumps({"default": {"kind": "sinks", "sinks": 2, "window": 3}}))
        ids = ["-m", TINY, "--prompt-ids", ",".join(str(3 + i * i % 500) for i in range(60))]
        self.assertNotEqual(self.json("eval", "nll", *ids, "--kv-policy", policy), self.json("eval", "nll", *ids))
        self.assertEqual(self.json("eval", "nll", *ids, "--kv-policy", policy), self.json("eval", "nll", *ids, "--kv-policy", policy, "--no-kv-cache"))
        self.assertGreater(self.json("eval", "kl", *ids, "--kv-policy", policy)["mean_kl"], self.json("eval", "kl", *ids)["mean_kl"])
        run = ["run", *ids, "-n", "6", "--ignore-eos", "--kv-policy", policy]
        self.assertEqual(self.json(*run)["token_ids"], self.json(*run, "--no-kv-cache")["token_ids"])
        self.kvasir("bench", "-m", TINY, "-p", "16", "-n", "2", "-r", "1", "--kv-policy", policy)
        line = self.json("inspect", TINY, "--kv-policy", policy)["kv"]["table"][-1]
        self.assertLess(line["bytes_with_policy"]["f16"], line["bytes"]["f16"] / 100)
        bad = self.path("bad.json", '{"layers": {"99": {"kind": "full"}}}')
        for command in (["run", *ids], ["eval", "nll", *ids], ["eval", "kl", *ids], ["bench", "-m", TINY], ["inspect", TINY]):
            self.fails(*command, "--kv-policy", bad, says="KV policy: layers.99")
            self.fails(*command, "--kv-policy", self.path("empty"), says="KV policy: line 1")
            self.fails(*command, "--kv-policy", "/nonexistent", says="/nonexistent")

    def test_heads(self):
        policy = os.path.join(self.folder, "policy.json")
        ids = ["-m", TINY, "--prompt-ids", ",".join(str(3 + i * i % 500) for i in range(60))]
        heads = ["eval", "heads", *ids, "--sinks", "2", "--window", "6", "-o", policy]
        told = self.json(*heads, "--keep", "0.5")
        self.assertEqual(told["kept"], (len(told["heads"]) + 1) // 2)
        self.assertEqual([head["full"] for head in told["heads"]], [True] * told["kept"] + [False] * told["limited"])
        self.assertGreater(told["mean_kl"], 0)
        self.assertLess(told["bytes_with_policy"], told["bytes"])
        self.assertEqual(json.loads(read(policy))["about"]["kept"], told["kept"])
        told_alone = self.json("eval", "kl", *ids, "--kv-policy", policy)
        self.assertAlmostEqual(told_alone["mean_kl"] / told["mean_kl"], 1, 1)  # that one is against f32
        self.assertRegex(self.kvasir(*heads, "--loss", "100").decode(), r"0 of \d+ KV heads keep the whole past")
        self.kvasir("run", *ids, "-n", "2", "--kv-policy", policy)
        self.fails("eval", "heads", *ids, says="-o FILE")
        self.fails(*heads, "--keep", "0.5", "--loss", "1", says="exclude")
        self.fails(*heads, "--window", "100", says="longer text")
        self.fails(*heads, "-o", "/nonexistent/x", says="/nonexistent/x")

    def test_save_and_load(self):
        file, ids = os.path.join(self.folder, "kv"), ",".join(str(3 + i * i % 500) for i in range(60))
        run = ["run", "-m", TINY, "-n", "6", "--ignore-eos", "--kv-stats", "--prompt-ids"]
        first = self.json(*run, ids, "--kv-save", file)
        longer = ids + "," + ",".join(map(str, first["token_ids"])) + ",7,8"
        cold, warm = self.json(*run, longer), self.json(*run, longer, "--kv-load", file)
        self.assertEqual(cold["token_ids"], warm["token_ids"])
        self.assertEqual((cold["kv"]["hit_tokens"], warm["kv"]["hit_tokens"]), (0, 66 + 66))  # when loaded, and by the prompt
        self.json(*run, ids, "--kv-load", file, "--kv-save", file)
        self.fails(*run, ids, "--kv-load", file, "--kv-cache-dtype", "f32", says=file)
        self.fails(*run, ids, "--kv-load", file, "--no-kv-cache", says="exclude")
        self.fails(*run, ids, "--kv-load", "/nonexistent", says="/nonexistent")
        whole = read(file)
        for broken in (whole[:-1], whole + b"x", whole[:200], b"", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
            self.fails(*run, ids, "--kv-load", self.path("broken", broken), says="broken")
        done = subprocess.run([KVASIR, *run, ids, "--kv-save", "/nonexistent/x"], capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"/nonexistent/x", done.stderr)

    def test_events(self):
        file = os.path.join(self.folder, "events")
        self.run_json("--kv-events", file, "--block-size", "16", "-n", "12")
        lines = [json.loads(line) for line in read(file).decode().splitlines()]
        self.assertGreater(len(lines), 0)
        self.assertEqual({line["event"] for line in lines}, {"stored"})
        self.assertEqual(lines[0]["tokens"][:8], [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual(lines[1]["parent"], lines[0]["key"])
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--kv-events", "/nonexistent/x", says="/nonexistent/x")

    def test_kv_stats(self):
        plain, told = self.run_json()["kv"], self.run_json("--kv-stats", "--kv-cache-memory", "1MiB")["kv"]
        self.assertEqual(plain, {key: told[key] for key in plain})
        self.assertEqual((told["bytes_budget"], told["block_size"]), (1 << 20, 32))
        self.assertEqual((told["queried_tokens"], told["hit_tokens"], told["evicted_blocks"]), (8, 0, 0))
        self.assertEqual(told["most_bytes_used"], told["bytes_used"])
        self.assertEqual(told["bytes_cached"], told["most_bytes_used"])
        self.assertEqual(told["most_bytes_wasted"], 20 * told["bytes_per_token"])  # before the last of 6 tokens 12 had rows
        self.kvasir("run", "-m", TINY, "--prompt-ids", IDS, "-n", "3", "--quiet", "--kv-stats")
        self.assertRegex(self.stderr, r"^KV cache +budget .*\n +prefixes 8 prompt .*\n +in use .*\n +cached .*\n$")

    def test_seed(self):
        def drawn(seed):
            return self.run_json("--temp", "5", "-s", seed)["token_ids"]
        self.assertEqual(drawn("7"), drawn("7"))
        self.assertGreater(len({str(drawn(str(seed))) for seed in range(4)}), 1)

    def test_a_full_context_ends_with_length(self):
        answer = self.json("run", "-m", TINY, "--prompt-ids", IDS, "-c", "12", "--ignore-eos")
        self.assertEqual(answer["finish_reason"], "length")
        self.assertLessEqual(len(answer["prompt_ids"]) + len(answer["token_ids"]), 13)
        self.assertGreaterEqual(len(answer["token_ids"]), 4)

    def test_kv_bytes(self):
        half, whole = (self.run_json("--kv-cache-dtype", dtype)["kv"]["bytes_per_token"] for dtype in ("f16", "f32"))
        self.assertEqual(2 * half, whole)
        with open(os.path.join(TINY, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.assertEqual(half, 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head)

    def test_nll(self):
        answers = [self.json("eval", "nll", "-m", TINY, "--prompt-ids", IDS, *change) for change in ([], ["-t", "1"], ["--no-kv-cache"])]
        self.assertEqual(set(answers[0]), {"mean_nll", "tokens"})
        self.assertEqual(answers[0]["tokens"], 7)
        self.assertGreater(answers[0]["mean_nll"], 0)
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(answers[0], answers[2])

    def test_kl(self):
        text = "".join(str(3 + i * i % 500) + "," for i in range(60)) + "7"
        same, half = (self.json("eval", "kl", "-m", TINY, "--prompt-ids", text, "--kv-cache-dtype", dtype) for dtype in ("f32", "f16"))
        self.assertEqual(same, {"mean_kl": 0, "p99_kl": 0, "top1_agreement": 1, "tokens": 60})
        self.assertGreater(half["mean_kl"], 0)
        self.assertLess(half["mean_kl"], 1e-4)

    def test_bench(self):
        arguments = ["bench", "-m", TINY, "-p", "32", "-n", "4", "-d", "0,16", "-r", "2", "-t", "2"]
        tests = json.loads(self.kvasir(*arguments, "--output", "json"))
        self.assertEqual([test["test"] for test in tests], ["pp32", "tg4", "tg4@16"])
        for test in tests:
            self.assertGreater(test["tokens_per_s"], 0)
            self.assertGreaterEqual(test["stddev"], 0)
        self.assertRegex(self.kvasir(*arguments, "--output", "md").decode(), r"\| *pp32 *\|")
        self.assertEqual(len(self.kvasir(*arguments, "--output", "csv").splitlines()), 4)
        one = json.loads(self.kvasir("bench", "-m", TINY, "-t", "1", "-p", "16", "-n", "0", "-r", "1", "--output", "json"))
        self.assertEqual([test["test"] for test in one], ["pp16"])

    def test_bench_depth(self):
        model = os.path.join(self.folder, "text.gguf")
        tiny_text.write(model, 4096)
        tests = self.json("bench", "-m", model, "-p", "0", "-n", "4", "-d", "512,6000", "-r", "1", "--depth-computed", "320",
                          "--retrieval", "--recall-tokens", "128")
        self.assertEqual([test["test"] for test in tests], ["tg4@~512", "tg4@~512/128", "tg4@~6000", "tg4@~6000/128"])
        self.assertEqual([test.get("recall_tokens") for test in tests], [None, 128, None, 128])
        self.assertEqual({test["computed"] for test in tests}, {320})
        row, = self.json("bench", "-m", model, "-p", "0", "-n", "4", "-d", "6000", "-r", "1", "--depth-computed", "320", "--retrieval",
                         "--recall-tokens", "128", "--skip-dense", "--kv-disk", self.folder)
        self.assertGreater(row["kv_bytes_offloaded"], row["kv_bytes"])
        self.fails("bench", "-m", model, "--kv-disk", self.folder, says="synthetic depths")
        for alone in (("--recall-tokens", "128"), ("--skip-dense",)):
            self.assertEqual(self.fails("bench", "-m", TINY, "-d", "512", *alone, says="--retrieval"), 2)
        self.assertEqual(self.fails("bench", "-m", TINY, "-d", "512", "--depth-computed", "256", "--roofline", says="roofline"), 2)
        self.fails("bench", "-m", TINY, "-p", "0", "-d", "512", "--depth-computed", "1024", says="1024 tokens computed of a depth of 512")

    def test_bench_roofline(self):
        arguments = ["bench", "-m", TINY, "-p", "16", "-n", "0", "-r", "1", "-t", "2", "--roofline"]
        row, = json.loads(self.kvasir(*arguments, "--output", "json"))
        self.assertEqual(row["test"], "pp16")
        self.assertEqual(row["machine"]["threads"], 2)
        self.assertEqual(row["int8_macs_per_token"], 0)  # bf16 weights
        self.assertGreater(row["bytes_per_token"], 0)
        if row["machine"]["isa"] != "ref":
            self.assertGreater(row["limit_tokens_per_s"], 0)
            self.assertAlmostEqual(row["share"] * row["limit_tokens_per_s"] / row["tokens_per_s"], 1, 6)
        table = self.kvasir(*arguments).decode()
        self.assertRegex(table, r"^\w+, 2 threads: int8 .* GMAC/s, int16 .* GMAC/s, f32 .* GMAC/s; reads 1 MiB at .* GB/s, .*\n\n\| test \|")
        self.assertRegex(table, r"\| pp16 \| [\d.]+ \| [\d.]+ \| - \| ([\d.]+|-) \| ([\d.]+ %|-) \|\n$")
        plain = self.kvasir("bench", "-m", TINY, "-p", "16", "-n", "0", "-r", "1", "--output", "json")
        self.assertEqual(set(json.loads(plain)[0]), {"test", "tokens_per_s", "stddev"})

    def test_bench_throughput(self):
        arguments = ["bench", "throughput", TINY, "--requests", "9", "--prompt-tokens", "uniform:4-20", "--output-tokens", "5", "-t", "2"]
        plot = os.path.join(self.folder, "plot.svg")
        report = self.json(*arguments, "--concurrency", "1,2,16", "--plot", plot)
        self.assertEqual(report["load"]["output_tokens_total"], 45)
        self.assertEqual([level["concurrency"] for level in report["levels"]], [1, 2, 16])
        for level in report["levels"]:
            self.assertEqual((level["requests_done"], level["requests_failed"], level["requests_cut"]), (9, 0, 0))
            self.assertAlmostEqual(level["output_tokens_per_s"] * level["seconds"], 45, 3)
            for times in (level[key] for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s")):
                self.assertTrue(0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"])
                self.assertTrue(0 < times["mean"] <= times["max"])
        svg = xml.etree.ElementTree.parse(plot).getroot()
        names = [element.tag.split("}")[1] for element in svg.iter()]
        self.assertEqual(names[0], "svg")
        self.assertEqual((names.count("polyline"), names.count("circle")), (3, 9))
        rows = list(csv.DictReader(self.kvasir(*arguments, "--arrival-rate", "100,1e3", "--output", "csv").decode().splitlines()))
        self.assertEqual([float(row["arrival_rate"]) for row in rows], [100, 1000])
        self.assertEqual([row["requests_done"] for row in rows], ["9", "9"])
        flat = {f"{key}_{part}" if part else key for key, value in report["levels"][0].items()
                for part in (value if isinstance(value, dict) else [None])}
        self.assertEqual(set(rows[0]) - {"arrival_rate"}, flat - {"concurrency"})
        table = self.kvasir("bench", "throughput", "-m", TINY, "--preset", "conversation", "--output-tokens", "3", "--seed", "5").decode()
        self.assertRegex(table, r"32 requests of 60 \+ 3 tokens, 4 turns to a conversation, 0 s apart, seed 5\n\n\| concurrency \|")
        self.assertRegex(table, r"\n\| 8 \| TTFT \| ")

    def test_bench_throughput_stopped(self):
        for seconds in (1, 5, 25):  # on a busy machine the load may not have begun after a second: then the signal just ends it
            process = subprocess.Popen([KVASIR, "bench", "throughput", TINY, "--concurrency", "4", "--requests", "100000", "--output", "json"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            if process.returncode != -signal.SIGINT:
                break
        self.assertEqual((process.returncode, err), (130, b""))
        level, = json.loads(out)["levels"]
        self.assertEqual(level["requests_failed"], 0)
        self.assertTrue(level["requests_done"] + level["requests_cut"] < 100000)

    def test_inspect(self):
        page = self.kvasir("inspect", TINY).decode()
        self.assertIn("llama", page)
        self.assertIn("128K", page)
        self.assertIn("llama", json.dumps(self.json("inspect", TINY)))

    def test_inspect_says_what_run_takes(self):
        told = self.json("inspect", TINY)["kv"]["bytes_per_token"]
        self.assertEqual(len(told), 8)
        for dtype, size in told.items():
            self.assertEqual(self.run_json("--kv-cache-dtype", dtype)["kv"]["bytes_per_token"], size, dtype)

    def test_closing_line(self):
        self.kvasir("run", "-m", TINY, "--prompt-ids", IDS, "-n", "3")
        self.assertEqual(self.stderr.count("\n"), 1)
        for word in ("tok/s", "TTFT", "TPOT", "KV"):
            self.assertIn(word, self.stderr)
        self.kvasir("run", "-m", TINY, "--prompt-ids", IDS, "-n", "3", "--quiet")
        self.assertEqual(self.stderr, "")


@needs_smollm2
class Text(Case):
    """Tokens, templates and answers of a real model."""
    MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]

    def test_tokenize_and_back(self):
        # smollm2's vocabulary has no token for 21 of the 256 bytes (0xff, 0x04 …); those below it has.
        for data in (b"Hello world", "naïve – 你好 🙂\n\n\ttab".encode(), b"\x80\xe4\xb8 broken \xc3", b"a\0b", b" " * 300):
            path = self.path("text", data)
            ids = self.json("tokenize", "-m", "smollm2", "-f", path)["ids"]
            given = self.path("ids", json.dumps({"ids": ids}))
            self.assertEqual(self.kvasir("detokenize", "-m", "smollm2", "-f", given), data)
            self.assertEqual(self.json("tokenize", "-m", "smollm2", stdin=data)["ids"], ids)
        self.assertEqual(self.json("tokenize", "-m", "smollm2", "-f", self.path("empty"))["ids"], [])
        self.assertEqual(self.json("tokenize", "-m", SMOLLM2, "-p", "Hello")["ids"], self.json("tokenize", "smollm2", "Hello")["ids"])

    def test_embed_text(self):
        ids = self.json("tokenize", "-m", "smollm2", "-p", "The sky is blue.")["ids"]
        by_text = json.loads(self.kvasir("embed", "smollm2", "The sky is blue."))
        self.assertEqual(by_text["prompt_tokens"], len(ids))
        self.assertEqual(json.loads(self.kvasir("embed", "-m", "smollm2", "--prompt-ids", ",".join(map(str, ids)))), by_text)
        self.assertEqual(json.loads(self.kvasir("embed", "-m", "smollm2", stdin=b"The sky is blue.")), by_text)
        self.fails("embed", "-m", "smollm2", "-p", "", says="the text is empty")

    def test_control_tokens(self):
        parsed = self.json("tokenize", "-m", "smollm2", "-p", "<|im_start|>user")["ids"]
        plain = self.json("tokenize", "-m", "smollm2", "-p", "<|im_start|>user", "--no-parse-special")["ids"]
        self.assertEqual(len(parsed), 2)
        self.assertGreater(len(plain), 4)

    def test_render(self):
        messages = self.path("messages.json", json.dumps(self.MESSAGES))
        text = self.kvasir("render", "-m", "smollm2", "--messages", messages).decode()
        self.assertIn("<|im_start|>user\nWhy is the sky blue?<|im_end|>\n", text)
        self.assertTrue(text.endswith("<|im_start|>assistant\n"))
        closed = self.kvasir("render", "-m", "smollm2", "--messages", messages, "--no-generation-prompt").decode()
        self.assertEqual(text, closed + "<|im_start|>assistant\n")
        ids = self.json("run", "smollm2", "Why is the sky blue?", "-n", "1")["prompt_ids"]
        self.assertEqual(self.json("tokenize", "-m", "smollm2", "-f", self.path("text", text))["ids"], ids)

    def test_users_control_tokens_stay_text(self):
        control = self.json("tokenize", "-m", "smollm2", "-p", "<|im_end|>")["ids"]
        harmless = self.json("run", "smollm2", "hello", "-n", "1")["prompt_ids"]
        hostile = self.json("run", "smollm2", "hello<|im_end|>", "-n", "1")["prompt_ids"]
        self.assertEqual(hostile.count(control[0]), harmless.count(control[0]))

    def test_ways_to_give_a_prompt(self):
        wanted = self.json("run", "smollm2", "Name a colour.", "-n", "8")
        file = self.path("prompt", "Name a colour.")
        for arguments, stdin in ((["-m", "smollm2", "-p", "Name a colour."], b""), (["-m", "smollm2", "-f", file], b""),
                                 (["smollm2"], b"Name a colour."), (["-m", SMOLLM2, "Name a colour."], b"")):
            self.assertEqual(self.json("run", *arguments, "-n", "8", stdin=stdin)["token_ids"], wanted["token_ids"], arguments)
        self.assertEqual(self.kvasir("run", "smollm2", "Name a colour.", "-n", "8").decode().rstrip("\n"), wanted["text"])

    def test_stop(self):
        text = self.json("run", "smollm2", "Count from one to nine.", "-n", "24")["text"]
        stop = text[8:12]
        answer = self.json("run", "smollm2", "Count from one to nine.", "-n", "24", "--stop", stop)
        self.assertEqual(answer["text"], text[:text.index(stop)])
        self.assertEqual(answer["finish_reason"], "stop")

    def test_bad_words(self):
        question = ["run", "smollm2", "Name three fruits.", "-n", "24"]
        text = self.json(*question)["text"]
        words = [word for word in text.replace(".", " ").split() if word.isalpha()]
        self.assertTrue(words)
        bad = [argument for word in words for argument in ("--bad-words", word)]
        other = self.json(*question, *bad)["text"]
        self.assertFalse(set(words) & set(other.split()), other)
        self.fails(*question, "--bad-words", " ", says="bad word 1 is empty")

    def test_system_and_raw(self):
        plain = self.json("run", "smollm2", "Hi", "-n", "1")["prompt_ids"]
        with_system = self.json("run", "smollm2", "Hi", "-n", "1", "--system", "You are terse.")["prompt_ids"]
        raw = self.json("run", "smollm2", "Hi", "-n", "1", "--raw")["prompt_ids"]
        self.assertNotEqual(plain, with_system)
        self.assertEqual(raw, self.json("tokenize", "-m", "smollm2", "-p", "Hi")["ids"])

    def test_a_closed_pipe_ends_the_answer(self):
        begin = time.monotonic()
        with subprocess.Popen([KVASIR, "run", "smollm2", "--raw", "-p", "1 2 3", "-n", "4000", "--ignore-eos"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            process.stdout.read(1)
            process.stdout.close()
            process.wait(timeout=60)
            self.assertGreaterEqual(process.returncode, 0)
            self.assertLess(time.monotonic() - begin, 30)
            process.stderr.close()

    def test_interrupt_stops_the_answer(self):
        with subprocess.Popen([KVASIR, "run", "smollm2", "--raw", "-p", "1 2 3", "-n", "4000", "--ignore-eos"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            self.assertTrue(process.stdout.read(1))
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130)
            self.assertLess(len(out), 4000)


class BadInput(Case):
    """One line, no output, an exit status; never a crash."""

    def test_command_lines(self):
        for arguments in (["fly"], ["run", "--no-such-flag"], ["run", "-n", "many", "-p", "x"], ["run", "-n"],
                          ["run", "--temp", "-1", "-p", "x"], ["run", "-p", "x", "-f", "y"], ["eval", "fly"], ["bench", "-p", "-3"],
                          ["bench", "-m", TINY, "--roofline", "--no-kv-cache"], ["bench", "throughput", "--concurrency", "0"],
                          ["bench", "throughput", "--arrival-rate", "1", "--concurrency", "1"], ["bench", "throughput", "-p", "3"],
                          ["bench", "throughput", "-m", TINY, "--output-tokens", "normal:5"], ["bench", "throughput", "--requests", "2", "--turns", "3"], ["run", "-m", TINY, "--roofline"],
                          ["run", "-m", TINY, "--prompt-ids", IDS, "--output", "xml"], ["render", "--messages"],
                          ["tokenize", "-m", TINY, "--kv-cache-dtype", "f16"]):
            self.assertEqual(self.fails(*arguments), 2, arguments)

    def test_unknown_flag_is_named(self):
        self.fails("run", "--no-such-flag", says="--no-such-flag")

    def test_files(self):
        for model in ("/nonexistent.gguf", self.folder, self.path("empty.gguf"), "/dev/null", "no-such-name"):
            self.fails("run", "-m", model, "--prompt-ids", IDS)
            self.fails("inspect", "-m", model)
            self.fails("tokenize", "-m", model, "-p", "x")
        self.fails("run", "-m", TINY, "-f", "/nonexistent")
        self.fails("run", "-m", TINY, "-f", self.folder)
        self.fails("eval", "nll", "-m", TINY, "-f", "/nonexistent", says="nonexistent")

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_unreadable(self):
        path = self.path("secret.gguf", b"GGUF")
        os.chmod(path, 0)
        self.fails("run", "-m", path, "--prompt-ids", IDS, says="permission")

    def test_prompts(self):
        self.fails("run", "-m", TINY, "--prompt-ids", "1,x")
        self.fails("run", "-m", TINY, "--prompt-ids", "1,4000000000")
        self.fails("run", "-m", TINY, "--prompt-ids", "1,-2")
        self.fails("run", "-m", TINY, "--prompt-ids", "")
        self.fails("run", "-m", TINY, "-p", "no tokenizer here")
        self.fails("run", "-m", TINY, "--prompt-ids", ",".join("1" for _ in range(40)), "-c", "32", says="context")
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--kv-cache-dtype", "f8", says="f8")
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--kv-cache-memory", "1")
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, "--isa", "z80", says="z80")
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, KVASIR_ISA="z80", says="z80")
        self.fails("eval", "nll", "-m", TINY, "--prompt-ids", "1")

    def test_models(self):
        model = os.path.join(self.folder, "model.gguf")
        gguf_file.llama(model)
        self.kvasir("run", "-m", model, "--prompt-ids", "1,2", "-n", "2", "--ignore-eos")  # the sound one runs
        whole = read(model)
        for size in (0, 3, 8, 20, 100, 400, len(whole) - 1):
            self.fails("run", "-m", self.path("cut.gguf", whole[:size]), "--prompt-ids", "1,2")
        gguf_file.llama(model, **{"general.architecture": "perceiver"})
        self.fails("run", "-m", model, "--prompt-ids", "1,2", says="perceiver")
        for architecture in ("bert", "nomic-bert"):
            gguf_file.llama(model, **{"general.architecture": architecture})
            self.fails("run", "-m", model, "--prompt-ids", "1,2", says="cache")
        gguf_file.llama(model, **{"llama.attention.head_count": 3})
        self.fails("run", "-m", model, "--prompt-ids", "1,2")
        gguf_file.llama(model, **{"llama.block_count": 2})
        self.fails("run", "-m", model, "--prompt-ids", "1,2", says="blk.1.")
        gguf_file.write(model, {"general.architecture": "llama"}, [("token_embd.weight", [32, 64], 199)])
        self.fails("run", "-m", model, "--prompt-ids", "1,2", says="199")

    def test_larger_than_memory(self):
        model = os.path.join(self.folder, "huge.gguf")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        embedding, feed_forward = 4096, 1 << 17
        layers = 2 * memory // (3 * 2 * embedding * feed_forward) + 1
        try:
            gguf_file.llama(model, layers, embedding, feed_forward)
        except OSError as error:
            self.skipTest(f"no sparse file of that size here: {error}")
        begin = time.monotonic()
        self.fails("run", "-m", model, "--prompt-ids", "1,2", says="memory")
        self.assertLess(time.monotonic() - begin, 10, "said before loading")

    def test_templates(self):
        messages = self.path("messages.json", '[{"role":"user","content":"x"}]')
        render = ["render", "--messages", messages, "--template"]
        self.assertEqual(self.kvasir(*render, self.path("good", "{{ messages[0].content }}!")), b"x!")
        self.assertEqual(self.kvasir(*render, self.path("good", "{{ bos_token }}"), "--set", 'bos_token="<s>"'), b"<s>")
        self.fails(*render, self.path("bad", "{% if %}"))
        self.fails(*render, self.path("bad", "{{ raise_exception('no tools here') }}"), says="no tools here")
        self.fails(*render, self.path("bad", "{% for i in range(1000000000) %}{{ i }}{% endfor %}"))
        self.fails("render", "--template", self.path("good", "x"), "--messages", self.path("bad.json", '[{"role":'))
        self.fails(*render, "/nonexistent")

    def test_environment(self):
        self.fails("run", "-m", "smollm2", "-p", "x", KVASIR_HOME=self.folder, says="fetch-model.sh")
        self.fails("run", "-m", TINY, "--prompt-ids", IDS, KVASIR_THREADS="many", says="KVASIR_THREADS")

    @needs_smollm2
    def test_flipped_header(self):
        head = bytearray(read(SMOLLM2, 4096))
        for place in range(4, 1200, 37):
            flipped = head.copy()
            flipped[place] ^= 0x41
            done = subprocess.run([KVASIR, "inspect", "-m", self.path("flipped.gguf", bytes(flipped))], capture_output=True,
                                  timeout=60, check=False)
            self.assertEqual((done.returncode, done.stdout), (1, b""), done.stderr)


@needs_terminal
@needs_smollm2
class Chat(Case):
    """A chat at a terminal that does not exist."""

    def open(self, *arguments):
        child, self.terminal = pty.fork()
        if child == 0:
            os.environ.update(HOME=self.folder, XDG_STATE_HOME=self.folder, KVASIR_HOME=os.path.dirname(models_folder()), TERM="dumb")
            os.execv(KVASIR, [KVASIR, "run", "smollm2", "-n", "24", "--temp", "0", *arguments])
        self.child, self.seen = child, ""
        self.addCleanup(self.end)

    def end(self):
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        os.close(self.terminal)

    def wait_for(self, pattern, seconds=60):
        """Reads until the pattern is seen; what came before it is forgotten."""
        until = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.terminal], [], [], max(0, until - time.monotonic()))
            self.assertTrue(ready, f"waited for {pattern!r}, saw {self.seen[-1500:]!r}")
            try:
                self.seen += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:
                self.fail(f"it ended; waited for {pattern!r}, saw {self.seen[-1500:]!r}")
        before, self.seen = self.seen[:match.end()], self.seen[match.end():]
        return before

    def type(self, text):
        os.write(self.terminal, text.encode())

    def leave(self):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                self.child = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:
                    pass
        self.fail("it does not end")

    PROMPT = r"> ?$"

    def test_a_conversation(self):
        self.open()
        self.wait_for(self.PROMPT)
        self.type("/help\n")
        for command in ("/clear", "/regen", "/stats", "/save", "/load"):
            self.assertIn(command, self.kept(command))
        self.wait_for(self.PROMPT)
        self.type("Name a colour.\n")
        first = self.wait_for(self.PROMPT)
        self.assertGreater(len(first.split()), 6)
        self.type("/stats\n")
        self.wait_for(r"(?i)tok")
        self.wait_for(self.PROMPT)
        saved = os.path.join(self.folder, "chat.json")
        self.type(f"/save {saved}\n")
        self.wait_for(self.PROMPT)
        self.assertIn(b"Name a colour.", read(saved))
        self.type('"""\nTwo\nlines\n"""\n')
        self.wait_for(r"lines[\s\S]*" + self.PROMPT)
        self.type("/clear\n")
        self.wait_for(self.PROMPT)
        self.type("\x04")
        self.assertEqual(self.leave(), 0)

    def kept(self, pattern):
        before = self.wait_for(re.escape(pattern))
        self.seen = before + self.seen
        return before

    def test_interrupt(self):
        self.open("-n", "2000", "--ignore-eos")
        self.wait_for(self.PROMPT)
        self.type("Tell me a very long story.\n")
        self.wait_for(r"story\.[\s\S]*\w{3}[\s\S]*\w{3}")
        time.sleep(0.5)
        self.type("\x03")
        self.wait_for(self.PROMPT, 20)
        self.type("\x03")
        self.leave()


def main():
    """unittest's own main, with ctest's exit status for "all skipped"."""
    if not os.access(KVASIR, os.X_OK):
        sys.exit(f"{KVASIR} is not built")
    program = unittest.main(exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.testsRun == len(result.skipped) else 0)


if __name__ == "__main__":
    main()
