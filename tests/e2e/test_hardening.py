#!/usr/bin/env python3
"""`kvasir serve` against those who mean it harm, or are merely broken.

    KVASIR=build/kvasir python3 test_hardening.py [CLASS]        exit status 77: everything in CLASS was skipped

Attacks: bytes that are no HTTP, or could be read in two ways; limits. Keys: who may ask. Websites: what a visitor's browser
can be made to do. Published: attacks that worked on other servers, by their numbers. Log: what is written of a request.
"""
import glob
import json
import os
import random
import re
import socket
import subprocess
import time
import unittest

from test_server import A, CONTEXT, HERE, KVASIR, LONG, WAIT_S, Case, Server, events, main, read_all, text_of

SERVER_SOURCES = os.path.join(HERE, "../../src/server")
KEY, OTHER = "sk-one-1234", "sk-two-5678"


def raw(server, data, shut=False):
    """What the server answers to these bytes until it closes, or has said nothing for a second."""
    connection = server.connect()
    connection.settimeout(1)
    answer = b""
    try:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            answer += piece
    except OSError:
        pass
    connection.close()
    return answer


def sources(name="*.c"):
    texts = []
    for path in glob.glob(f"{SERVER_SOURCES}/{name}"):
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    return "".join(texts)


def status_of(answer):
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(found.group(1)) if found else None


def post(body, *headers, path="/v1/completions", host="localhost", length=None):
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


GOOD = json.dumps({"prompt": "x", "max_tokens": 1}).encode()


class Attacks(Case):
    OPTIONS = ("--max-body-size", "1MiB")

    def check(self, data, *statuses):
        answer = raw(self.server, data)
        self.assertIn(status_of(answer), statuses, (data[:200], answer[:300]))
        self.assertEqual(answer.count(b"HTTP/1.1 "), 1, (data[:200], answer[:500]))
        self.assertIn(b'{"error":{"message":"', answer)

    def test_heads(self):
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
        for head, status in [
                (b"GET /health HTTP/1.1\r\n\r\n", 400), (get + b"Host: localhost\r\n\r\n", 400), (get + b"Host: other\r\n\r\n", 400),
                (get + b" folded: x\r\n\r\n", 400), (get + b"a: b\r\n c\r\n\r\n", 400), (get + b"a : b\r\n\r\n", 400),
                (get + b"a\r\n\r\n", 400), (get + b": b\r\n\r\n", 400), (get + b"a\0b: c\r\n\r\n", 400), (get + b"a: b\0c\r\n\r\n", 400),
                (get + b"a: b\rc\r\n\r\n", 400), (get + b"a: \0\r\n\r\n", 400), (get + b"a: b\n\n", 400), (b"GET /health HTTP/1.1\n", 400),
                (get + b"a: \x1b[2J\r\n\r\n", 400), (get + b"a: " + b"b" * 40000 + b"\r\n\r\n", 431), (get + b"a: b\r\n" * 101 + b"\r\n", 431),
                (get + b"X-Api-Key: a\r\nAuthorization: Bearer b\r\n\r\n", 400),
                (b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 400), (b"GET /health http/1.1\r\nHost: localhost\r\n\r\n", 400),
                (b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), (b"GET /health\r\n\r\n", 400), (b"GET\r\n\r\n", 400),
                (b"FETCH /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405), (b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
                (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
                (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414), (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
                (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
                (b"\x16\x03\x01\x02\x00\x01\x00", 400), (b"get /health HTTP/1.1\r\n\r\n", 400), (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n", 400)]:
            with self.subTest(head=head[:60]):
                self.check(head, status)
        self.assertEqual(status_of(raw(self.server, b"\r\n\r\n" + get + b"Connection: close\r\n\r\n")), 200)
        self.assertEqual(status_of(raw(self.server, b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n")), 200)
        self.assertEqual(status_of(raw(self.server, b"GET /health HTTP/1.0\r\n\r\n")), 200)
        self.assertEqual(self.server.ask("/health", method="GET")[0], 200)

    def test_heads_that_come_in_pieces(self):
        for head in (b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", post(GOOD, "Connection: close")):
            for size in (1, 2, 7):
                connection = self.server.connect()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for i in range(0, len(head), size):
                    connection.sendall(head[i:i + size])
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                self.assertEqual(status_of(answer), 200, answer)

    def test_heads_that_come_as_an_answer_ends(self):
        """However the next request meets the end of the last answer, its head is checked."""
        body = json.dumps({"prompt": "x", "max_tokens": 2, "stream": True, "logit_bias": A}).encode()
        bad = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"
        generator = random.Random(3)
        for _ in range(400):
            connection = self.server.connect()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(post(body))
            time.sleep(generator.random() * 0.002)
            connection.sendall(bad)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            self.assertEqual(re.findall(rb"HTTP/1\.1 (\d+) ", answer), [b"200", b"400"])
            self.assertIn(b"Content-Length must be there once", answer)
            connection.close()

    def test_paths(self):
        """Nothing is read from files whose names come from a request; so none of these finds anything."""
        for path in ("/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/....//etc/passwd", "/%c0%ae%c0%ae/etc/passwd",
                     "/v1/models/../../../etc/passwd", "/v1/models/%2e%2e%2ftiny", "//etc/passwd", "/health/..", "/health%00", "/health%00.js",
                     "/\\..\\..\\windows", "/file:///etc/passwd", "/v1/models/tiny%00", "/v1//models", "/./health", "/health/", "/HEALTH"):
            for one in (path, "http://localhost" + path):
                answer = raw(self.server, f"GET {one} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                self.assertEqual(status_of(answer), 404, (one, answer[:200]))
                self.assertNotIn(b"root:", answer)

    def test_bodies(self):
        self.check(post(b"", length=1 << 20 | 1), 413)
        self.check(post(b"", length=99999999999999999), 413)
        self.check(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + bytes(65536) +
                   (b"\r\n10000\r\n" + b" " * 65536) * 20, 413)
        body = json.dumps({"prompt": "x" * 60000, "max_tokens": 1, "user": "u" * 900000}).encode()
        self.assertEqual(self.server.ask("/v1/completions", body)[0], 200)
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(GOOD[i:i + 5]), GOOD[i:i + 5]) for i in range(0, len(GOOD), 5)) + b"0\r\n\r\n"
        chunked = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(status_of(raw(self.server, chunked + chunks)), 200)
        for bad in (b"x\r\n", b"-1\r\n", b"5\r\nabc", b"ffffffffffffffffff\r\n"):
            self.assertNotEqual(status_of(raw(self.server, chunked + bad, shut=True)), 200, bad)

    def test_a_client_that_asks_before_it_sends(self):
        """Expect: 100-continue, as curl does with long bodies."""
        connection = self.server.connect()
        connection.sendall(post(b"", "Expect: 100-continue", "Connection: close", length=len(GOOD)))
        self.assertIn(b" 100 Continue", connection.recv(1000))
        connection.sendall(GOOD)
        self.assertEqual(status_of(connection.recv(1000)), 200)
        connection.close()
        self.check(post(b"", "Expect: 100-continue", length=1 << 21), 413)

    def test_incomplete_bodies_are_bounded(self):
        """Sixteen bodies of the largest size may be waited for; who adds to that is sent away, and the others are answered."""
        waiting = []
        for _ in range(20):
            connection = self.server.connect()
            connection.sendall(post(b"{" + b" " * 1000000, length=1 << 20))
            waiting.append(connection)
            time.sleep(0.01)
        refused = [c for c in waiting if self.readable(c)]
        self.assertTrue(2 <= len(refused) <= 6, len(refused))
        self.assertTrue(all(c.recv(65536).startswith(b"HTTP/1.1 503 Service Unavailable\r\n") for c in refused))
        for connection in waiting:
            connection.close()
        for _ in range(100):
            if self.server.ask("/v1/completions", b"{" + b" " * 900000 + b"}")[0] == 400:
                break
            time.sleep(0.05)
        else:
            self.fail("what those who left had sent still counts")

    def readable(self, connection):
        connection.setblocking(False)
        try:
            return bool(connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            connection.settimeout(WAIT_S)

    def test_deadlines(self):
        """A byte now and then does not keep a request alive; a connection that says nothing is closed; others are served."""
        heads = [self.server.connect() for _ in range(50)]
        bodies = [self.server.connect() for _ in range(50)]
        silent = [self.server.connect() for _ in range(50)]
        kept = self.own("--keep-alive-seconds", "1").connect()
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in bodies:
            connection.sendall(post(b"{", length=1000))
        began = time.monotonic()
        while time.monotonic() - began < 11.5:
            for connection in (*heads, *bodies):
                try:
                    connection.sendall(b"A" if connection in heads else b" ")
                except OSError:
                    pass
            self.assertEqual(self.server.ask("/health")[0], 200)
            time.sleep(0.5)
        for connection in (*heads, *bodies):
            self.assertTrue(connection.recv(1000).startswith(b"HTTP/1.1 408 "))
            self.assertTrue(self.is_closed(connection))
        self.assertEqual([connection.recv(1000) for connection in silent], [b""] * 50)
        self.assertIn(b" 200 OK", kept.recv(1000))
        self.assertEqual(kept.recv(1000), b"")

    def is_closed(self, connection):
        try:
            return not connection.recv(1000)
        except OSError:
            return True

    def test_connections_are_bounded(self):
        server = self.own("--max-connections", "20")
        held = [server.connect() for _ in range(20)]
        time.sleep(0.1)
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(status_of(answer), 503, answer)
        self.assertIn(b"Retry-After: ", answer)
        many = [server.connect() for _ in range(200)]
        self.assertLess(len(os.listdir(f"/proc/{server.process.pid}/fd")), 150)
        for connection in (*held, *many):
            connection.close()
        for _ in range(100):
            if status_of(raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")) == 200:
                break
            time.sleep(0.05)
        else:
            self.fail("places of those who left are not given back")


class Keys(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.file = os.path.join(cls.folder, "keys")
        with open(cls.file, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"# the team's\n{OTHER} second\n\nsk-three\r\n")
        cls.guarded = cls.guard(cls)

    @classmethod
    def tearDownClass(cls):
        cls.guarded.close()
        super().tearDownClass()

    def guard(self, *options):
        return Server(self.model, "--api-key", KEY, "--api-key-file", self.file, *options)

    def get(self, server, path, *headers, method="GET"):
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers])
        return raw(server, head.encode() + b"\r\n\r\n")

    def test_every_route_but_open_ones_wants_a_key(self):
        """All routes of the sources' tables; the others, too. (vLLM's --api-key leaves /invocations and others open.)"""
        source = sources()
        routes = set(re.findall(r'\{"(/[^"]*)",\s*EVHTTP_REQ_(?:GET|POST|PUT|DELETE),', source)) | set(re.findall(r'\.path = "(/[^"]+)"', source))
        opened = set(re.findall(r'"([^"]+)"', re.search(r"OPEN_PATHS\[\] = \{(.*?)\}", source, re.S).group(1)))
        self.assertTrue({"/health", "/v1/models", "/v1/chat/completions"} <= routes, routes)
        self.assertIn("/health", opened)
        opened |= {"/"} | {f"/page/{name}" for name in os.listdir(f"{SERVER_SOURCES}/page") if name.endswith((".js", ".css"))}
        self.assertFalse([path for path in opened if path.startswith("/v1") or path in ("/metrics", "/kv")])
        for path in sorted(routes | opened | {"/page/nothing.js", "/page/", "/page/../kv", "/nothing", "/v1/models/tiny", "/invocations", "/v1", "/metrics", "/health/"}):
            for method in ("GET", "POST", "DELETE", "OPTIONS", "HEAD"):
                status = status_of(self.get(self.guarded, path, "Content-Length: 0" if method == "POST" else "a: b", method=method))
                if path in opened:
                    self.assertIn(status, (200, 405), (path, method))
                else:
                    self.assertEqual(status, 401, (path, method))

    def test_keys(self):
        for header in ("Authorization: Bearer " + KEY, "authorization: bearer  " + OTHER, "X-Api-Key: sk-three", "X-API-KEY: " + KEY):
            self.assertEqual(status_of(self.get(self.guarded, "/v1/models", header)), 200, header)
        for header in ("Authorization: Bearer", "Authorization: Bearer ", "Authorization: Bearer sk-one-123", "Authorization: Bearer sk-one-12345",
                       "Authorization: Basic " + KEY, "Authorization: " + KEY, "X-Api-Key: ", "X-Api-Key: second", "X-Api-Key: #",
                       "Authorization: Bearer " + "x" * 5000, "Cookie: " + KEY, f"X-Api-Key: {KEY} "[:-2]):
            answer = self.get(self.guarded, "/v1/models", header)
            self.assertEqual(status_of(answer), 401, header)
            self.assertIn(b'WWW-Authenticate: Bearer', answer)
            self.assertIn(b'"type":"authentication_error","param":null,"code":"invalid_api_key"', answer)
            self.assertNotIn(KEY.encode(), answer)
        self.assertEqual(status_of(self.get(self.guarded, f"/v1/models?api_key={KEY}")), 401)

    def cached(self, server, key, salt=None, prompt="k" * 300):
        body = json.dumps({"prompt": prompt, "max_tokens": 1, "cache_salt": salt}).encode()
        answer = raw(server, post(body, f"Authorization: Bearer {key}", "Connection: close"))
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_caches_are_apart(self):
        """CVE-2025-46570: what another key's prompts left is neither found nor noticed."""
        found = [self.cached(self.guarded, key, salt) for key, salt in (
            (KEY, None), (KEY, None), (OTHER, None), (OTHER, None), ("sk-three", "a"), (KEY, "a"), (KEY, "a"), (OTHER, "a"), (KEY, "b"))]
        self.assertEqual(found, [0, 299, 0, 299, 0, 0, 299, 0, 0])
        shared = self.guard("--share-cache-among-keys")
        self.addCleanup(shared.close)
        self.assertEqual([self.cached(shared, KEY), self.cached(shared, OTHER)], [0, 299])

    def test_bad_keys_are_refused_at_the_start(self):
        for name, text, says in (("empty", "# none\n", "no key"), ("space", "a\x7f\n", "line 1"), ("name", "abc x\"y\n", "line 1"), ("zero", "a\0b\n", "zero byte")):
            path = os.path.join(self.folder, name)
            with open(path, "w", encoding="latin-1") as file:
                file.write(text)
            done = subprocess.run([KVASIR, "serve", self.model, "--port", "0", "--api-key-file", path], capture_output=True, text=True, timeout=WAIT_S, check=False)
            self.assertEqual(done.returncode, 1, name)
            self.assertIn(says, done.stderr)

    def test_no_key_is_told(self):
        server = self.guard("--log-level", "debug")
        for header in ("Authorization: Bearer " + KEY, "Authorization: Bearer " + OTHER, "X-Api-Key: wrong-secret"):
            self.get(server, "/v1/models", header)
        server.signal()
        self.assertEqual(server.end(), 0)
        self.assertIn("key=key1", server.stderr)
        self.assertIn("key=second", server.stderr)
        for secret in (KEY, OTHER, "sk-three", "wrong-secret"):
            self.assertNotIn(secret, server.stderr)


class Websites(Case):
    def get(self, server, *headers, host="localhost", method="GET"):
        head = "\r\n".join([f"{method} /v1/models HTTP/1.1", f"Host: {host}", "Connection: close", *headers])
        return raw(server, head.encode() + b"\r\n\r\n")

    def test_hosts(self):
        """DNS rebinding: a website's name made to point here is no name of this server."""
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", f"127.0.0.1:{self.server.port}", "[::1]:80", "a.localhost", "192.168.1.7:8000"):
            self.assertEqual(status_of(self.get(self.server, host=host)), 200, host)
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "", "[::1].evil.example",
                     "localhost@evil.example", "evil.example/127.0.0.1", "1.2.3", "127.0.0.1evil"):
            answer = self.get(self.server, host=host)
            self.assertEqual(status_of(answer), 403, host)
            self.assertIn(b"--allowed-hosts", answer)
        named = self.own("--allowed-hosts", "llm.example, *.team.example", "--allowed-hosts", "one:99")
        for host, status in (("llm.example", 200), ("LLM.example:8000", 200), ("a.team.example", 200), ("team.example", 403), ("xteam.example", 403),
                             ("one:99", 200), ("one:98", 403), ("a.llm.example", 403)):
            self.assertEqual(status_of(self.get(named, host=host)), status, host)
        self.assertEqual(status_of(self.get(self.own("--allowed-hosts", "*"), host="any.example")), 200)
        self.assertEqual(status_of(self.get(self.own("--api-key", KEY), "X-Api-Key: " + KEY, host="any.example")), 200)

    def test_origins(self):
        for origin in ("https://evil.example", "null", "http://localhost:1", "http://localhost.evil.example", "file://", ""):
            for answer in (self.get(self.server, f"Origin: {origin}"),
                           raw(self.server, post(GOOD, f"Origin: {origin}", "Content-Type: text/plain", "Connection: close"))):
                self.assertEqual(status_of(answer), 403, origin)
                self.assertNotIn(b"Access-Control-Allow", answer)
        own = f"localhost:{self.server.port}"
        answer = self.get(self.server, f"Origin: http://{own}", host=own)
        self.assertEqual(status_of(answer), 200)

    def test_allowed_origins(self):
        for given in ('["*"]', '["https://c.example", "https://a.example"]', "*"):
            self.assertEqual(status_of(self.get(self.own("--allowed-origins", given), "Origin: https://a.example")), 200, given)
        server = self.own("--allowed-origins", "https://a.example,https://b.example:444", "--api-key", KEY)
        asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, x-stainless-os")
        answer = self.get(server, "Origin: https://a.example", *asks, method="OPTIONS")
        self.assertEqual(status_of(answer), 204, answer)
        for line in (b"Access-Control-Allow-Origin: https://a.example", b"Access-Control-Allow-Methods: GET", b"Access-Control-Allow-Headers: authorization, x-stainless-os"):
            self.assertIn(line + b"\r\n", answer)
        self.assertNotIn(b"Allow-Credentials", answer)
        answer = self.get(server, "Origin: https://b.example:444", f"X-Api-Key: {KEY}")
        self.assertEqual(status_of(answer), 200)
        self.assertIn(b"Access-Control-Allow-Origin: https://b.example:444\r\n", answer)
        self.assertIn(b"Vary: Origin\r\n", answer)
        self.assertEqual(status_of(self.get(server, "Origin: https://a.example")), 401)
        for origin in ("https://a.example:444", "http://a.example", "https://a.example.evil.example", "https://xa.example"):
            self.assertEqual(status_of(self.get(server, f"Origin: {origin}", *asks, method="OPTIONS")), 403, origin)


class Published(Case):
    """Attacks on other servers that concern an HTTP server, its parsers or its cache."""

    def test_cve_2025_48956_giant_headers(self):
        answer = raw(self.server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: " + b"1" * (8 << 20) + b"\r\n\r\n")
        self.assertIn(status_of(answer), (431, None))  # None: it was sent away while it wrote
        self.assertEqual(self.server.ask("/health")[0], 200)

    def test_cve_2026_34756_huge_n_and_best_of(self):
        for name in ("n", "best_of"):
            for value in (129, 1 << 31, 1 << 32, 1 << 62, -1, 1e18, 0):
                if name == "best_of" and value == 1:
                    continue
                status, _, answer = self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1, name: value})
                self.assertEqual((status, answer["error"]["param"]), (400, name), value)

    def test_cve_2026_105756_bad_cache_salts(self):
        for salt in ("", 5, -1, 1.5, [], {}, True, ["a"], "x" * 1025, "é" * 600):
            status, _, answer = self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1, "cache_salt": salt})
            self.assertEqual((status, answer["error"]["param"]), (400, "cache_salt"), salt)
        for salt in ("\x01", "😀", "../../x", "x" * 1024):
            self.assertEqual(self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1, "cache_salt": salt})[0], 200)

    def test_cve_2026_105755_a_request_id_is_no_key(self):
        """Requests with one id, one after the other and at once, are answered each for itself."""
        body = json.dumps({"prompt": "x", "max_tokens": 5, "logit_bias": A, "stream": True}).encode()
        connections = []
        for _ in range(8):
            connection = self.server.connect()
            connection.sendall(post(body, "X-Request-Id: same"))
            connections.append(connection)
        answers = [events(read_all(connection)) for connection in connections]
        self.assertEqual(len({answer[0]["id"] for answer in answers}), 8)
        self.assertEqual([text_of(answer) for answer in answers], ["aaaaa"] * 8)

    def test_cve_2026_63382_smuggling(self):
        inner = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        for fields in (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
                       b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5, 5", b"Content-Length: +5",
                       b"Content-Length: 0x5", b"Content-Length: 5 5", b"Content-Length: ", b"Content-Length: 9999999999999999999999",
                       b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: gzip, chunked",
                       b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked",
                       b"Transfer-Encoding: \x00chunked", b" Transfer-Encoding: chunked", b"X: y\r\n Transfer-Encoding: chunked", b"Content-Length : 5",
                       b"Content_Length: 5\r\nContent-Length: 5\r\nContent-Length: 0"):
            answer = raw(self.server, head + fields + b"\r\n\r\n0\r\n\r\n" + inner)
            self.assertEqual((status_of(answer), answer.count(b"HTTP/1.1 ")), (400, 1), (fields, answer))
        answer = raw(self.server, b"POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
        self.assertEqual((status_of(answer), answer.count(b"HTTP/1.1 ")), (400, 1))

    def test_cve_2026_63385_folded_fields(self):
        answer = raw(self.server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tHost: other\r\n\r\n")
        self.assertEqual(status_of(answer), 400)

    def test_cve_2026_63379_trailers_are_no_headers(self):
        server = self.own("--api-key", KEY)
        body = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + \
               b"%x\r\n%s\r\n0\r\nAuthorization: Bearer %s\r\n\r\n" % (len(GOOD), GOOD, KEY.encode())
        self.assertEqual(status_of(raw(server, body)), 401)

    def test_cve_2026_21869_negative_numbers(self):
        for name in ("max_tokens", "min_tokens", "n", "top_k", "n_discard", "n_keep", "repetition_penalty"):
            for value in (-2, -(1 << 31), -(1 << 63)):
                self.assertIn(self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1, name: value})[0],
                              (200,) if name in ("n_discard", "n_keep") else (400,))

    def test_cve_2025_62426_templates_of_requests(self):
        """A client's template or its values never run without bounds."""
        for name, value in (("chat_template", "{% for a in range(1000000000) %}x{% endfor %}"), ("chat_template_kwargs", {"chat_template": "{{ 1 }}", "tokenize": False})):
            began = time.monotonic()
            status, _, _ = self.server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, name: value})
            self.assertIn(status, (200, 400))
            self.assertLess(time.monotonic() - began, 5)

    def test_numbers_that_are_none(self):
        """Every number field, with what JSON or a programmer can do to it: 400 that names it, never a 5xx."""
        names = re.findall(r'^    \{\w[^"]*"(\w+)", &FIELD_(?:REAL|WHOLE)', sources("body.c"), re.M)
        self.assertIn("temperature", names)
        for name in set(names):
            for text in ("NaN", "Infinity", "-1e308", "1e400", "-1", "99999999999999999999", '"1"', "[]", "{}", "true", "1e18", "0.5", "-0.0"):
                path = "/v1/chat/completions" if name in ("max_completion_tokens", "top_logprobs") else "/v1/completions"
                body = f'{{"prompt": "x", "messages": [{{"role": "user", "content": "x"}}], "{name}": {text}}}'
                status, _, answer = self.server.ask(path, body.encode())
                self.assertIn(status, (200, 400), (name, text, answer))
                if status == 400:
                    self.assertIn(answer["error"]["param"], (name, None), (name, text))
        self.assertEqual(self.server.ask("/health")[0], 200)


class Log(Case):
    def lines(self, *options, requests):
        server = self.own(*options)
        for request in requests:
            raw(server, request)
        server.signal()
        self.assertEqual(server.end(), 0)
        return server.stderr.splitlines()

    REQUESTS = (post(json.dumps({"prompt": "secret words", "max_tokens": 3}).encode(), "X-Request-Id: mine-1", "Connection: close"),
                b"GET /nothing/secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"nonsense",
                post(b"{", "X-Request-Id: not\x07sane"), post(b"{", "X-Request-Id: not\"sane", "Connection: close"))

    def test_json(self):
        lines = [json.loads(line) for line in self.lines("--log-format", "json", requests=self.REQUESTS) if "serving" not in line]
        requests = [line for line in lines if line["message"] == "request"]
        self.assertEqual([line["status"] for line in requests], [200, 404, 400, 400, 400])
        first = requests[0]
        self.assertEqual((first["id"], first["method"], first["route"], first["prompt_tokens"], first["cached_tokens"], first["output_tokens"]),
                         ("mine-1", "POST", "/v1/completions", 12, 0, 3))
        self.assertTrue(0 < first["ttft_s"] <= first["duration_s"] < 10)
        self.assertRegex(first["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(requests[1]["route"], "")
        self.assertRegex(requests[4]["id"], r"^req-[0-9a-f]{32}$")
        self.assertNotIn("secret", json.dumps(lines))

    def test_text_and_levels(self):
        lines = self.lines(requests=self.REQUESTS)
        self.assertRegex(lines[0], r"^kvasir: info: request method=POST route=/v1/completions status=200 duration_s=\S+ prompt_tokens=12 "
                                   r"cached_tokens=0 output_tokens=3 ttft_s=\S+ id=mine-1$")
        self.assertEqual(self.lines("--log-level", "warning", requests=self.REQUESTS), [])

    def test_ids_are_returned(self):
        for sent, returned in (("abc-1", b"abc-1"), ("x" * 128, b"x" * 128)):
            self.assertIn(b"X-Request-Id: " + returned + b"\r\n", raw(self.server, post(GOOD, f"X-Request-Id: {sent}", "Connection: close")))
        self.assertNotIn(b"xxx", raw(self.server, post(GOOD, "X-Request-Id: " + "x" * 129, "Connection: close")))

    def test_a_log_that_nobody_reads_stops_nothing(self):
        """A pipe holds 64 KiB: what is beyond that is lost, and said later."""
        for _ in range(1500):
            self.assertEqual(self.server.ask("/v1/nothing/at/all")[0], 404)

    def test_who_leaves_is_logged(self):
        server = self.own("--log-format", "json")
        connection = server.send({"prompt": "x", "max_tokens": LONG, "stream": True, "logit_bias": A})
        data = b""
        while b'"text":"a' not in data:
            data += connection.recv(1000)
        connection.close()
        self.assertEqual(server.ask("/v1/completions", {"prompt": [7] * CONTEXT})[0], 400)
        server.signal()
        self.assertEqual(server.end(), 0)
        left, refused = sorted(map(json.loads, server.stderr.splitlines()), key=lambda line: -line["status"])
        self.assertEqual((left["status"], refused["status"]), (499, 400))
        self.assertEqual(left["prompt_tokens"], 1)
        self.assertGreater(left["output_tokens"], 0)
        self.assertNotIn("cached_tokens", left)  # told at the end only


if __name__ == "__main__":
    main()
