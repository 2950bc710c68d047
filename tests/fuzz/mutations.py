"""Ways to damage a file: its bytes, its JSON, its lines, its headers, or the place it stands in.

A mutation takes a path and a random stream, changes what stands there, and says what it did.
"""

import copy
import gzip
import io
import json
import struct
import zipfile

VALUES = (
    *(None, True, False, 0, 1, -1, 3, 0.5, -0.5, 2**31, 2**63, 10**30, -(10**30), 1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "\u2028", "\x85", "\ufeff", "\0", "\x1b[31m", "\ud800", "[/b]", "[bold]x[/]", "none", "..", "/", "/etc"),
    *("antigravity", "this", "idlelib.idle", "planted_door", "planted_door.Door", "planted_door:Door"),
    *("planted_door--planted_door.Door", "!!python/name:planted_door.Door", "os.system", "{{ 7 * 7 }}"),
    *("x" * 100_000, "1" * 5000, "7" * 400, "float32", "F64", "model.safetensors", "w3"),
    *([], {}, [[]], [None], [1, 2, 3], ["planted_door.Door"], {"a": {"b": []}}, {"": 0}, {"name": "planted_door"}),
)
KEYS = ("auto_map", "model_type", "architectures", "__class__", "name", "text", "", "\u2028", "[/b]", "dtype")
LINES = ("", ",", ",,,,", "\t", '"', "'", "{", "[" * 2000, "\u2028", "\x85", "\ufeff", "\0", "nan", "1e999", "-1", "=")
PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n\n",
    b'"',
    b"[" * 3000,
    b"{",
    b"NaN",
    b"-",
    b"&a *a",
)


def mutate(path, draw, others):
    """Damage the file in a way that fits what it is; returns the ways in words."""
    kinds = [_bytes] * 3 + [_place]
    kinds += {
        ".json": [_json] * 12,
        ".safetensors": [_safetensors] * 8,
        ".skops": [_skops] * 12,
        ".gz": [_gzip] * 6,
    }.get(path.suffix, [_lines] * 6 if path.suffix in TEXTS else [])
    kinds += [_json_lines] * 8 if path.suffix == ".jsonl" else []
    return draw.choice(kinds)(path, draw, others)


TEXTS = {".txt", ".jsonl", ".csv", ".tsv", ".yaml", ".log"}


def mutate_line(line, draw):
    """A command line with another value, an option lost or doubled; what `--out` names stays, or is no name at all."""
    words = line.split(" ")
    at = draw.randrange(1, len(words))
    way = draw.choice(("value", "value", "value", "value", "gone", "twice", "option"))
    if way == "value":
        names = (
            ".",
            "..",
            "/",
            "",
            "~",
            "none",
            "x" * 300,
            "a/b/c",
            "bundled:none",
            "datasets:",
            "x[/y]",
            "-",
            "--",
            "model",
        )
        numbers = (
            "0",
            "-1",
            "nan",
            "inf",
            "1e999",
            "1e-9",
            "10000000000000000000000",
            "\u00b2",
            "1,2",
            "0x10",
            "2:4",
            "1:1",
        )
        text = ("\x1b[31m", "\udcff", "\u2028", "[bold]", "w3")
        end = draw.choice(("", "", ".txt", ".jsonl", ".csv", ".gguf", ".safetensors", ".skops", ".yaml"))
        words[at] = draw.choice(names + numbers + text) + end
        if words[at - 1] == "--out":
            words[at] = draw.choice(("", ".", "..", "/", "x" * 300, "model", "text.txt/x", "text.txt"))
    elif way == "gone":
        del words[at]
    elif way == "twice":
        words.insert(at, words[at])
    else:
        option = (
            "--seed",
            "--ratio",
            "--length",
            "--samples",
            "--budget",
            "--pattern",
            "--allocator",
            "--exempt",
            "--bogus",
        )
        words[at:at] = [
            draw.choice(option),
            draw.choice(("0", "-1", "nan", "1e99", "", "2:4", "5", "\u00b2", "heads+channels")),
        ]
    return f"words {words[1:]!r}"[:300], " ".join(words)


def _bytes(path, draw, others):
    return _rewrite(path, damaged(path.read_bytes(), draw))


def _rewrite(path, found):
    way, data = found
    path.write_bytes(data)
    return way


def damaged(data, draw):
    """Bytes with a fault, and which."""
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice((1, 2, 8, 64, 1024)))
    way = draw.choice(("flip", "flips", "cut", "without", "twice", "piece", "random", "empty", "swapped", "zeros"))
    if way in ("flip", "flips"):
        flipped = bytearray(data)
        for _ in range((1 if way == "flip" else 16) * bool(data)):
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return way, bytes(flipped)
    made = {
        "cut": lambda: data[:at],
        "without": lambda: data[:at] + data[end:],
        "twice": lambda: data[:end] + data[at:],
        "piece": lambda: data[:at] + draw.choice(PIECES) + data[at:],
        "random": lambda: draw.randbytes(draw.choice((1, 7, 8, 100, 5000))),
        "empty": lambda: b"",
        "swapped": lambda: data[at:] + data[:at],
        "zeros": lambda: data[:at] + bytes(end - at) + data[end:],
    }[way]()
    return f"{way} at {at}", made


def _place(path, draw, others):
    """Another thing stands where the file stood."""
    way = draw.choice(("other", "other", "gone", "folder", "dangling link", "link to itself", "link"))
    other = draw.choice([file for file in others if file != path] or [path])
    content = path.read_bytes() if way == "other" and other == path else other.read_bytes()
    path.unlink()
    if way == "other":
        path.write_bytes(content)
    elif way == "folder":
        path.mkdir()
    elif way == "dangling link":
        path.symlink_to("nowhere")
    elif way == "link to itself":
        path.symlink_to(path.name)
    elif way == "link" and other != path:
        path.symlink_to(other)
    return f"{way} {other.name if way in ('other', 'link') else ''}"


def _json(path, draw, others):
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return _bytes(path, draw, others)
    way, data = changed(data, draw)
    path.write_text(json.dumps(data), encoding="utf-8")
    return way


def changed(data, draw):
    """Plain data with another value, key or depth somewhere, and what was done."""
    data = copy.deepcopy(data)
    ways = []
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        places = list(_places(data))
        if not places:
            return "value", draw.choice(VALUES)
        holder, key = draw.choice(places[:60] if draw.random() < 0.7 else places)
        ways.append(_change(holder, key, draw))
    return ", ".join(ways), data


def _change(holder, key, draw):
    """Change one place of plain data."""
    way, value = draw.choice(("value", "value", "value", "number", "gone", "key", "twice", "deep")), holder[key]
    if way == "gone":
        del holder[key]
    elif way == "key" and isinstance(holder, dict):
        holder[draw.choice(KEYS)] = draw.choice(VALUES)
    elif way == "twice" and isinstance(holder, list):
        holder.append(value)
    elif way == "deep":
        for _ in range(draw.choice((1, 3, 150))):
            holder[key] = [holder[key]]
    elif way == "number" and type(value) in (int, float):
        holder[key] = draw.choice((value + 1, -value, value * 7, 10**9, 0, 1e999, 0.5))
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
        way = f"{str(holder[key])[:20]!r}"
    return f"{way} at {str(key)[:30]!r}"


def _places(data):
    waiting = [data]
    while waiting:
        part = waiting.pop(0)
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            yield part, key
            waiting.append(part[key])


def _json_lines(path, draw, others):
    """One row of a .jsonl with something else in it."""
    lines = path.read_text(encoding="utf-8").splitlines() or ["{}"]
    at = draw.randrange(len(lines))
    try:
        way, row = changed(json.loads(lines[at]), draw)
    except ValueError:
        return _bytes(path, draw, others)
    lines[at] = json.dumps(row, ensure_ascii=draw.random() < 0.5)
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"line {at}: {way}"


def _lines(path, draw, others):
    """Lines lost, doubled or exchanged, or a field of one replaced."""
    text = path.read_bytes().decode("utf-8", "replace")
    lines = text.split("\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    way = draw.choice(("gone", "twice", "exchanged", "new", "field", "field", "field", "joined", "alias"))
    if way == "gone":
        del lines[at]
    elif way == "twice":
        lines.insert(to, lines[at])
    elif way == "exchanged":
        lines[at], lines[to] = lines[to], lines[at]
    elif way == "new":
        lines.insert(at, draw.choice(LINES))
    elif way == "joined":
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    elif way == "alias":
        lines[at] += " &a [*a, *a]" if draw.random() < 0.5 else " !!python/object/apply:planted_door.open_door []"
    else:
        mark = draw.choice((",", "\t", ":", " ", "="))
        fields = lines[at].split(mark)
        place = draw.randrange(len(fields))
        value = draw.choice(VALUES)
        fields[place] = draw.choice(LINES) if draw.random() < 0.4 else str(value)
        way += f" {place} is {fields[place][:20]!r}"
        lines[at] = mark.join(fields)
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"line {at}: {way}"


def _safetensors(path, draw, others):
    """A header that says something else, or numbers that are none."""
    data = path.read_bytes()
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        name = draw.choice([name for name in header if name != "__metadata__"])
    except (ValueError, struct.error, IndexError):
        return _bytes(path, draw, others)
    way = draw.choice(("header", "header", "length", *HEADERS))
    if way == "header":
        said, header = changed(header, draw)
        way += f" {said}"
    elif way in HEADERS:
        header, body = HEADERS[way](header, body, name, draw)
    text = json.dumps(header).encode()
    size = draw.choice((0, 1, size - 1, size + 8, 2**31, 2**63)) if way == "length" else len(text)
    path.write_bytes(struct.pack("<Q", size) + text + body)
    return f"{way} of {name[:40]}"


def _kind(header, body, name, draw):
    kinds = ("F64", "F32", "F16", "BF16", "I64", "I32", "U32", "I8", "BOOL", "F8_E4M3", "U16", "C64", "X")
    return header | {name: header[name] | {"dtype": draw.choice(kinds)}}, body


def _overlap(header, body, name, draw):
    other = draw.choice([key for key in header if key != "__metadata__"])
    return header | {name: header[name] | {"data_offsets": header[other]["data_offsets"]}}, body


def _renamed(header, body, name, draw):
    new = name + draw.choice(("x", ".weight", "\0", "[/b]"))
    return {new if key == name else key: entry for key, entry in header.items()}, body


def _no_number(header, body, name, draw):
    at = draw.randrange(max(1, len(body) // 4)) * 4
    number = struct.pack("<f", draw.choice((float("nan"), float("inf"), 3e38)))
    return header, body[:at] + number + body[at + 4 :]


def _shape(header, body, name, draw):
    shape = header[name]["shape"]
    shape = draw.choice((list(reversed(shape)), [*shape, 1], [1, *shape]))
    return header | {name: header[name] | {"shape": shape}}, body


def _metadata(header, body, name, draw):
    kept = {key: entry for key, entry in header.items() if key != "__metadata__"}
    said = draw.choice(({}, {"format": "tf"}, {"extra": "[" * 3000}, {"sha256": "0"}, {"shapes": "{}"}, None))
    return kept if said is None else kept | {"__metadata__": said}, body


def _without(header, body, name, draw):
    start, end = header[name]["data_offsets"]
    kept = {key: dict(entry) for key, entry in header.items() if key != name}
    for key, entry in kept.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [at - (end - start) for at in entry["data_offsets"]]
    return kept, body[:start] + body[end:]


HEADERS = {
    "dtype": _kind,
    "overlap": _overlap,
    "new name": _renamed,
    "nan": _no_number,
    "shape": _shape,
    "metadata": _metadata,
    "gone": _without,
}


def _skops(path, draw, others):
    """An archive whose schema names something else, or that lacks or repeats an entry."""
    try:
        with zipfile.ZipFile(path) as given:
            entries = {name: given.read(name) for name in given.namelist()}
        schema = json.loads(entries["schema.json"])
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        return _bytes(path, draw, others)
    way = draw.choice(("schema", "schema", "schema", "node", "node", "array", "gone", "exchanged"))
    names = [name for name in entries if name != "schema.json"]
    if way == "schema":
        said, schema = changed(schema, draw)
        way += f" {said}"
    elif way == "node":
        nodes = [holder for holder, key in _places(schema) if key == "__class__"]
        node = draw.choice(nodes)
        key = draw.choice(("__module__", "__class__", "__loader__", "__id__", "content"))
        node[key] = draw.choice(
            (*VALUES, "builtins", "FunctionNode", "MethodNode", "ObjectNode", "TypeNode", "sklearn.pipeline", "eval")
        )
        way += f" {key} is {str(node[key])[:30]!r}"
    elif way == "array":
        name = draw.choice(names)
        way, entries[name] = damaged(entries[name], draw)
    elif way == "gone":
        del entries[draw.choice(names)]
    else:
        one, two = draw.choice(names), draw.choice(names)
        entries[one], entries[two] = entries[two], entries[one]
    entries["schema.json"] = json.dumps(schema).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)
    path.write_bytes(made.getvalue())
    return way


def _gzip(path, draw, others):
    """What is packed is damaged, and the packing is sound."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError):
        return _bytes(path, draw, others)
    way, data = damaged(data, draw)
    path.write_bytes(gzip.compress(data))
    return f"packed: {way}"
