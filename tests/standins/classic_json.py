"""What Python makes of JSON, for the tests of what Bellwire makes of it. Standard library only.

    classic_json.py SEED COUNT

Prints COUNT lines, each a JSON array [text, printed]: a text that is JSON or nearly so, and what
`json.dumps(json.loads(text))` makes of it, `</` written as `<\\/`, or null when Python refuses it.
The same seed gives the same texts.
"""

import json
import random
import sys

random.seed(int(sys.argv[1]))
if hasattr(sys, "set_int_max_str_digits"):
    # Whole numbers have no limit in the contract.
    sys.set_int_max_str_digits(0)

CHARS = ["a", "b", "<", "/", "</", "\u00e9", "\u20ac", "\U0001f600", "\u2028", "\x7f", " ", "'", "\u00a0", "\ufeff"]
ESCAPES = ['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0041", "\\u00E9", "\\ud83d", "\\uDE00",
           "\\uD83D\\ude00", "\\u0000", "\\u003c", "\\u007F", "\\uffff"]
SPACES = ["", "", "", " ", "\n", "\r\n", "\t "]
NUMBERS = ["0", "-0", "1", "-1", "0.0", "-0.0", "1e5", "1E400", "-1e400", "1e-400", "1.50", "0.1", "1e16", "1e15", "9007199254740993",
           "9007199254740993.0", "5e-324", "2.2250738585072014e-308", "1.7976931348623157e308", "0.0001", "0.00001",
           "123456789012345678901234567890", "NaN", "Infinity", "-Infinity", "1e+2", "-12.5e-7"]
MISTAKES = ["01", "1.", ".5", "+1", "-", "1e", "1e+", "nul", "True", "'a'", '"a', '"\\x"', '"\\u12"', '"\\u12g4"', '"\t"', "[1,]",
            '{"a":1,}', '{"a"}', "{1:2}", "[1 2]", "]", "", "\ufeff1", "1 1", "\u00a0", "-NaN", "+Infinity", "nan", "\x0c1"]


def space():
    return random.choice(SPACES)


def string():
    return '"' + "".join(random.choice(random.choice([CHARS, ESCAPES])) for _ in range(random.randrange(6))) + '"'


def number():
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind == 1:
        return str(random.getrandbits(random.randrange(1, 200)) * random.choice([1, -1]))
    if kind == 2:
        return "%se%d" % (random.choice([repr(random.random()), "%d.%d" % (random.randrange(10), random.getrandbits(70))]),
                          random.randrange(-330, 330))
    return "%d.%0*d" % (random.randrange(10 ** random.randrange(1, 20)), random.randrange(1, 20), random.getrandbits(30))


def value(depth):
    if random.random() < 0.004:
        return random.choice(MISTAKES)
    kind = random.randrange(3 if depth == 0 else 6)
    if kind == 0:
        return string()
    if kind == 1:
        return number()
    if kind == 2:
        return random.choice(["null", "true", "false"])
    items = range(random.randrange(5))
    if kind == 3:
        return "[" + ",".join(space() + value(depth - 1) + space() for _ in items) + space() + "]"
    # Few names, so that some come twice.
    names = ['"a"', '"\\u0061"', '"b"', '"\u00e9"', '"\\u00e9"', string()]
    members = (space() + random.choice(names) + space() + ":" + space() + value(depth - 1) + space() for _ in items)
    return "{" + ",".join(members) + space() + "}"


def printed(text):
    try:
        return json.dumps(json.loads(text)).replace("</", "<\\/")
    except ValueError:
        return None


for text in MISTAKES + NUMBERS:
    print(json.dumps([text, printed(text)]))
for _ in range(int(sys.argv[2])):
    text = space() + value(random.randrange(5)) + space()
    if random.random() < 0.1 and text:
        # One character is lost.
        at = random.randrange(len(text))
        text = text[:at] + text[at + 1:]
    print(json.dumps([text, printed(text)]))
