#!/usr/bin/env python3
"""What grammars say, judged by others: Python's json and jsonschema, and its re.

    KVASIR_JUDGE=build/tests/grammar/grammar_judge python3 test_judges.py [CLASS]     77: everything was skipped

Random schemas and expressions are compiled, random walks through the allowed tokens are made, and what comes to an end must parse and
satisfy its schema, or match. Of Schemas, instances that jsonschema refuses must be refused too. The vocabulary is one of bytes
(tiny_text.py) or, where it is fetched, smollm2's.
"""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "../e2e"))
import tiny_text  # noqa: E402

try:
    import jsonschema
    FORMATS_CHECKED = getattr(jsonschema.Draft202012Validator, "FORMAT_CHECKER", None) or jsonschema.draft202012_format_checker
except ImportError:
    jsonschema = None

JUDGE = os.path.abspath(os.environ.get("KVASIR_JUDGE", os.path.join(HERE, "../../build/tests/grammar/grammar_judge")))
FULL = os.environ.get("KVASIR_TEST_COUNT") == "full"
SCHEMA, OBJECT, REGEX, CHOICE, GBNF = range(1, 6)
UNSUPPORTED = 4  # status


def real_vocabulary():
    home, cache = os.environ.get("KVASIR_HOME"), os.environ.get("XDG_CACHE_HOME")
    folder = home or (os.path.join(cache, "kvasir") if cache else os.path.expanduser("~/.cache/kvasir"))
    path = os.path.join(folder, "models", "smollm2.gguf")
    return path if os.path.exists(path) else None


class Judge:
    def __init__(self, model):
        self.process = subprocess.Popen([JUDGE, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind, text, walks=0, tokens=200, seed=1, match=()):
        request = {"kind": kind, "text": text, "walks": walks, "tokens": tokens, "seed": seed, "match": list(match)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvasir-judge-")
        tiny = os.path.join(cls.folder.name, "tiny.gguf")
        tiny_text.write(tiny, 64)
        cls.judges = [Judge(path) for path in (tiny, real_vocabulary()) if path]

    @classmethod
    def tearDownClass(cls):
        for judge in cls.judges:
            judge.close()
        cls.folder.cleanup()


# ---- schemas -----------------------------------------------------------------------------------------------------------------

NAMES = ["a", "b", "name", "né", "x y", "q\"", "\\", "longer_name"]
FORMATS = ["date", "time", "date-time", "uuid", "email", "hostname", "ipv4", "ipv6", "uri", "duration", "json-pointer"]
PATTERNS = ["^[a-z]{2,5}$", "b+", "^\\d{3}-\\d{4}$", "^(yes|no)$", "[\"\\\\]", "^.{3}$", "a|^b", "^[^\\s]*$", "^x(ab)*é?$",
            "^[A-Z][a-z]+$", "^-(\\d\"){1,9}$"]


def random_scalar(r):
    return r.choice([None, True, False, r.randint(-20, 20), r.choice([0.5, 1.25, -3.75]), r.choice(NAMES), ""])


def random_number(r, integer):
    schema = {"type": "integer" if integer else "number"}
    low = r.choice([-1000, -7, -1, 0, 1, 5, 99, 12345]) + (0 if integer else r.choice([0, 0.5, 0.125, -0.3]))
    high = low + r.choice([0, 1, 3, 10, 90, 1000, 123456]) + (0 if integer else r.choice([0, 0.25, 0.1]))
    if r.random() < 0.6:
        schema[r.choice(["minimum", "exclusiveMinimum"])] = low
    if r.random() < 0.6:
        schema[r.choice(["maximum", "exclusiveMaximum"])] = high
    if r.random() < 0.3:
        schema["multipleOf"] = r.choice([2, 3, 7, 10, 25] if integer else [0.5, 0.25, 0.125, 2])
    return schema


def random_string(r):
    kind = r.randrange(4)
    if kind == 0:
        least = r.randrange(4)
        return {"type": "string", "minLength": least, "maxLength": least + r.randrange(30)}
    if kind == 1:
        schema = {"type": "string", "pattern": r.choice(PATTERNS)}
        if r.random() < 0.5:
            schema["minLength"] = r.randrange(4)
            schema["maxLength"] = schema["minLength"] + r.randrange(12)
        return schema
    if kind == 2:
        return {"type": "string", "format": r.choice(FORMATS)}
    return {"type": "string"}


def random_object(r, depth):
    schema = {"type": "object"}
    names = r.sample(NAMES, r.randrange(5))
    if names:
        schema["properties"] = {name: random_schema(r, depth + 1) for name in names}
        schema["required"] = [name for name in names if r.random() < 0.5]
        if r.random() < 0.3:
            schema["additionalProperties"] = r.choice([True, False, random_schema(r, depth + 1)])
    else:
        schema["additionalProperties"] = random_schema(r, depth + 1)
        if r.random() < 0.5:
            schema["minProperties"] = r.randrange(3)
            schema["maxProperties"] = schema["minProperties"] + r.randrange(3)
            schema["propertyNames"] = {"pattern": "^[a-z]+$"}
    return schema


def random_array(r, depth):
    schema = {"type": "array"}
    if r.random() < 0.3:
        schema["prefixItems"] = [random_schema(r, depth + 1) for _ in range(r.randrange(1, 4))]
    if r.random() < 0.8:
        schema["items"] = random_schema(r, depth + 1)
    if r.random() < 0.5:
        schema["minItems"] = r.randrange(4)
        schema["maxItems"] = schema["minItems"] + r.randrange(4)
    return schema


def random_schema(r, depth=0):
    kind = r.randrange(12 if depth < 3 else 5)
    if kind == 0:
        return {"enum": [random_scalar(r) for _ in range(r.randrange(1, 5))]}
    if kind == 1:
        return {"type": r.choice(["boolean", "null", "integer", "number", ["string", "null"], ["integer", "boolean"]])}
    if kind == 2:
        return random_number(r, True)
    if kind == 3:
        return random_number(r, False)
    if kind == 4:
        return random_string(r)
    if kind in (5, 6, 7):
        return random_object(r, depth)
    if kind == 8:
        return random_array(r, depth)
    if kind == 9:
        return {"anyOf": [random_schema(r, depth + 1) for _ in range(r.randrange(1, 4))]}
    if kind == 10:
        return {"allOf": [random_schema(r, depth + 1) for _ in range(2)]}
    return {"oneOf": [random_schema(r, depth + 1) for _ in range(2)]}




@unittest.skipUnless(jsonschema, "jsonschema is not installed")
class Schemas(Case):
    def check(self, schema, text):
        value = json.loads(text)
        try:
            jsonschema.Draft202012Validator(schema, format_checker=FORMATS_CHECKED).validate(value)
        except jsonschema.ValidationError as error:
            self.fail(f"{json.dumps(schema)}: {text}: {error.message}")

    def test_random(self):
        compiled = ended = 0
        for seed in range(20000 if FULL else 250):
            r = random.Random(seed)
            schema = random_schema(r)
            judge = self.judges[seed % len(self.judges)]
            reply = judge.ask(SCHEMA, json.dumps(schema), walks=3, tokens=400, seed=seed)
            self.assertLess(reply["seconds"], 1)
            if "error" in reply:
                if reply["status"] != UNSUPPORTED:
                    self.assertIn("no text can satisfy it", reply["error"])
                continue
            compiled += 1
            for walk in reply["walks"]:
                if walk["ended"]:
                    ended += 1
                    self.check(schema, walk["text"])
        self.assertGreater(compiled, 120)
        self.assertGreater(ended, 200)

    def test_instances(self):
        """What one schema generates is judged by another; what jsonschema refuses is refused."""
        refused = accepted = 0
        for seed in range(3000 if FULL else 120):
            r = random.Random(1000 + seed)
            one = random_schema(r)
            names = [key for key in ("minLength", "maxLength", "minimum", "maximum", "required", "type", "items", "properties",
                                     "enum", "minItems", "maxItems") if key in one]
            other = dict(one)
            if names:
                del other[r.choice(names)]
            reply = self.judges[0].ask(SCHEMA, json.dumps(other), walks=8, tokens=300, seed=seed)
            if "error" in reply:
                continue
            texts = [walk["text"] for walk in reply["walks"] if walk["ended"]]
            answer = self.judges[0].ask(SCHEMA, json.dumps(one), match=texts)
            if "error" in answer:
                continue
            checker = jsonschema.Draft202012Validator(one, format_checker=FORMATS_CHECKED)
            for text, match in zip(texts, answer["match"]):
                valid = checker.is_valid(json.loads(text))
                self.assertFalse(match and not valid, f"{json.dumps(one)}: {text}")
                refused += not match
                accepted += match
        self.assertGreater(refused, 50)
        self.assertGreater(accepted, 50)

    def test_recursive(self):
        tree = {"$defs": {"node": {"type": "object", "properties": {
            "value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 3},
            "other": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "children"], "additionalProperties": False}}, "$ref": "#/$defs/node"}
        ended = 0
        for judge in self.judges:
            for walk in judge.ask(SCHEMA, json.dumps(tree), walks=100, tokens=300)["walks"]:
                if walk["ended"]:
                    ended += 1
                    self.check(tree, walk["text"])
        self.assertGreater(ended, 20)

    def test_objects(self):
        """Any object: it parses, and it is one."""
        for judge in self.judges:
            walks = [walk for walk in judge.ask(OBJECT, "", walks=100, tokens=300)["walks"] if walk["ended"]]
            self.assertGreater(len(walks), 10)
            for walk in walks:
                self.assertIsInstance(json.loads(walk["text"]), dict)


# ---- expressions -------------------------------------------------------------------------------------------------------------

def random_regex(r, depth=0):
    kind = r.randrange(9 if depth < 4 else 4)
    if kind == 0:
        return r.choice(["a", "b", "é", "€", "\\.", "\\n", "\\x41", "\\u00e9", " ", "-"])
    if kind == 1:
        return r.choice(["[a-c]", "[^a-c]", "[à-ÿ_]", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", ".", "[\\d.-]", "[^\\w\\s]"])
    if kind in (2, 3):
        return r.choice(["ab", "x", "yz", "1", "A"])
    if kind == 4:
        return "(?:" + "|".join(random_regex(r, depth + 1) for _ in range(r.randrange(1, 4))) + ")"
    if kind == 5:
        low = r.randrange(4)
        return "(" + random_regex(r, depth + 1) + ")" + r.choice(
            ["*", "+", "?", "*?", "{%d}" % low, "{%d,}" % low, "{%d,%d}" % (low, low + r.randrange(4))])
    return "".join(random_regex(r, depth + 1) for _ in range(r.randrange(1, 4)))


class Expressions(Case):
    TEXTS = ["", "a", "b", "ab", "abab", "é", "€", "x1", "xyz", "A-", "aa", "aab", "1.", "\n", " ", "_", "ÿ", "xab", "yzyz", "11"]

    def test_random(self):
        ended = matched = 0
        for seed in range(30000 if FULL else 400):
            r = random.Random(seed)
            expression = random_regex(r)
            # \s is what both take for white space; \S what neither does.
            python = re.compile(expression, re.ASCII)
            reply = self.judges[seed % len(self.judges)].ask(REGEX, expression, walks=3, tokens=60, seed=seed, match=self.TEXTS)
            self.assertNotIn("error", reply, expression)
            for walk in reply["walks"]:
                if walk["ended"]:
                    ended += 1
                    self.assertTrue(python.fullmatch(walk["text"]), f"{expression}: {walk['text']!r}")
            for text, match in zip(self.TEXTS, reply["match"]):
                matched += match
                self.assertEqual(bool(python.fullmatch(text)), match, f"{expression}: {text!r}")
        self.assertGreater(ended, 300)
        self.assertGreater(matched, 300)


if __name__ == "__main__":
    program = unittest.main(exit=False)
    result = program.result
    sys.exit(not result.wasSuccessful() or (77 if result.testsRun == len(result.skipped) else 0))
