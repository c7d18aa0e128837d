#!/usr/bin/env python3
"""Writes cases.json: templates, their variables and what Python's jinja2 (3.1.6), set up as transformers sets it up, makes of
them. Run by hand when cases are added: ./generate.py > cases.json. A case without "expected" is one that raises;
one with "chat" has its template in "chats" and variables of its own.

CASES are small and hard, each over VARIABLES. CHATS are chat templates in the style of published ones, over CONVERSATIONS."""
import json

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def render(template, variables):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, dict=Dict(), namespace=Namespace)
    return environment.from_string(template).render(**json.loads(json.dumps(variables)))


VARIABLES = {
    "messages": [
        {
            "role": "system",
            "content": " Sys "
        },
        {
            "role": "user",
            "content": "Ünï \n x"
        },
        {
            "role": "assistant",
            "content": "ok",
            "n": 3
        }
    ],
    "s": "Hello, World",
    "u": "naïve ÉCOLE straße 你好",
    "e": "",
    "n": 7,
    "f": 2.5,
    "neg": -3,
    "t": True,
    "none": None,
    "l": [
        3,
        1,
        2
    ],
    "ls": [
        "b",
        "A",
        "c"
    ],
    "d": {
        "b": 1,
        "A": {
            "x": [
                1,
                "two",
                None,
                True,
                1.5
            ]
        },
        "c": "é\"'\n"
    },
    "html": "<a href=\"x\">T & 'q'</a>",
    "us": [
        {
            "name": "bob",
            "age": 30,
            "tags": [
                "x"
            ]
        },
        {
            "name": "Al",
            "age": 25
        },
        {
            "name": "cy",
            "age": 30
        }
    ],
    "big": 9007199254740993,
    "nested": [
        [
            1,
            2
        ],
        [
            3,
            [
                4,
                5
            ]
        ]
    ],
    "ws": "  a  b \t c\n"
}

CASES = [
    "{{ 'Straße ΑΣ ﬁ'.casefold() }}{{ [('<'|safe) * 2] }}",
    "{{ ''.replace('', '-') }}{{ 'é'.replace('', '-', 1) }}{{ [1,2]|truncate(6) }}{{ l|sort(attribute='name') }}{{ [none, none]|sort }}",
    "{{ range(0, 10, 3) }}{{ range(5)[::2] }}{{ range(4)[3:0:-1] }}{{ 'a' % range(2) }}{{ ('<'|safe)|list }}{{ ('<a'|safe)[0] }}",
    "{{ 'x'|filesizeformat }}", "{{ [1]|filesizeformat }}",
    '{{ 1+2*3-4/2 }}|{{ 7//2 }}|{{ -7//2 }}|{{ -7%3 }}|{{ 7%-3 }}|{{ 2**10 }}|{{ 2**-1 }}|{{ 2**3**2 }}|{{ -2**2 }}',
    '{{ 7.5//2 }}|{{ -7.5%2 }}|{{ 1/3 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 1.0 }}|{{ 1e-5 }}|{{ 0.0001 }}|{{ 123456789.123 }}|{{ 1e22 }}|{{ 5e-324 }}|{{ 0.1+0.2 }}',
    "{{ 1 + true }}|{{ true + true }}|{{ 1.0 == 1 }}|{{ true == 1 }}|{{ 'a' < 'b' }}|{{ [1,2] < [1,3] }}|{{ (1,) == (1,) }}|{{ [1] == (1,) }}",
    '{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 1 == 1.0 == true }}|{{ 3 > 2 != 5 }}',
    "{{ 1 in [1,2] }}|{{ 'a' in 'abc' }}|{{ 'z' not in 'abc' }}|{{ 'b' in d }}|{{ 3 in (1,2) }}|{{ not 1 in [1] }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1,'x'] ~ {'k': 'v'} }}|{{ 1 ~ 2 + 3 }}",
    "{{ 'ab' * 3 }}|{{ 3 * 'ab' }}|{{ [1] * 3 }}|{{ 'x' * -1 }}|{{ 'x' * 0 }}",
    '{{ [1] + [2] }}|{{ (1,2) + (3,) }}|{{ () }}|{{ (1,) }}|{{ (1,2) }}|{{ {} }}|{{ [] }}',
    '{{ none }}|{{ None }}|{{ true }}|{{ False }}|{{ undefd }}|{{ [undefd] }}',
    '{{ d }}|{{ l }}|{{ us }}|{{ nested }}',
    '{{ d|tojson }}|{{ d|tojson(indent=2) }}|{{ us|tojson(sort_keys=true) }}|{{ u|tojson }}|{{ u|tojson(ensure_ascii=true) }}',
    "{{ d|tojson(separators=(',',':')) }}|{{ l|tojson(indent=0) }}|{{ []|tojson(indent=2) }}|{{ {}|tojson(indent=2) }}|{{ d|tojson(indent='--') }}",
    "{{ '🎉'|tojson(ensure_ascii=true) }}|{{ '\\x7f\\x01/'|tojson }}|{{ '\\x7f\\x01'|tojson(ensure_ascii=true) }}|{{ 1.0|tojson }}|{{ {1:2,none:3,true:4,1.5:5}|tojson }}",
    "{{ 'x' if t else 'y' }}|{{ 'x' if e }}|{{ 'x' if not t else 'y' if n else 'z' }}|{{ ('a' if e) is defined }}",
    '{{ s[0] }}|{{ s[-1] }}|{{ s[1:4] }}|{{ s[:-2] }}|{{ s[::-1] }}|{{ s[::2] }}|{{ s[10:2:-3] }}|{{ u[1:3] }}|{{ u[::-1] }}|{{ s[100:] }}|{{ s[-100:3] }}',
    '{{ l[0] }}|{{ l[-1] }}|{{ l[1:] }}|{{ l[::-1] }}|{{ l[5] }}|{{ (1,2,3)[1:] }}|{{ range(10)[2:5] }}|{{ range(10)[3] }}|{{ l[true] }}',
    "{{ d.b }}|{{ d['b'] }}|{{ d.A.x[1] }}|{{ d['A']['x'][-1] }}|{{ d.nope }}|{{ d['nope'] }}|{{ none.foo }}|{{ 5.foo is defined }}",
    '{{ d.nope.x }}',
    "{{ d['nope']['x'] }}",
    '{{ undefd.x }}',
    "{{ undefd['x'] }}",
    '{{ undefd + 1 }}',
    '{{ 1 + undefd }}',
    '{{ undefd < 1 }}',
    '{{ undefd() }}',
    '{{ undefd[1:] }}',
    '{{ d[1:] }}',
    '{{ 1/0 }}',
    '{{ 1//0 }}',
    '{{ 1%0 }}',
    "{{ 'a' + 1 }}",
    "{{ 1 + 'a' }}",
    '{{ [1] + (2,) }}',
    "{{ 'a' < 1 }}",
    '{{ none < 1 }}',
    '{{ 1 in 5 }}',
    "{{ 1 in 'abc' }}",
    '{{ 1 in none }}',
    '{{ 1 in undefd }}|{{ undefd == undefd2 }}|{{ undefd == none }}|{{ undefd|length }}|{{ undefd|list }}|{{ not undefd }}',
    '{% for x in undefd %}{{ x }}{% else %}none{% endfor %}',
    '{% for x in none %}{{ x }}{% endfor %}',
    '{% for x in 5 %}{{ x }}{% endfor %}',
    "{% for c in 'añb' %}[{{ c }}]{% endfor %}|{% for k in d %}{{ k }},{% endfor %}|{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    '{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}',
    '{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{{ loop.last }},{% else %}no{% endfor %}',
    '{% for x in l if x > 10 %}{{ x }}{% else %}no{% endfor %}',
    '{% for x in range(6) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    '{% for a, b in [(1,2),(3,4)] %}{{ a }}{{ b }}{% endfor %}|{% for (a, b), c in [((1,2),3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}',
    '{% for a, b in [(1,2,3)] %}{{ a }}{% endfor %}',
    '{% for a, b in [(1,)] %}{{ a }}{% endfor %}',
    '{% for x in nested recursive %}{% if x is iterable %}[{{ loop(x) }}]{{ loop.depth }}{% else %}{{ x }}{% endif %}{% endfor %}',
    "{% for x in l %}{{ loop.cycle('a','b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    '{% for x in l %}{% for y in l %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}|{% endfor %}',
    '{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}',
    "{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns['a'] }}{{ ns }}",
    '{% set d2.x = 1 %}',
    '{% set d.x = 1 %}',
    '{% set ns = namespace(_a=1) %}',
    '{% set ns = namespace() %}{% set ns._a = 1 %}',
    '{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set (p, q) = [5, 6] %}{{ p }}{{ q }}',
    '{% set x %}hi {{ n }}{% endset %}[{{ x }}]{{ x|length }}{% set y | upper | trim %} abc {% endset %}[{{ y }}]',
    "{% macro m(a, b=2, c='x') %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, c=5) }}{{ m(b=1, a=2) }}{{ m() }}",
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}',
    '{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}{{ m.name }}{{ m.arguments }}',
    "{% macro m(a, b=a ~ '!') %}{{ b }}{% endmacro %}{{ m('q') }}",
    '{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(3) }}',
    '{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in {{ n }}{% endcall %}',
    '{% macro w(x) %}{% for i in x %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(v) w(l) %}[{{ v }}]{% endcall %}',
    '{% macro w() %}{{ caller is defined }}{% endmacro %}{{ w() }}',
    "{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('l','L') %}hello{% endfilter %}",
    '{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}',
    '{% raw %}{{ x }}{% y %}{# z #}{% endraw %}',
    '{% generation %}gen {{ n }}{% endgeneration %}',
    '{% for x in l %}{% generation %}{{ x }}{% if loop.last %}L{% endif %}{% endgeneration %}{% endfor %}',
    '{% block foo %}blk {{ n }}{% endblock %}',
    '{# comment {{ x }} #}a{#- b -#} c',
    '{% if e %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if none %}x{% elif e %}y{% else %}z{% endif %}',
    "{% if t and not e or n %}1{% endif %}{{ t and 'x' }}{{ e or 'y' }}{{ none and 1 }}{{ 0 or none }}",
    '{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ u.upper() }}{{ u.lower() }}{{ u.title() }}{{ u.capitalize() }}{{ u.swapcase() }}{{ "they\'re bill\'s"|title }}{{ "they\'re".title() }}',
    "[{{ ws.strip() }}][{{ ws.lstrip() }}][{{ ws.rstrip() }}][{{ 'xxhixx'.strip('x') }}][{{ 'abcba'.strip('ab') }}][{{ 'xyz'.lstrip('yx') }}][{{ ws|trim }}][{{ 'xax'|trim('x') }}]",
    "{{ ws.split() }}{{ 'a,b,,c'.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ 'a b  c d'.split(None, 2) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b  c '.rsplit(None, 1) }}{{ 'abc'.split('') }}",
    "{{ ''.split() }}{{ ''.split(',') }}{{ 'a b c '.split(maxsplit=1) }}{{ 'a-b-c'.split(sep='-', maxsplit=1) }}{{ '  a  b  '.split(None, 1) }}",
    "{{ 'a\\nb\\r\\nc\\rd\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'abc'.partition('x') }}{{ 'abc'.rpartition('x') }}",
    "{{ s.replace('l','L') }}{{ s.replace('l','L',2) }}{{ 'abc'.replace('','-') }}{{ 'aaa'.replace('aa','b') }}{{ 'añb'.replace('','.') }}{{ s|replace('o','0',1) }}{{ 123|replace(2,'x') }}",
    "{{ s.startswith('He') }}{{ s.startswith(('x','He')) }}{{ s.endswith('ld') }}{{ s.endswith(('a','b')) }}{{ s.startswith('lo', 3) }}{{ s.endswith('lo', 0, 5) }}{{ s.startswith('') }}",
    "{{ s.startswith(['H']) }}",
    "{{ s.find('o') }}{{ s.find('o', 5) }}{{ s.rfind('o') }}{{ s.find('zz') }}{{ s.index('W') }}{{ s.count('l') }}{{ s.count('') }}{{ u.find('你') }}{{ u.count('') }}{{ 'aaa'.count('aa') }}",
    "{{ s.index('zz') }}",
    "{{ ','.join(ls) }}{{ ''.join([]) }}{{ '-'.join('abc') }}{{ ls|join(', ') }}{{ l|join }}{{ us|join(', ', attribute='name') }}{{ us|join('|', 'age') }}",
    "{{ ','.join(l) }}",
    "{{ '{} {}'.format('a', 1) }}{{ '{1} {0}'.format('a', 'b') }}{{ '{x:>5}|{y:<5}|{z:^5}'.format(x='a', y=1, z=2.5) }}{{ '{:05d} {:+d} {:x} {:#x} {:b} {:,}'.format(42, 5, 255, 255, 5, 1234567) }}{{ '{:.2f} {:8.3f} {:e} {:g} {:%}'.format(3.14159, 2.5, 12345.678, 0.0001, 0.25) }}{{ '{{}} {!r}'.format('q') }}{{ '{0.name} {0[age]}'.format(us[0]) }}{{ '{:*^9}'.format('hi') }}{{ '{:>{w}}'.format('a', w=4) }}",
    "{{ '{}'.format() }}",
    "{{ '%s %d %r' % ('a', 5, 'b') }}{{ '%5s|%-5s|%05d|%+d|%x|%X|%o|%c|%%' % ('a','b',42,5,255,255,8,'z') }}{{ '%.2f %e %g %5.1f' % (3.14159, 12345.678, 0.00001, 2.55) }}{{ '%(a)s-%(b)s' % {'a': 1, 'b': 'x'} }}{{ '%s' % 5 }}{{ '%s' % [1] }}{{ '%s'|format('z') }}{{ '%s,%s'|format(1,2) }}{{ '%(k)s'|format(k='v') }}{{ '%.2s' % 'abc' }}{{ '%*d' % (5, 42) }}",
    "{{ '%s %s' % 'a' }}",
    "{{ '%s' % (1,2) }}",
    "{{ '%d' % 'x' }}",
    "{{ '5'.isdigit() }}{{ 'a5'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ ''.isspace() }}{{ 'AB'.isupper() }}{{ 'Ab'.islower() }}{{ 'Ab Cd'.istitle() }}{{ '½'.isnumeric() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ 'aé'.isascii() }}",
    "{{ '42'.zfill(5) }}{{ '-42'.zfill(5) }}{{ 'a'.ljust(4,'.') }}{{ 'a'.rjust(4) }}{{ 'ab'.center(7,'*') }}{{ 'abc'.center(6,'*') }}{{ 'abc'|center(9) }}{{ 'abcd'.removeprefix('ab') }}{{ 'abcd'.removesuffix('cd') }}{{ 'a\\tb'.expandtabs(4) }}",
    "{{ d.items() }}{{ d.keys() }}{{ d.values() }}{{ d.get('b') }}{{ d.get('zz') }}{{ d.get('zz', 9) }}{{ d.keys()|list }}{{ d.items()|list|length }}{{ d.copy() == d }}",
    "{{ d.pop('b') }}",
    "{{ d.update({'z':1}) }}",
    '{{ l.append(1) }}',
    '{{ d.pop is defined }}{{ l.append is defined }}{{ d.setdefault is defined }}{{ d.get is defined }}{{ d.get is callable }}{{ s.upper is defined }}{{ d.items is defined }}',
    '{{ l.index(2) }}{{ l.count(3) }}{{ (1,2,1).count(1) }}{{ l.copy() }}',
    '{{ l.index(99) }}',
    "{{ d['items'] is defined }}{{ d['keys'] is callable }}{{ s['upper']() }}{{ d.__class__ is defined }}{{ d['__class__'] is defined }}",
    '{{ s|length }}{{ u|length }}{{ l|count }}{{ d|length }}',
    '{{ 5|length }}',
    '{{ none|length }}',
    "{{ l|sort }}{{ ls|sort }}{{ ls|sort(case_sensitive=true) }}{{ l|sort(reverse=true) }}{{ us|sort(attribute='age')|map(attribute='name')|list }}{{ us|sort(attribute='age,name')|map(attribute='name')|join(',') }}{{ 'hello'|sort }}",
    "{{ [1,'a']|sort }}",
    '{{ d|dictsort }}',
    "{{ {'b':1,'A':2}|dictsort }}{{ {'b':1,'A':2}|dictsort(true) }}{{ {'b':1,'A':2}|dictsort(by='value') }}{{ {'b':1,'A':2}|dictsort(reverse=true) }}",
    '{{ l|first }}{{ l|last }}{{ s|first }}{{ u|last }}{{ []|first }}{{ ([]|first) is defined }}{{ d|first }}{{ d|last }}',
    "{{ l|min }}{{ l|max }}{{ ls|min }}{{ ls|max }}{{ us|max(attribute='age') }}{{ []|min is defined }}{{ l|sum }}{{ us|sum(attribute='age') }}{{ l|sum(start=10) }}",
    '{{ l|reverse|list }}{{ s|reverse }}{{ u|reverse }}{{ d|reverse|list }}{{ (1,2)|reverse|list }}',
    "{{ ['a','A','b']|unique|list }}{{ ['a','A','b']|unique(true)|list }}{{ us|unique(attribute='age')|map(attribute='name')|list }}",
    "{{ us|groupby('age') }}{% for g, xs in us|groupby('age') %}{{ g }}:{{ xs|length }};{% endfor %}{% for g in us|groupby('age') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}",
    "{{ range(7)|batch(3)|list }}{{ range(7)|batch(3,'x')|list }}{{ range(7)|slice(3)|list }}{{ range(7)|slice(3,'x')|list }}",
    "{{ us|map(attribute='name')|list }}{{ ls|map('upper')|list }}{{ us|map(attribute='tags.0', default='none')|list }}{{ ls|map('replace','b','Z')|list }}{{ [1.5,2.5]|map('round')|list }}",
    "{{ us|selectattr('age','equalto',30)|map(attribute='name')|list }}{{ us|rejectattr('age','gt',26)|list|length }}{{ us|selectattr('tags')|list|length }}{{ l|select('odd')|list }}{{ l|reject('odd')|list }}{{ [0,1,'',2]|select|list }}{{ us|selectattr('tags','defined')|list|length }}{{ messages|selectattr('role','in',['user','system'])|list|length }}",
    "{% set g = l|select('odd') %}{{ g|list }}{{ g|list }}",
    "{% set g = l|select('odd') %}{{ g|length }}",
    "{{ l|select('nope')|list }}",
    "{{ l|map('nope')|list }}",
    '{{ x|nope }}',
    '{{ x is nope }}',
    '{% if false %}{{ x|nope }}{% endif %}ok',
    '{% if false %}{% for i in l %}{{ x|nope }}{% endfor %}{% endif %}ok',
    "{{ 'a' if true else x|nope }}",
    "{{ undefd|default('D') }}{{ e|default('D') }}{{ e|default('D', true) }}{{ none|default('D') }}{{ none|d('D', boolean=true) }}{{ undefd|default }}{{ d.nope|default([])|length }}",
    "{{ 3.7|int }}{{ '42'|int }}{{ '42.9'|int }}{{ 'x'|int }}{{ 'x'|int(5) }}{{ '0x1f'|int(base=16) }}{{ '11'|int(base=2) }}{{ true|int }}{{ none|int }}{{ ' 7 '|int }}{{ '1_000'|int }}{{ '3.5'|float }}{{ 'x'|float }}{{ 'x'|float(1.5) }}{{ '1e3'|float }}{{ 5|float }}",
    "{{ 2.5|round }}{{ 3.5|round }}{{ 42.55|round(1) }}{{ 42.55|round(1,'floor') }}{{ 42.51|round(1,'ceil') }}{{ 5|round }}{{ 15|round(-1) }}{{ 25|round(-1) }}{{ 1234.5|round(-2) }}{{ 2.675|round(2) }}{{ -3|abs }}{{ -2.5|abs }}",
    "{{ html|escape }}{{ html|e }}{{ html|escape|escape }}{{ html|forceescape }}{{ html|safe }}{{ html|striptags }}{{ '<b>' + ('<i>'|safe) }}{{ ('<i>'|safe) + '<b>' }}{{ '<b>' ~ ('<i>'|safe) }}{{ ('<b>'|escape) * 2 }}{{ ('a<'|safe).replace('a','<') }}{{ ['<']|join('<'|safe) }}",
    "{{ 'a b/c?d=é&'|urlencode }}{{ {'a b':'c/d','e':1}|urlencode }}{{ {'class':'x y','id':none,'n':5}|xmlattr }}",
    "{{ 'line1\\nline2\\n\\nline3'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ 'a\\nb\\n'|indent('>>') }}",
    "{{ 'foo bar baz qux'|truncate(9) }}{{ 'foo bar baz qux'|truncate(9, true) }}{{ 'foo bar baz qux'|truncate(11) }}{{ 'foo bar baz qux'|truncate(11, false, '...', 0) }}{{ 'short'|truncate }}",
    "{{ 'the quick brown fox jumps over'|wordwrap(10) }}|{{ 'aaaaaaaaaaaaaaaa bbb'|wordwrap(5) }}|{{ 'aaaaaaaaaaaaaaaa bbb'|wordwrap(5, false) }}|{{ 'well-known fact-based'|wordwrap(8) }}|{{ s|wordcount }}{{ 'a b-c d_e'|wordcount }}",
    '{{ s|capitalize }}{{ u|upper }}{{ u|lower }}{{ 5|string }}{{ [1]|string }}{{ 1.0|string }}{{ none|string }}{{ s|list }}{{ d|items|list }}{{ undefd|items|list }}{{ 1000000|filesizeformat }}{{ 1024|filesizeformat(true) }}',
    "{{ 5 is number }}{{ true is number }}{{ true is integer }}{{ 5 is integer }}{{ 1.5 is float }}{{ 's' is string }}{{ d is mapping }}{{ l is sequence }}{{ d is sequence }}{{ s is sequence }}{{ 5 is iterable }}{{ none is none }}{{ l is iterable }}{{ d.items() is sequence }}{{ range(3) is sequence }}{{ undefd is iterable }}{{ undefd is sequence }}{{ undefd is string }}",
    "{{ 5 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}{{ 5 is eq 5 }}{{ 5 is equalto(6) }}{{ 5 is ne 6 }}{{ 5 is lt 6 }}{{ 5 is gt(6) }}{{ 5 is ge 5 }}{{ 5 is le 4 }}{{ 5 is in [5] }}{{ 'a' is lower }}{{ 'A' is upper }}{{ none is sameas none }}{{ true is true }}{{ 1 is true }}{{ false is false }}{{ true is boolean }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ ('a'|safe) is escaped }}{{ 'a' is escaped }}{{ s is defined }}{{ undefd is undefined }}{{ 5 is not odd }}{{ undefd is not defined }}{{ range is callable }}",
    '{{ not 5 is odd }}{{ 5 is odd and 4 is even }}{{ 5 is odd is even }}',
    '{{ range(3) }}{{ range(1,4)|list }}{{ range(5,0,-2)|list }}{{ range(3)|length }}{{ range(0)|list }}{{ 2 in range(3) }}{{ range(3)|last }}',
    '{{ range(100001) }}',
    '{{ range(0,5,0) }}',
    "{{ dict(a=1, b=2) }}{{ dict([('x',1)]) }}{{ dict({'q':1}, r=2) }}{{ dict() }}{{ dict.fromkeys(['a','b'], 0) }}",
    "{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{{ raise_exception('boom ' ~ n) }}",
    '{{ "a\\tb\\\\n\\\'\\"\\x41\\u00e9\\101\\q" }}{{ \'a\' \'b\' "c" }}{{ \'line\\\ncont\' }}{{ \'\\é\' }}',
    '{{ 0x1f }}{{ 0b101 }}{{ 0o17 }}{{ 1_000 }}{{ 1.5e3 }}{{ 1e3 }}{{ 00 }}{{ 3.0 }}{{ 1.e }}',
    '{{ l.0 }}{{ nested.1.0 }}{{ d["A"].x.1 }}',
    "{{ {'a':1,'a':2} }}{{ {1:'x',1.0:'y'} }}{{ {(1,2):3}[1,2] }}{{ {'k':[1,{'z':none}]}.k[1].z }}",
    '{{ {[1]:2} }}',
    "{{ [1,2,] }}{{ (1,2,) }}{{ {'a':1,} }}",
    '{{ foo(*[1]) }}',
    "{% macro m(a,b,c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1,2], **{'c':3}) }}{{ m(*l) }}",
    "{{ 'a'.upper().lower()|upper|lower }}{{ -5|abs }}{{ (-5)|abs }}{{ -1.5|string }}{{ 1 - -1 }}{{ - 5 }}{{ +3 }}{{ not true }}{{ not not e }}",
    "{{ 1 if 2 > 1 else 0 }}{{ 'a' in ['a'] and 'b' or 'c' }}{{ (1 if e else 2) + 1 }}{{ 1 + 2 ~ 'x' }}{{ 'x' ~ 2 * 3 }}",
    '{{ \'a\nb\' }}{{ "tab\tx" }}',
    '{{ big }}{{ big + 1 }}{{ big * 1.0 }}{{ 2 ** 62 }}{{ -9223372036854775807 - 1 }}',
    "{{ 'abc' > 'abd' }}{{ 'é' > 'z' }}{{ '' < 'a' }}{{ [] < [1] }}{{ 2 < 2.5 }}{{ true > false }}",
    "{{ messages[0].content|trim }}{{ messages[1]['content'] }}{{ messages[-1].n }}{{ messages[0].foo is defined }}{{ messages|map(attribute='role')|join(',') }}{{ messages[1:]|length }}{{ (messages|last).role }}",
    '{%- for m in messages -%} {{ m.role }} {%- endfor -%}',
    '   {%- if true +%}\n  x\n   {%+ if true %} y\n{% endif %}\n{% endif %}',
    '{{ \'é\' }}{{ "\\U0001F600" }}{{ \'\\u200b\' }}{{ [\'\\u200b\', \'\\x00\', \'é\', "it\'s", \'a"b\', "a\'\\"b", \'\\\\\', \'\\t\'] }}',
    "{%- set x = 'abc' -%}\n  {{- x -}}\n     d",
    '{% set loop = 5 %}{{ loop }}',
    '{% for loop in l %}{% endfor %}',
    '{% for x in l %}{{ x }}{% endfor %}{{ x }}{{ loop is defined }}',
    '{% break %}',
    '{% for x in l %}{% macro q() %}{% break %}{% endmacro %}{% endfor %}',
    '{% if %}{% endif %}',
    '{% if t %}',
    '{% endif %}',
    '{% for x in l %}',
    '{% foo %}',
    '{{ x',
    '{{ }}',
    "{{ 'abc }}",
    '{{ a b }}',
    '{{ [1, 2 }}',
    '{{ (1 }}',
    '{{ 1 + }}',
    '{{ a. }}',
    '{{ a|}}',
    '{% set %}',
    '{% set 5 = 1 %}',
    '{% set true = 1 %}',
    '{% macro m( %}{% endmacro %}',
    '{% endfor %}',
    "{% include 'x' %}",
    '{# unclosed',
    '{% raw %} unclosed',
    '{{ ? }}',
    '{{ a ! b }}',
    "{{ {'a' 1} }}",
    '{{ foo(a=1, 2) }}',
    '{{ [x for x in l] }}',
    '{{ lambda }}',
    '{% do l.append(1) %}',
    '{% print 5, 6 %}',
    '{% set x = 5 if false %}{{ x is defined }}[{{ x }}]',
    "{{ s|upper|replace('L','_')|length }}{{ (s|upper)[0:3] }}{{ s[0:3]|upper }}{{ l|length > 2 }}{{ l|length + 1 }}",
    '{{ {\'a\': {\'b\': [10,20]}}.a.b|last }}{{ \'x\'.join([\'a\',\'b\'])|upper }}{{ "%.1f"|format(2.25) }}{{ "%03d"|format(7) }}',
    "{{ 'ß'.upper() }}{{ 'ΑΣ'.lower() }}{{ 'İ'.lower() }}{{ 'ﬁ'.upper() }}{{ 'ǆ'.title() }}{{ 'ñ'|capitalize }}",
    '{{ d|string }}{{ us[0]|string|length }}{{ us|tojson|length }}',
    "{{ none ~ '' }}{{ [none, true, 1.0, 'x'] }}{{ {'a': undefd} }}{{ undefd ~ 'x' }}",
    '{{ undefd|tojson }}',
    '{{ range(3)|tojson }}',
    '{{ d.items()|tojson }}',
    "{{ namespace(a=1).a }}{{ (namespace(a=[1])).a[0] }}{{ namespace({'q': 2}).q }}",
    '{% set ns = namespace(found=false) %}{% for m in messages if not ns.found %}{{ m.role }}{% set ns.found = true %}{% endfor %}',
    '{% for x in [1,2,3,4] if x is even %}{{ loop.index }}:{{ x }}{{ loop.nextitem is defined }}{{ loop.previtem is defined }} {% endfor %}',
    '{% for x in l %}{{ loop.index }}{% else %}e{% endfor %}{% for x in [] %}{% else %}{{ loop is defined }}{% endfor %}',
    '{% macro a() %}{{ zz }}{% endmacro %}{% set zz = 3 %}{{ a() }}',
    '{% macro a(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ a(1) }}{{ x is defined }}',
    '{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% with %}{% set x = 3 %}{% endwith %}{{ x }}',
    '{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}',
    "{{ 'a,b;c'.split(',')[1].split(';')[0] }}{{ 'x'.split('</think>')[-1].lstrip('\\n') }}{{ '<think>a</think>b'.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
    '{{ 5 // 2.0 }}{{ 5 % 2.5 }}{{ 0.1 * 3 }}{{ 1e300 * 1e10 }}{{ -0.0 }}{{ 1.10 }}{{ 100000000000000000.0 }}{{ 12345678901234567.0 }}{{ 3.14e-10 }}',
    '{{ 10 ** -2 }}{{ 2 ** 0.5 }}{{ 4 ** 0.5 }}{{ (-8) // 3 }}{{ -8 // -3 }}{{ 8 % -3 }}{{ 0 ** 0 }}',
    '{{ loop.index }}',
    '{{ caller() }}',
    '{{ x.y.z is defined }}',
    '{{ (x.y).z is defined }}',
    '{{ d.b.c is defined }}{{ d.b.c.d is defined }}',
    '{{ s.foo is defined }}{{ s.foo() }}',
    '{{ 5() }}',
    "{{ 'x'() }}",
    '{{ l() }}',
    "{{ messages[0]['role'] == 'system' and messages[0].content or 'none' }}",
    '{{ \'a\' == "a" }}{{ \'a\' != \'b\' }}{{ none == none }}{{ [] == [] }}{{ {} == {} }}{{ {\'a\':1,\'b\':2} == {\'b\':2,\'a\':1} }}{{ none != 0 }}{{ \'\' == 0 }}',
    'a\n',
    'a\n\n',
    'a\r\nb\r\n',
    '{% if t %}\nx\n{% endif %}\n\ny',
    '  {% if t %}  x  {% endif %}  \n',
    '  {{ n }}  \n',
    'x {% if t %}y{% endif %}\n z',
    '{% if t -%}\n  x\n{%- endif %}',
    '{%- if t %} x {%- endif %} y',
    '  {%+ if t %}x{% endif %}',
    '{% if t +%}\nx{% endif %}',
    '{# c #}\nx',
    '  {# c #}\n  x',
    '{#- c -#}  \n x',
    'a  {#- c #}\nb',
    '{{ n }}\nx',
    '{{ n -}}\n x',
    'x\n  {{- n }}',
    '{% raw %}\n a {% endraw %}\nb',
    '  {% raw -%}  x  {%- endraw %}  y',
    "{% raw %}{{ '{%' }}{% endraw %}",
    'a{% raw %}b{% endraw +%}\nc',
    '',
    '{{',
    '{%',
    '{#',
    '{',
    '{ {',
    '}}',
    '%}',
    "{{ '}}' }}",
    "{{ {'a':{'b':1}}['a'] }}",
    "{% set x = {'a': '%}'} %}{{ x }}",
    '{{ "{{ x }}" }}',
    '\n\n{% if t %}\n\n{% endif %}\n\n',
    '\t{% set q=1 %}\n\tz',
    'é{% if t %}ü{% endif %}\u2028 {%- if t %}x{% endif %}',
    '\xa0{% if t %}x{% endif %}',
    '\xa0{%- if t %}x{% endif %}',
    '{%if t%}x{%endif%}',
    '{%-if t-%} x {%-endif-%} ',
    '{{-n-}}',
    '{{ n}}',
    '{{n }}',
    '{{+n}}',
    '{{ +n }}',
    '{%+if t%}x{%endif%}',
    '{% if t: %}x{% else: %}y{% endif %}',
    '{% for x in l: %}{{x}}{% endfor %}',
    "{{ '%s' % none }}",
    "{{ 'a' % () }}",
    "{{ 'a' % {} }}",
    "{{ 'a' % [] }}",
    "{{ 'a' % 1 }}",
]

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Weather in a city ", "parameters": {
        "type": "object", "required": ["city"],
        "properties": {"city": {"type": "string", "description": "Name <b>é</b>"}, "days": {"type": "integer"}}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "x": None}}}
USER = {"role": "user", "content": " Hello <|im_end|> wörld 你好 🎉\n"}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
ASSISTANT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi \"you\""}
REASONING = {"role": "assistant", "content": "Yes.", "reasoning_content": "\nlong thought\n"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CALLING_TEXT = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_2", "function": {"name": "weather", "arguments": "{\"city\": \"Bern\"}"}}, CALL]}
RESULT = {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "call_1"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]}
CONVERSATIONS = [
    [USER], [SYSTEM, USER], [USER, ASSISTANT, USER], [SYSTEM, USER, REASONING], [USER, CALLING, RESULT],
    [SYSTEM, USER, CALLING_TEXT, RESULT, RESULT, ASSISTANT, USER], [PARTS], [USER, USER], [], [{"role": "user"}],
    [{"role": "other", "content": "x"}],
]
OPTIONS = [
    {"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": [TOOL]},
    {"tools": None, "enable_thinking": False, "add_generation_prompt": True}, {"tools": [TOOL], "enable_thinking": True},
]
CHATS = [
    # turns between markers, tools as JSON lines, reasoning cut from earlier answers
    """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{- '\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}""",
    # strict alternation, system text folded into the first turn
    """{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{% set prefix = messages[0]['content'] | trim ~ '\n\n' %}{% else %}{% set loop_messages = messages %}{% set prefix = '' %}{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string %}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable %}
        {%- for item in message['content'] %}
            {%- if item['type'] == 'image' %}{{ '<image>' }}{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}
        {%- endfor %}
    {%- else %}{{ raise_exception("Invalid content type") }}{% endif %}
{{ '<end_of_turn>\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    # macros over a tool's schema
    """{%- macro type_of(spec, required=false) -%}
{%- if spec.type == 'object' -%}
{ {%- for name, inner in spec.properties | dictsort %}{{ name }}{{ '' if name in (spec.required or []) else '?' }}: {{ type_of(inner) }}{{ ', ' if not loop.last }}{% endfor -%} }
{%- elif spec.type is string -%}{{ {'string': 'str', 'integer': 'int'}.get(spec.type, spec.type) }}
{%- else -%}any{%- endif -%}
{%- endmacro -%}
{%- macro turn(message) -%}<{{ message.role | upper }}>{{ caller(message) }}</{{ message.role | upper }}>{%- endmacro -%}
{% for tool in tools or [] %}
def {{ tool.function.name }}({{ type_of(tool.function.parameters) }}): # {{ tool.function.description | trim }}
{{ tool.function | tojson(indent=2) | indent(4, first=true) }}
{% endfor %}
{% for message in messages %}
{% call(m) turn(message) %}
{%- generation %}{{ m.content | default('?', true) if m.content is not sequence or m.content is string else m.content | selectattr('type', 'eq', 'text') | map(attribute='text') | join('|') }}{% endgeneration %}
{%- for call in m.tool_calls %}[{{ loop.index }}/{{ loop.length }}:{{ call.id }} {{ call.function.arguments }}]{% endfor %}
{% endcall %}

{% else %}
nothing
{% endfor %}""",
    # text gathered in a namespace; break and continue
    """{% set ns = namespace(out=bos_token, turns=0) %}
{% for message in messages if message.content is defined %}
  {% if message.role == 'system' %}{% continue %}{% endif %}
  {% if ns.turns >= 3 %}{% break %}{% endif %}
  {% set text %}
[{{ message.role }}] {% filter trim %}{{ message.content }}{% endfilter +%}
  {% endset %}
  {% set ns.out = ns.out ~ text %}
  {% set ns.turns = ns.turns + 1 %}
{% endfor %}
{{ ns.out }}({{ ns.turns }}){{ eos_token if not add_generation_prompt }}""",
]


def case(template, variables, **named):
    result = {"template": template} if not named else {"variables": variables, **named}
    try:
        result["expected"] = render(template, variables)
    except Exception:
        pass
    return result


def main():
    cases = [case(template, VARIABLES) for template in CASES]
    for index, template in enumerate(CHATS):
        for messages in CONVERSATIONS:
            for options in OPTIONS:
                variables = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", **options}
                cases.append(case(template, variables, chat=index))
    print('{"variables":', json.dumps(VARIABLES, ensure_ascii=False), ',"chats":', json.dumps(CHATS), ',"cases":[')
    print(",\n".join(json.dumps(item, ensure_ascii=False) for item in cases))
    print("]}")


main()
