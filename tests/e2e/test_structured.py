#!/usr/bin/env python3
"""Structured output over HTTP: what response_format, structured_outputs and guided_… ask for is what comes.

    KVASIR=build/kvasir python3 test_structured.py [CLASS]        exit status 77: everything in CLASS was skipped

The model is one of zeros whose tokens are the bytes (tiny_text.py): every allowed byte is as likely as any other, so that what is not
forbidden comes sooner or later.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

import test_server
from test_server import Case, openai

try:
    import jsonschema
except ImportError:
    jsonschema = None

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
        "next": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}},
    "required": ["name", "age", "tags"], "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number", "minimum": 0, "maximum": 1}}, "required": ["x"]}}}
GRAMMAR = 'root ::= "(" root ")" | [a-z]{1,3}'


class Structured(Case):
    def answers(self, seeds=6, **fields):
        """Texts that ended by themselves."""
        texts = []
        for seed in range(seeds):
            status, _, answer = self.server.ask("/v1/completions", {
                "prompt": "x", "max_tokens": 1500, "temperature": 1, "seed": seed, **fields})
            self.assertEqual(status, 200, answer)
            choice = answer["choices"][0]
            if choice["finish_reason"] == "stop":
                texts.append(choice["text"])
        self.assertGreaterEqual(len(texts), 1, fields)
        return texts

    @unittest.skipUnless(jsonschema, "jsonschema is not installed")
    def test_schemas(self):
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
        for fields in ({"response_format": wanted}, {"structured_outputs": {"json": PERSON}}, {"guided_json": json.dumps(PERSON)}):
            for text in self.answers(**fields):
                jsonschema.Draft202012Validator(PERSON).validate(json.loads(text))

    def test_objects(self):
        for fields in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
            for text in self.answers(seeds=20, **fields):
                self.assertIsInstance(json.loads(text), dict)

    def test_expressions(self):
        for field in ({"structured_outputs": {"regex": "\\d{3}-[a-f]+(x|y)?"}}, {"guided_regex": "\\d{3}-[a-f]+(x|y)?"}):
            for text in self.answers(ignore_eos=True, **field):
                self.assertRegex(text, r"\A\d{3}-[a-f]+(x|y)?\Z")

    def test_choices(self):
        for field in ({"structured_outputs": {"choice": ["yes", "no", "né"]}}, {"guided_choice": ["yes", "no", "né"]}):
            self.assertLessEqual(set(self.answers(**field)), {"yes", "no", "né"})

    def test_grammars(self):
        for field in ({"structured_outputs": {"grammar": GRAMMAR}}, {"guided_grammar": GRAMMAR}):
            for text in self.answers(**field):
                self.assertRegex(text, r"\A\(*[a-z]{1,3}\)*\Z")
                self.assertEqual(text.count("("), text.count(")"))

    def test_streams_and_chats(self):
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "temperature": 1, "seed": 3, "n": 3,
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {
                    "type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 5}}}}
        texts = ["", "", ""]
        for event in test_server.events(test_server.read_all(self.server.send(body, "/v1/chat/completions"))):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
        for text in texts:
            self.assertTrue(all(type(item) is bool for item in json.loads(text)))

    def test_responses(self):
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        status, _, answer = self.server.ask("/v1/responses", {"input": "x", "text": {"format": {
            "type": "json_schema", "name": "n", "schema": schema, "strict": True}}})
        self.assertEqual((status, answer["status"]), (200, "completed"), answer)
        self.assertIsInstance(json.loads(answer["output"][0]["content"][0]["text"])["ok"], bool)
        self.assertEqual(answer["text"]["format"]["schema"], schema)

    def test_cut_off(self):
        status, _, answer = self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 3, "guided_regex": "a{9}"})
        self.assertEqual((status, answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]), (200, "aaa", "length"))

    def test_refused(self):
        """By name, in no time; among them what has stopped other servers (CVE-2025-48942, -48943, -48944, -48887)."""
        deep = {}
        for _ in range(500):
            deep = {"items": deep}
        for fields, told in (
                ({"response_format": {"type": "structural_tag", "structures": []}}, "structural_tag"),
                ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {"type": "null"}}}}}, "not"),
                ({"structured_outputs": {"json": {"type": "stsring"}}}, "stsring"),
                ({"structured_outputs": {"json": {"type": "string", "pattern": "["}}}, "pattern"),
                ({"structured_outputs": {"json": deep}}, "inside each other"),
                ({"structured_outputs": {"json": {"$ref": "#"}}}, "no text"),
                ({"structured_outputs": {"json": "{"}}, "line 1"),
                ({"structured_outputs": {"regex": "(" * 5000}}, "inside each other"),
                ({"structured_outputs": {"regex": "*"}}, "nothing to repeat"),
                ({"structured_outputs": {"regex": "(a)(?=b)"}}, "looking ahead"),
                ({"structured_outputs": {"grammar": "root ::= root"}}, "no text can satisfy"),
                ({"structured_outputs": {"grammar": "root ::= [", "disable_fallback": True}}, "closing"),
                ({"structured_outputs": {"choice": []}}, "at least one"),
                ({"guided_json": {"minLength": -5}}, "minLength"),
                ({"guided_regex": "x{5,2}"}, "wrong way round"),
                ({"guided_choice": [1]}, "no string"),
                ({"guided_grammar": "root ::= nothing"}, "nothing")):
            began = time.monotonic()
            status, _, answer = self.server.ask("/v1/completions", {"prompt": "x", **fields})
            self.assertLess(time.monotonic() - began, 5)
            self.assertEqual((status, answer["error"]["param"]), (400, next(iter(fields))), answer)
            self.assertIn(told, answer["error"]["message"])
            self.assertNotIn("\n", answer["error"]["message"])

    def test_bombs(self):
        """Accepted or refused, and answered, within a time; another request is answered beside them."""
        bombs = ["((a{1000}){1000}){1000}", "(a*)*(a*)*b", "(.*a){40}", "(a|b)*a(a|b){500}", "(a|a|aa|aaa){1,100000}"]
        connections = [self.server.send({"prompt": "x", "max_tokens": 20, "temperature": 1, "guided_regex": bomb}) for bomb in bombs]
        began = time.monotonic()
        status, _, answer = self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 5})
        self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, 5))
        for connection in connections:
            self.assertIn("choices", json.loads(test_server.read_all(connection)))
        self.assertLess(time.monotonic() - began, 60)


@unittest.skipUnless(openai, "the openai package is not there: scripts/fetch-client.sh")
class StructuredOpenAI(Case):
    def test_parse(self):
        import pydantic

        class Item(pydantic.BaseModel):
            name: str = pydantic.Field(max_length=10)
            count: int = pydantic.Field(ge=1, le=99)

        class Order(pydantic.BaseModel):
            items: list[Item] = pydantic.Field(max_length=2)
            urgent: bool
            note: str | None = pydantic.Field(max_length=5)

        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0,
                               timeout=test_server.WAIT_S)
        self.addCleanup(client.close)
        for seed in range(4):
            answer = client.chat.completions.parse(model="tiny", messages=[{"role": "user", "content": "hi"}],
                                                   response_format=Order, temperature=1, seed=seed)
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            order = answer.choices[0].message.parsed
            self.assertIsInstance(order, Order)
            self.assertTrue(all(re.fullmatch(r"\d+", str(item.count)) for item in order.items))
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}],
                                           response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"if": {}}}})
        self.assertEqual(caught.exception.param, "response_format")


def real_model():
    return os.path.exists(os.path.join(test_server.cache_folder(), "models", "smollm2.gguf"))


@unittest.skipUnless(real_model(), "smollm2 is not fetched: scripts/fetch-model.sh smollm2")
class RealStructured(unittest.TestCase):
    """`kvasir run` with a model that has its own mind."""

    def run_kvasir(self, *options):
        process = subprocess.run([test_server.KVASIR, "run", "smollm2", "Describe a person.", "-n", "300", "--output", "json", *options],
                                 capture_output=True, text=True, timeout=300)
        return process

    def answer(self, *options):
        process = self.run_kvasir(*options)
        self.assertEqual(process.returncode, 0, process.stderr)
        answer = json.loads(process.stdout)
        self.assertEqual(answer["finish_reason"], "stop")
        return answer["text"]

    def test_schema(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(json.dumps(PERSON))
            file.flush()
            texts = [self.answer("-j", json.dumps(PERSON)), self.answer("--json-schema-file", file.name),
                     self.answer("--json-schema", json.dumps(PERSON), "--temp", "1.2", "-s", "4", "--draft-max", "0")]
        self.assertEqual(texts[0], texts[1])
        for text in texts:
            person = json.loads(text)
            self.assertLessEqual(set(person), set(PERSON["properties"]))
            self.assertLessEqual(len(person["name"]), 12)
            self.assertIn(person["age"], range(151))

    def test_others(self):
        self.assertIn(self.answer("--choice", "tall", "--choice", "small"), ("tall", "small"))
        self.assertRegex(self.answer("--regex", "[A-Z][a-z]+, \\d{2}"), r"\A[A-Z][a-z]+, \d{2}\Z")
        self.assertRegex(self.answer("--grammar", 'root ::= ("- " [a-z ]{1,20} "\\n"){2}'), r"\A(- [a-z ]{1,20}\n){2}\Z")

    def test_errors(self):
        for options, told in ((("-j", "{"), "JSON schema: "), (("--regex", "(?=a)"), "looking ahead"), (("--grammar-file", "/nowhere"), "nowhere"),
                              (("--choice", "a", "--regex", "b"), "both --regex and --choice")):
            process = self.run_kvasir(*options)
            self.assertNotEqual(process.returncode, 0)
            self.assertIn(told, process.stderr)


if __name__ == "__main__":
    program = unittest.main(exit=False)
    result = program.result
    sys.exit(not result.wasSuccessful() or (77 if result.testsRun == len(result.skipped) else 0))
