#!/usr/bin/env python3
"""`kvasir serve` as its clients meet it.

    KVASIR=build/kvasir python3 test_server.py [CLASS]        exit status 77: everything in CLASS was skipped

Http speaks to the server over sockets, with Python's standard library only: what a client library hides (routes, malformed
bodies, clients that go away or do not read, signals). OpenAI uses the openai package, where scripts/fetch-client.sh has
put it or it is installed. The model is one of zeros whose tokens are the bytes (tiny_text.py), so that tests can say what it
answers. Everything is on loopback, on ports that the system chooses, and ends within stated times.
"""
import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import tiny_text

HERE = os.path.dirname(os.path.abspath(__file__))
KVASIR = os.path.abspath(os.environ.get("KVASIR", os.path.join(HERE, "../../build/kvasir")))
CONTEXT = 65536
LONG = 60000  # tokens that take seconds
WAIT_S = 60
A = {"97": 100}  # the logit bias with which every token is an 'a'


def cache_folder():
    home, cache = os.environ.get("KVASIR_HOME"), os.environ.get("XDG_CACHE_HOME")
    return home or (os.path.join(cache, "kvasir") if cache else os.path.expanduser("~/.cache/kvasir"))


sys.path.insert(1, os.path.join(cache_folder(), "python"))  # before what the machine has of the same packages
try:
    import openai
except ImportError:
    openai = None


class Server:
    """One server of the tiny model. `end` is the status it is expected to leave with."""

    def __init__(self, model, *options):
        self.process = subprocess.Popen([KVASIR, "serve", model, "--port", "0", "--threads", "1", *options],
                                        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.line = self.process.stderr.readline()
        found = re.search(r":(\d+)/v1$", self.line)
        if not found:
            raise AssertionError(self.line + self.process.stderr.read())
        self.port = int(found.group(1))
        self.connections = []

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def end(self, within=WAIT_S):
        """Waits for its end; its status."""
        self.process.wait(within)
        self.stderr = self.process.stderr.read()
        self.close()
        return self.process.returncode

    def close(self):
        for connection in self.connections:
            connection.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.process.stdout.close()

    def connect(self, **options):
        connection = socket.socket()
        self.connections.append(connection)
        for name, value in options.items():
            connection.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        connection.settimeout(WAIT_S)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def send(self, body, path="/v1/completions", **options):
        """A connection on which the request was written; nothing was read."""
        connection = self.connect(**options)
        data = json.dumps(body).encode()
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        return connection

    def ask(self, path, body=None, method=None):
        """Status, headers and parsed JSON of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, body)
        try:
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) * 1024


    def wait_until_idle(self):
        before = -1
        while before != (before := self.ticks()):
            time.sleep(0.3)

    def ticks(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))


def read_all(connection):
    """The body of the one chunked reply on a connection, and the rest of its bytes."""
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    data = reply.read()
    connection.close()
    return data


def events(data):
    """The JSON of a stream's events; it must end with [DONE]."""
    texts = data.decode().split("\n\n")
    assert texts[-2:] == ["data: [DONE]", ""], texts[-3:]
    assert all(text.startswith("data: ") for text in texts[:-1])
    return [json.loads(text[len("data: "):]) for text in texts[:-2]]


def text_of(stream):
    return "".join(choice.get("text", "") or choice.get("delta", {}).get("content", "")
                   for event in stream for choice in event.get("choices", []))


class Case(unittest.TestCase):
    OPTIONS = ()

    @staticmethod
    def write_model(path):
        tiny_text.write(path, CONTEXT)

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvasir-e2e-")
        cls.model = os.path.join(cls.folder, "tiny.gguf")
        cls.write_model(cls.model)
        cls.server = Server(cls.model, *cls.OPTIONS)

    @classmethod
    def tearDownClass(cls):
        cls.server.signal()
        status = cls.server.end()
        shutil.rmtree(cls.folder)
        assert status == 0, (status, cls.server.stderr)

    def own(self, *options):
        server = Server(self.model, *options)
        self.addCleanup(server.close)
        return server


class Http(Case):
    def test_routes(self):
        ask = self.server.ask
        self.assertEqual(self.server.line, f"kvasir: serving tiny at http://127.0.0.1:{self.server.port}/v1\n")
        self.assertEqual(ask("/health")[::2], (200, {"status": "ok"}))
        status, headers, models = ask("/v1/models")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertEqual([(m["id"], m["object"], m["max_model_len"]) for m in models["data"]], [("tiny", "model", CONTEXT)])
        self.assertEqual(ask("/v1/models/tiny")[2], models["data"][0])
        self.assertEqual(ask("/v1/models/ti%6ey?x=1")[0], 200)
        for path in ("/v1", "/v1/models/", "/v1/models/other", "/v1/models/..%2ftiny", "/v1/completions/", "/%00", "/../health"):
            status, _, answer = ask(path)
            self.assertEqual((status, answer["error"]["type"]), (404, "invalid_request_error"), path)
        for path, method, allowed in (("/health", "POST", "GET"), ("/v1/chat/completions", "GET", "POST"),
                                      ("/v1/completions", "DELETE", "POST"), ("/v1/models", "OPTIONS", "GET")):
            status, headers, answer = ask(path, method=method)
            self.assertEqual((status, headers["Allow"]), (405, allowed))
            self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})

    def test_bad_fields(self):
        """Each is answered with 400 and names its field."""
        chat = {"messages": [{"role": "user", "content": "x"}]}
        for path, body, param in [
                ("completions", {}, "prompt"), ("completions", {"prompt": 5}, "prompt"), ("completions", {"prompt": []}, "prompt"),
                ("completions", {"prompt": ""}, "prompt"), ("completions", {"prompt": [[]]}, "prompt"),
                ("completions", {"prompt": ["a", 1]}, "prompt"), ("completions", {"prompt": [1, "a"]}, "prompt"),
                ("completions", {"prompt": [-1]}, "prompt"), ("completions", {"prompt": [256]}, "prompt"),
                ("completions", {"prompt": [1 << 40]}, "prompt"), ("completions", {"prompt": ["a"] * 65}, "prompt"),
                ("completions", {"prompt": [7] * CONTEXT}, "prompt"),
                ("chat/completions", {}, "messages"), ("chat/completions", {"messages": {}}, "messages"),
                ("chat/completions", {"messages": [1]}, "messages"), ("chat/completions", {"messages": [{"role": "user"}]}, "messages"),
                ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
                ("chat/completions", {**chat, "top_logprobs": 3}, "top_logprobs"),
                ("chat/completions", {**chat, "tools": [{}]}, "tools"),
                ("chat/completions", {**chat, "response_format": {"type": "json_schema"}}, "response_format"),
                *[("completions", {"prompt": "a", name: value}, name) for name, value in [
                    ("model", 1), ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", "9"), ("max_tokens", -1),
                    ("temperature", -0.1), ("temperature", 101), ("temperature", "1"), ("temperature", True), ("top_p", 1.01),
                    ("top_k", -2), ("top_k", 0.5), ("min_p", 2), ("typical_p", -1), ("repetition_penalty", -1),
                    ("frequency_penalty", 3), ("presence_penalty", -3), ("seed", "x"), ("seed", 0.5), ("logprobs", 21), ("logprobs", True),
                    ("stop", 1), ("stop", [""]), ("stop", ["a", None]), ("stop", ["a"] * 65), ("stop", "x" * 2000),
                    ("stop_token_ids", 1), ("stop_token_ids", [-1]), ("stop_token_ids", ["1"]),
                    ("logit_bias", []), ("logit_bias", {"x": 1}), ("logit_bias", {"1": 101}), ("logit_bias", {"": 1}),
                    ("ignore_eos", 1), ("stream", "yes"), ("stream_options", {}), ("stream_options", 3), ("cache_salt", ""),
                    ("cache_salt", 3), ("cache_salt", "x" * 1025), ("n", 129), ("n", 0), ("n", "1"), ("priority", "x"), ("min_tokens", -1), ("best_of", 129), ("best_of", 0), ("echo", 1), ("suffix", "x"),
                    ("guided_json", {"not": {"type": "null"}}), ("bad_words", [""]), ("bad_words", 1), ("allowed_token_ids", []), ("allowed_token_ids", 5),
                    ("prompt_logprobs", -1), ("truncate_prompt_tokens", "x"), ("length_penalty", 101), ("early_stopping", 1),
                    ("skip_special_tokens", 0), ("include_stop_str_in_output", "x"), ("return_token_ids", 1)]]]:
            status, _, answer = self.server.ask(f"/v1/{path}", body)
            told = (path, str(body)[:80], answer)
            self.assertEqual(status, 400, told)
            self.assertEqual(answer["error"]["type"], "invalid_request_error", told)
            self.assertIn(answer["error"]["param"], (param,) if param != "stop" else ("stop", "prompt"), told)
        status, _, answer = self.server.ask("/v1/completions", {"prompt": "a", "model": "gpt-4"})
        self.assertEqual((status, answer["error"]["code"], answer["error"]["param"]), (404, "model_not_found", "model"))
        status, _, answer = self.server.ask("/v1/completions", {"prompt": [7] * CONTEXT})
        self.assertEqual((status, answer["error"]["code"]), (400, "context_length_exceeded"))

    def test_what_changes_nothing_is_accepted(self):
        status, _, answer = self.server.ask("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "n": 1, "tools": [], "tool_choice": "none",
            "response_format": {"type": "text"}, "stop": None, "temperature": None, "user": "me", "store": False, "stream": False,
            "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True})
        self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, 1))

    def test_malformed_bodies(self):
        for body in (b"", b"{", b"[]", b"null", b'{"prompt":"a"}x', b'{"prompt":"a","prompt":"b"}', b"\xff\xfe", b'{"prompt":"\xff"}',
                     b'{"prompt":"\\ud800"}', b'{"prompt":"\\u0000"}', b'{"prompt":1e999}', b'{"seed":99999999999999999999,"prompt":"a"}',
                     b'{"a":' * 100000, b"[" * 100000 + b"]" * 100000, b'{"prompt":"a"', b'prompt=a'):
            status, _, answer = self.server.ask("/v1/completions", body)
            self.assertEqual((status, answer["error"]["type"]), (400, "invalid_request_error"), body[:40])

    def test_too_large_a_body(self):
        connection = self.server.connect()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 17000000\r\n\r\n")
        self.assertIn(b" 413 ", connection.recv(100))
        connection.close()
        connection = self.server.connect()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(300):
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        except OSError:
            pass  # it closed the connection
        connection.close()
        self.assertEqual(self.server.ask("/health")[0], 200)

    def test_no_http(self):
        for garbage in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" + bytes(500), b"GET / HTTP/9.9\r\n\r\n", b"G" * 100000,
                        b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n",
                        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\n{}",
                        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            connection = self.server.connect()
            try:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                self.assertNotIn(b" 200 ", connection.recv(1000))
            except OSError:
                pass
            connection.close()
        self.assertEqual(self.server.ask("/health")[0], 200)

    def test_completion(self):
        ask = self.server.ask
        status, _, whole = ask("/v1/completions", {"prompt": "hello", "max_tokens": 5, "logit_bias": A, "temperature": 0})
        self.assertEqual((status, whole["object"], whole["model"]), (200, "text_completion", "tiny"))
        self.assertTrue(whole["id"].startswith("cmpl-"))
        self.assertEqual(whole["choices"], [{"index": 0, "text": "aaaaa", "logprobs": None, "finish_reason": "length"}])
        self.assertEqual(whole["usage"], {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10,
                                          "prompt_tokens_details": {"cached_tokens": 0}})
        _, _, default = ask("/v1/completions", {"prompt": [104, 105], "logit_bias": A})
        self.assertEqual((default["choices"][0]["text"], default["usage"]["prompt_tokens"]), ("a" * 16, 2))
        _, _, several = ask("/v1/completions", {"prompt": ["x", "yy", "zzz"], "max_tokens": 2, "logit_bias": A})
        self.assertEqual([(c["index"], c["text"]) for c in several["choices"]], [(0, "aa"), (1, "aa"), (2, "aa")])
        self.assertEqual((several["usage"]["prompt_tokens"], several["usage"]["completion_tokens"]), (6, 6))
        _, _, stopped = ask("/v1/completions", {"prompt": "x", "stop_token_ids": [97], "logit_bias": A})
        self.assertEqual(stopped["choices"][0]["finish_reason"], "stop")
        _, _, stopped = ask("/v1/completions", {"prompt": "x", "stop": ["q", "aaa"], "logit_bias": A})
        self.assertEqual((stopped["choices"][0]["text"], stopped["choices"][0]["finish_reason"]), ("", "stop"))
        seeds = [ask("/v1/completions", {"prompt": "x", "seed": seed})[2]["choices"][0]["text"] for seed in (7, 7, -7)]
        self.assertTrue(seeds[0] == seeds[1] != seeds[2])
        _, _, told = ask("/v1/completions", {"prompt": "x", "logprobs": 2, "max_tokens": 3, "logit_bias": A})
        _, _, answers = ask("/v1/completions", {"prompt": ["x", "yy"], "n": 3, "seed": 7, "max_tokens": 16, "priority": -1})
        self.assertEqual([c["index"] for c in answers["choices"]], list(range(6)))
        self.assertEqual(answers["choices"][0]["text"], seeds[0])
        self.assertEqual(len({c["text"] for c in answers["choices"]}), 3)  # the model is blind, the seeds are not
        self.assertEqual((answers["usage"]["prompt_tokens"], answers["usage"]["completion_tokens"]), (3, 96))
        logprobs = told["choices"][0]["logprobs"]
        self.assertEqual((logprobs["tokens"], logprobs["text_offset"]), (["a"] * 3, [0, 1, 2]))
        self.assertEqual([(len(top), "a" in top) for top in logprobs["top_logprobs"]], [(3, True)] * 3)  # two, and its own
        self.assertAlmostEqual(logprobs["token_logprobs"][0], -5.545177, 5)  # 1/256

    def test_cached_tokens(self):
        for salt, cached in ((None, 0), (None, 199), ("mine", 0), ("mine", 199), ("yours", 0)):
            _, _, answer = self.server.ask("/v1/completions", {"prompt": "c" * 200, "max_tokens": 1, "cache_salt": salt})
            self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], cached, salt)

    def test_stream_is_the_whole(self):
        body = {"prompt": "x", "seed": 3, "max_tokens": 300, "logprobs": 1}
        _, _, whole = self.server.ask("/v1/completions", body)
        connection = self.server.send({**body, "stream": True, "stream_options": {"include_usage": True}})
        stream = events(read_all(connection))
        self.assertEqual(text_of(stream), whole["choices"][0]["text"])
        parts = [event["choices"][0] for event in stream[:-1]]
        self.assertEqual([part["finish_reason"] for part in parts], [None] * (len(parts) - 1) + ["length"])
        for name, values in whole["choices"][0]["logprobs"].items():
            self.assertEqual([x for part in parts if part["logprobs"] for x in part["logprobs"][name]], values)
        self.assertEqual([event["usage"] for event in stream[:-1]], [None] * len(parts))
        self.assertEqual((stream[-1]["choices"], stream[-1]["usage"]["completion_tokens"]), ([], 300))
        self.assertEqual({event["id"] for event in stream}, {stream[0]["id"]})
        stream = events(read_all(self.server.send({"prompt": ["x", "y"], "stream": True, "max_tokens": 4, "logit_bias": A})))
        self.assertTrue(all("usage" not in event for event in stream))
        for index in (0, 1):
            mine = [event["choices"][0] for event in stream if event["choices"][0]["index"] == index]
            self.assertEqual("".join(c["text"] for c in mine), "aaaa")
            self.assertEqual(mine[-1]["finish_reason"], "length")

    def test_chat(self):
        body = {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "h"},
                                                                                            {"type": "text", "text": "i"}]}],
                "max_completion_tokens": 3, "logit_bias": A, "logprobs": True, "top_logprobs": 2}
        status, _, whole = self.server.ask("/v1/chat/completions", body)
        self.assertEqual((status, whole["object"]), (200, "chat.completion"))
        choice = whole["choices"][0]
        self.assertEqual(choice["message"], {"role": "assistant", "content": "aaa", "refusal": None})
        self.assertEqual([(t["token"], t["bytes"], len(t["top_logprobs"])) for t in choice["logprobs"]["content"]],
                         [("a", [97], 2)] * 3)
        self.assertEqual(whole["usage"]["prompt_tokens"], len("system: be\nuser: hi\nassistant: "))
        stream = events(read_all(self.server.send({**body, "stream": True}, "/v1/chat/completions")))
        deltas = [event["choices"][0]["delta"] for event in stream]
        self.assertEqual({event["object"] for event in stream}, {"chat.completion.chunk"})
        self.assertEqual(deltas[0], {"role": "assistant", "content": ""})
        self.assertEqual((deltas[-1], stream[-1]["choices"][0]["finish_reason"]), ({}, "length"))
        self.assertEqual("".join(delta.get("content", "") for delta in deltas), "aaa")

    def test_connections_are_kept(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)
        self.addCleanup(connection.close)
        for stream in (False, True, False, True):
            connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 2, "stream": stream}))
            first = connection.sock
            self.assertEqual(connection.getresponse().read().count(b"[DONE]"), stream)
            connection.request("GET", "/v1/nothing")
            answer = connection.getresponse()
            self.assertEqual((answer.status, "error" in json.loads(answer.read())), (404, True))
            self.assertIs(connection.sock, first)

    def test_pipelined_requests(self):
        connection = self.server.connect()
        data = json.dumps({"prompt": "x", "max_tokens": 300, "stream": True, "logit_bias": A})
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode() * 3)
        received = b""
        while received.count(b"[DONE]") < 3:
            received += connection.recv(100000)
        self.assertEqual(received.count(b"HTTP/1.1 200 OK"), 3)

    def test_who_sends_too_much_is_sent_away(self):
        connection = self.server.send({"prompt": "x", "max_tokens": LONG, "logit_bias": A})
        with self.assertRaises(OSError):
            for _ in range(200):
                connection.sendall(bytes(100000))


class Ends(Case):
    """Who goes away, and when the server does."""

    def begin(self, server, stream=True):
        """A request of many seconds that has begun to answer, or another that waits."""
        connection = server.send({"prompt": "x" * 100, "max_tokens": LONG, "stream": stream, "logit_bias": A})
        if stream:
            self.assertIn(b"200 OK", connection.recv(1000))
        return connection

    def test_disconnects_free_the_engine(self):
        """With one request at a time, nobody could answer if one that is gone went on."""
        server = self.own("--max-num-seqs", "1")
        for close in (lambda c: c.close(), lambda c: c.shutdown(socket.SHUT_WR),
                      lambda c: (c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"), c.close())):
            decoding, waiting = self.begin(server), [self.begin(server, False) for _ in range(5)]
            prefilling = server.send({"prompt": "y" * (CONTEXT - 10), "max_tokens": 5})
            time.sleep(0.1)
            for connection in (*waiting, decoding, prefilling):
                close(connection)
            began = time.monotonic()
            self.assertEqual(server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1})[0], 200)
            self.assertLess(time.monotonic() - began, 2)
        server.signal()
        self.assertEqual(server.end(5), 0)

    def test_drain(self):
        server = self.own()
        connection = server.send({"prompt": "x", "max_tokens": 3000, "stream": True, "logit_bias": A})
        self.assertIn(b"200 OK", connection.recv(17))
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
        self.addCleanup(kept.close)
        kept.request("GET", "/health")
        kept.getresponse().read()
        server.signal()
        time.sleep(0.05)
        data = b""
        while piece := connection.recv(100000):
            data += piece
            if b"[DONE]" in data:
                break
        texts = re.findall(rb'"text":"(a*)"', data)
        self.assertEqual(sum(map(len, texts)), 3000)
        self.assertIn(b'"finish_reason":"length"', data)
        self.assertEqual(server.end(), 0)
        with self.assertRaises(OSError):
            server.connect()

    def test_drain_has_a_limit(self):
        server = self.own("--drain-seconds", "0.2")
        connections = [self.begin(server), self.begin(server, False)]
        began = time.monotonic()
        server.signal(signal.SIGINT)
        time.sleep(0.05)
        with self.assertRaises(OSError):
            server.connect()
        stream, whole = b"", b""
        while piece := connections[0].recv(1000000):
            stream += piece
        while piece := connections[1].recv(100000):
            whole += piece
        self.assertEqual(server.end(), 0)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn(b'data: {"error":', stream)
        self.assertIn(b" 503 ", whole)

    def test_a_second_signal_ends_at_once(self):
        server = self.own("--drain-seconds", "60")
        connection = self.begin(server)
        server.signal()
        time.sleep(0.2)
        server.signal()
        self.assertEqual(server.end(5), 130)
        connection.close()

    def test_addresses(self):
        for options, says in ((["--port", str(self.server.port)], "in use"), (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
                              (["--host", "203.0.113.7", "--port", "0"], "203.0.113.7")):
            done = subprocess.run([KVASIR, "serve", self.model, *options], capture_output=True, text=True, timeout=WAIT_S, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
            self.assertIn(says, done.stderr)

    def test_a_full_queue(self):
        server = self.own("--max-num-seqs", "1")
        body = {"prompt": ["x"] * 64, "max_tokens": LONG, "logit_bias": A}
        connections = [server.send(body) for _ in range(64)]
        for _ in range(100):
            status, headers, answer = server.ask("/v1/completions", {"prompt": ["x"] * 64, "max_tokens": 1})
            if status == 429:
                break
        self.assertEqual((status, headers["Retry-After"], answer["error"]["type"]), (429, "1", "rate_limit_error"))
        for connection in connections:
            connection.close()
        for _ in range(100):
            if server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200:
                break
            time.sleep(0.05)
        server.signal()
        self.assertEqual(server.end(10), 0)


class Slow(Case):
    """Clients that do not read. Not with smaller buffers of their own: the kernel then drops what comes, and when they read at
    last, asks for minutes whether there is room."""
    READERS, TOKENS = 40, 3000

    def test_slow_readers(self):
        body = {"prompt": "x", "max_tokens": self.TOKENS, "stream": True, "logit_bias": A, "stream_options": {"include_usage": True}}
        read_all(self.server.send(body))
        before = self.server.memory()
        slow = [self.server.send(body) for _ in range(self.READERS)]
        began = time.monotonic()
        for _ in range(5):  # they are answered beside the others
            self.assertEqual(self.server.ask("/v1/completions", {"prompt": "y", "max_tokens": 4})[0], 200)
        self.assertLess(time.monotonic() - began, 20)
        read_all(self.server.send(body))
        self.server.wait_until_idle()
        grown = self.server.memory() - before
        if "asan" not in KVASIR and "tsan" not in KVASIR:
            self.assertLess(grown, self.READERS * (64 << 10))  # their whole answers would be 10 times that
        for connection in slow:
            stream = events(read_all(connection))
            self.assertEqual(text_of(stream), "a" * self.TOKENS)
            self.assertEqual(stream[-1]["usage"]["completion_tokens"], self.TOKENS)

    def test_a_slow_reader_leaves(self):
        slow = [self.server.send({"prompt": "x", "max_tokens": LONG, "stream": True, "logit_bias": A}) for _ in range(20)]
        time.sleep(0.5)
        for connection in slow:
            connection.close()
        self.assertEqual(self.server.ask("/v1/completions", {"prompt": "y", "max_tokens": 4})[0], 200)


@unittest.skipUnless(openai, "the openai package is not here (scripts/fetch-client.sh)")
class OpenAI(Case):
    CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "logit_bias": A, "max_tokens": 4}
    TEXT = {"model": "tiny", "prompt": "hi", "logit_bias": A, "max_tokens": 4}

    def setUp(self):
        self.url = f"http://127.0.0.1:{self.server.port}/v1"
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=WAIT_S)
        self.addCleanup(self.client.close)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.client.models.retrieve("tiny").owned_by, "kvasir")

    def test_chat(self):
        answer = self.client.chat.completions.create(**self.CHAT, logprobs=True, top_logprobs=1)
        self.assertEqual(answer.choices[0].message.content, "aaaa")
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.choices[0].logprobs.content[0].top_logprobs[0].bytes.__class__, list)
        self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens + answer.usage.completion_tokens >= 4, True)

    def test_chat_stream(self):
        chunks = list(self.client.chat.completions.create(**self.CHAT, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), "aaaa")
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 4))

    def test_completions(self):
        answer = self.client.completions.create(**self.TEXT, logprobs=1, extra_body={"top_k": 5, "ignore_eos": True})
        self.assertEqual((answer.choices[0].text, answer.choices[0].logprobs.tokens), ("aaaa", list("aaaa")))
        chunks = list(self.client.completions.create(**self.TEXT, stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), "aaaa")

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(**{**self.CHAT, "temperature": 1000})
        self.assertEqual((caught.exception.param, caught.exception.type), ("temperature", "invalid_request_error"))
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.chat.completions.create(**{**self.CHAT, "model": "other"})
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_async(self):
        async def one(client, index):
            stream = await client.completions.create(**{**self.TEXT, "max_tokens": 20 + index}, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        async def all_of_them():
            async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
                return await asyncio.gather(*(one(client, index) for index in range(20)))
        self.assertEqual(asyncio.run(all_of_them()), ["a" * (20 + index) for index in range(20)])

    def test_a_stream_that_is_left(self):
        for _ in range(10):
            with self.client.completions.create(**{**self.TEXT, "max_tokens": LONG}, stream=True) as stream:
                next(iter(stream))
        self.assertEqual(self.client.completions.create(**self.TEXT).choices[0].text, "aaaa")


def main():
    """unittest's own main, with ctest's exit status for "all skipped"."""
    if not os.access(KVASIR, os.X_OK):
        sys.exit(f"{KVASIR} is not built")
    result = unittest.main(exit=False, verbosity=2).result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.testsRun <= len(result.skipped) else 0)


if __name__ == "__main__":
    main()
