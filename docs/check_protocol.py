#!/usr/bin/env python3
"""An independent reader of protocol version 1, written from docs/protocol.md alone.

Decodes every golden file, compares each value with what the document says, recomputes the chain, the event id, the
sealed badge and the signatures, and compares the document's annotated bytes with the files. Prints a table; exit 1 on
any difference.

Python 3 and its standard library. Ed25519, ECDSA and AES-SIV need the package `cryptography` (PyPI, or Debian's
python3-cryptography); without it those checks are skipped, and that is said.

    docs/check_protocol.py [--dump]      --dump prints each golden file byte by byte
"""

import hashlib
import json
import re
import sys
from pathlib import Path

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    AESSIV = None

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "tap-protocol" / "tests" / "golden" / "v1"
DOCUMENT = HERE / "protocol.md"

MAX_RECORD, MAX_RECORDS, MAX_RECORD_BYTES, MAX_MESSAGE = 1024, 256, 32 * 1024, 64 * 1024
MAX_SEQ = 2**48 - 1
LABELS = {name: f"tapline/{name}/v1\0".encode() for name in ("batch", "hello", "receipt", "command", "report")}
LABELS |= {f"roster-{part}": b"tapline/roster/v1\0" for part in ("head", "chunk")}

CLOCKS = ["synced", "unsynced", "stepped"]
STOPS = ["none", "clean", "unclean"]
LOSSES = ["damaged", "pruned", "discarded"]
DIRECTIONS = ["in", "out", "unspecified"]
VERDICTS = ["known", "unknown", "revoked", "no_roster"]
READER_KINDS = ["pcsc", "serial", "simulated"]
READER_STATES = ["starting", "up", "down"]
STANDINGS = {0: "known", 1: "revoked"}
OUTCOMES = ["done", "refused", "failed"]


class Refused(Exception):
    """Bytes that are not what the document describes."""


# --- postcard: every kind of value that version 1 uses ------------------------------------------------------------


class Reader:
    """Takes values from bytes and notes what it took: (offset, bytes, name, value)."""

    def __init__(self, data):
        self.data, self.at, self.notes = data, 0, []

    def note(self, start, name, value):
        self.notes.append((start, self.data[start : self.at], name, value))
        return value

    def take(self, count):
        if self.at + count > len(self.data):
            raise Refused(f"cut off after {len(self.data)} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def raw_varint(self, bits):
        value = 0
        for i in range(-(-bits // 7)):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if value >> bits:
                    raise Refused(f"a number of more than {bits} bits")
                return value
        raise Refused(f"a number of more than {bits} bits")

    def varint(self, bits, name):
        start = self.at
        return self.note(start, name, self.raw_varint(bits))

    def zigzag(self, bits, name):
        start = self.at
        coded = self.raw_varint(bits)
        return self.note(start, name, coded >> 1 if coded % 2 == 0 else -((coded + 1) >> 1))

    def byte(self, name):
        start = self.at
        return self.note(start, name, self.take(1)[0])

    def flag(self, name):
        start = self.at
        value = self.take(1)[0]
        if value > 1:
            raise Refused(f"{name}: a bool or an option is 00 or 01")
        return self.note(start, name, bool(value))

    def fixed(self, count, name):
        start = self.at
        return self.note(start, name, self.take(count))

    def counted(self, name):
        start = self.at
        count = self.raw_varint(64)
        self.note(start, f"{name}: length", count)
        return self.fixed(count, name)

    def text(self, name):
        try:
            return self.counted(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(f"{name} is not UTF-8") from error

    def slug(self, limit, name):
        text = self.text(name)
        if len(text) > limit or not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", text):
            raise Refused(f"{name}: {text!r} is not a slug")
        return text

    def choice(self, names, name):
        start = self.at
        number = self.raw_varint(32)
        if number >= len(names):
            raise Refused(f"{name}: there is no number {number}")
        return self.note(start, name, names[number])

    def option(self, name, read):
        return read() if self.flag(f"{name}: present") else None

    def many(self, name, read):
        start = self.at
        count = self.note(start, f"{name}: count", self.raw_varint(64))
        return [read(i) for i in range(count)]

    def version(self):
        if self.byte("version") != 1:
            raise Refused("not version 1")

    def end(self):
        if self.at != len(self.data):
            raise Refused(f"{len(self.data) - self.at} bytes too many after the end")


# --- version 1 ----------------------------------------------------------------------------------------------------


def read_record(data):
    if len(data) > MAX_RECORD:
        raise Refused("a record has at most 1024 bytes")
    r = Reader(data)
    r.version()
    at = {
        "boot": r.varint(32, "at.boot"),
        "boottime_ms": r.varint(64, "at.boottime_ms"),
        "wall_ms": r.zigzag(64, "at.wall_ms"),
        "clock": r.choice(CLOCKS, "at.clock"),
    }
    kind = r.choice(list(BODIES), "body")
    record = {"at": at, "body": kind, **BODIES[kind](r)}
    r.end()
    return record, r.notes


def read_tap(r):
    return {
        "reader": r.slug(16, "reader"),
        "key_id": r.varint(16, "badge.key_id"),
        "token": r.fixed(16, "badge.token"),
        "ciphertext": r.counted("badge.ciphertext"),
        "direction": r.choice(DIRECTIONS, "direction"),
        "verdict": r.choice(VERDICTS, "verdict"),
    }


def read_anchor(r):
    source = r.choice(["kernel", "step", "receipt"], "source")
    before = {"wall_before_ms": r.zigzag(64, "source.wall_before_ms")} if source == "step" else {}
    return {
        "source": source,
        **before,
        "earliest_boottime_ms": r.varint(64, "earliest_boottime_ms"),
        "latest_boottime_ms": r.varint(64, "latest_boottime_ms"),
        "utc_ms": r.zigzag(64, "utc_ms"),
        "uncertainty_ms": r.varint(32, "uncertainty_ms"),
    }


# In the order of the numbers 0 to 8.
BODIES = {
    "tap": read_tap,
    "repeats": lambda r: {"seq": r.varint(64, "seq"), "n": r.varint(32, "n")},
    "clock_anchor": read_anchor,
    "reader_up": lambda r: {"reader": r.slug(16, "reader")},
    "reader_down": lambda r: {"reader": r.slug(16, "reader"), "why": r.text("why")},
    "agent_started": lambda r: {
        "boot_id": r.fixed(16, "boot_id"),
        "version": r.text("version"),
        "previous_stop": r.choice(STOPS, "previous_stop"),
    },
    "buffer_high": lambda r: {
        "used_bytes": r.varint(64, "used_bytes"),
        "limit_bytes": r.varint(64, "limit_bytes"),
    },
    "lost": lambda r: {
        "outbox": r.fixed(16, "outbox"),
        "from": r.varint(64, "from"),
        "to": r.varint(64, "to"),
        "why": r.choice(LOSSES, "why"),
    },
    "config_changed": lambda r: {"digest": r.fixed(16, "digest")},
    "same_as": lambda r: {"outbox": r.fixed(16, "outbox"), "seq": r.varint(64, "seq")},
}


def read_batch(r):
    batch = {
        "controller": r.slug(63, "controller"),
        "outbox": r.fixed(16, "outbox"),
        "first_seq": r.varint(64, "first_seq"),
        "hash_before": r.fixed(32, "hash_before"),
        "records": r.many("records", lambda i: r.counted(f"record {i + 1}")),
    }
    records = batch["records"]
    if not 1 <= len(records) <= MAX_RECORDS:
        raise Refused("a batch has 1 to 256 records")
    if any(not 1 <= len(record) <= MAX_RECORD for record in records):
        raise Refused("a record has 1 to 1024 bytes")
    if sum(map(len, records)) > MAX_RECORD_BYTES:
        raise Refused("a batch's records have at most 32 KiB")
    if not 1 <= batch["first_seq"] <= MAX_SEQ - MAX_RECORDS:
        raise Refused("seq counts from 1 and stays below 2^48")
    return batch


def read_hello(r):
    hello = {
        "controller": r.slug(63, "controller"),
        "boot_id": r.fixed(16, "boot_id"),
        "boottime_ms": r.varint(64, "boottime_ms"),
        "wall_ms": r.zigzag(64, "wall_ms"),
        "clock": r.choice(CLOCKS, "clock"),
        "agent_version": r.text("agent_version"),
        "record_version": r.byte("record_version"),
        "roster_version": r.option("roster_version", lambda: r.varint(64, "roster_version")),
        "outboxes": r.many(
            "outboxes",
            lambda _: {
                "outbox": r.fixed(16, "outbox"),
                "last_seq": r.varint(64, "last_seq"),
                "receipted_through": r.varint(64, "receipted_through"),
                "store_epoch": r.option("store_epoch", lambda: r.varint(64, "store_epoch")),
                "oldest_unreceipted_age_ms": r.option(
                    "oldest_unreceipted_age_ms", lambda: r.varint(64, "oldest_unreceipted_age_ms")
                ),
            },
        ),
        "readers": r.many(
            "readers",
            lambda _: {
                "reader": r.slug(16, "reader"),
                "kind": r.choice(READER_KINDS, "kind"),
                "state": r.choice(READER_STATES, "state"),
            },
        ),
    }
    if len(hello["outboxes"]) > 16 or len(hello["readers"]) > 16:
        raise Refused("a hello names at most 16 outboxes and 16 readers")
    return hello


def read_receipt(r):
    return {
        "controller": r.slug(63, "controller"),
        "store_epoch": r.varint(64, "store_epoch"),
        "outbox": r.fixed(16, "outbox"),
        "stored_through": r.varint(64, "stored_through"),
        "hash": r.fixed(32, "hash"),
        "resend": r.flag("resend"),
        "echo": r.option(
            "echo",
            lambda: {
                "boot_id": r.fixed(16, "echo.boot_id"),
                "boottime_ms": r.varint(64, "echo.boottime_ms"),
            },
        ),
        "cloud_utc_ms": r.zigzag(64, "cloud_utc_ms"),
    }


def check_proof():
    proof, at, parts = golden("proof"), 16, []
    while at < len(proof):
        length = int.from_bytes(proof[at : at + 4], "big")
        parts.append((proof[at + 4], proof[at + 5 : at + 4 + length]))
        at += 4 + length
    check("proof: its header", proof[:16], b"tapline/proof\0\0\x01", size("proof"))
    check("proof: a batch, a receipt, no more", ([kind for kind, _ in parts], at), ([1, 2], len(proof)), "two parts")
    check("proof: the golden batch", parts[0][1], golden("batch"))
    receipt, _ = read_message(parts[1][1], read_receipt)
    end = chain_start(OUTBOX)
    for record in [golden("record-agent-started"), golden("record-tap")]:
        end = chain_next(end, record)
    check("proof: a receipt for exactly its records", receipt, {**RECEIPT, "hash": end, "echo": None})


def read_roster(r):
    if r.choice(["head", "chunk"], "message") == "head":
        head = {
            "controller": r.slug(63, "controller"),
            "version": r.varint(64, "version"),
            "issued_utc_ms": r.zigzag(64, "issued_utc_ms"),
            "expires_utc_ms": r.zigzag(64, "expires_utc_ms"),
            "entries": r.varint(32, "entries"),
            "chunks": r.many("chunks", lambda i: r.fixed(32, f"hash of chunk {i}")),
        }
        if len(head["chunks"]) > 600 or len(head["chunks"]) != -(-head["entries"] // 1900):
            raise Refused("a roster has as many chunks as its entries need, at most 600")
        return head
    chunk = {"version": r.varint(64, "version"), "index": r.varint(32, "index"), "entries": []}
    start, size = r.at, r.raw_varint(64)
    r.note(start, "entries: bytes", size)
    if size % 17 or size > 1900 * 17:
        raise Refused("a chunk has whole entries, at most 1900")
    for i in range(size // 17):
        token = r.fixed(16, f"token {i}")
        chunk["entries"].append((token, STANDINGS.get(r.byte("standing"), "?")))
    tokens = [token for token, _ in chunk["entries"]]
    if tokens != sorted(set(tokens)) or any(standing == "?" for _, standing in chunk["entries"]):
        raise Refused("entries ascend by their tokens, and their standing is known")
    return chunk


# In the order of the numbers 0 to 3.
ORDERS = {
    "start_new_outbox": lambda r: {"outbox": r.fixed(16, "order.outbox")},
    "run_checks": lambda r: {},
    "fetch_keys": lambda r: {},
    "revoke": lambda r: {},
}


def read_command(r):
    command = {
        "controller": r.slug(63, "controller"),
        "number": r.varint(64, "number"),
        "issued_utc_ms": r.zigzag(64, "issued_utc_ms"),
    }
    order = r.choice(list(ORDERS), "order")
    return {**command, "order": order, **ORDERS[order](r)}


# In the order of the numbers 0 to 2.
REPORTS = {
    "roster_wanted": lambda r: {
        "version": r.varint(64, "version"),
        "from": r.varint(32, "from"),
        "count": r.varint(32, "count"),
    },
    "command_done": lambda r: {
        "number": r.varint(64, "number"),
        "outcome": r.choice(OUTCOMES, "outcome"),
        "detail": r.text("detail"),
    },
    "hashes_wanted": lambda r: {
        "outbox": r.fixed(16, "outbox"),
        "seqs": r.many("seqs", lambda i: r.varint(64, f"seq {i + 1}")),
    },
}


def read_report(r):
    report = {
        "controller": r.slug(63, "controller"),
        "boot_id": r.fixed(16, "boot_id"),
        "boottime_ms": r.varint(64, "boottime_ms"),
    }
    what = r.choice(list(REPORTS), "what")
    report = {**report, "what": what, **REPORTS[what](r)}
    if len(report.get("detail", "").encode()) > 4096:
        raise Refused("a report's text has at most 4096 bytes")
    seqs = report.get("seqs", [])
    if len(seqs) > 32 or any(a >= b for a, b in zip(seqs, seqs[1:])):
        raise Refused("a report asks for at most 32 hashes, in ascending order")
    return report


def read_message(data, read_body):
    if len(data) > MAX_MESSAGE:
        raise Refused("a message has at most 64 KiB")
    if len(data) < 64:
        raise Refused("no room for a signature")
    r = Reader(data[:-64])
    r.version()
    message = read_body(r)
    r.end()
    return message, r.notes + [(len(data) - 64, data[-64:], "signature", data[-64:])]


def chain_start(outbox):
    return hashlib.sha256(b"tapline/chain/v1\0" + outbox).digest()


def chain_next(before, record):
    return hashlib.sha256(before + record).digest()


def continued(old, after, next_hash):
    return hashlib.sha256(b"tapline/outbox/v1\0" + old + after.to_bytes(8, "big") + next_hash).digest()[:16]


def event_id(controller, outbox, seq):
    digest = hashlib.sha256(b"tapline/event/v1\0" + controller.encode() + b"\0" + outbox).digest()
    bits = int.from_bytes(digest, "big") >> (256 - 74)
    high, middle, low = bits >> 26, bits >> 14 & 0xFFF, bits & 0x3FFF
    number = high << 80 | 8 << 76 | middle << 64 | 0b10 << 62 | low << 48 | seq
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])), number.to_bytes(16, "big")


def trace_id(event):
    digest = bytearray(hashlib.sha256(b"tapline/trace/v1\0" + event).digest()[:16])
    digest[15] |= 1
    return bytes(digest)


# --- what the document says the golden files hold -----------------------------------------------------------------

OUTBOX, BOOT, WALL = b"\x0b" * 16, b"\xb0" * 16, 1_795_248_000_000
TOKEN = bytes.fromhex("6053379aace892432b4e09c13d5b6b49")
CIPHERTEXT = bytes.fromhex("9f96933db3a556ccc7af")


def stamped(boottime_ms, body, **fields):
    at = {"boot": 1, "boottime_ms": boottime_ms, "wall_ms": WALL, "clock": "synced"}
    return {"at": at, "body": body, **fields}


def anchored(boottime_ms, latest, uncertainty_ms, **source):
    return stamped(boottime_ms, "clock_anchor", **source, earliest_boottime_ms=60_000, latest_boottime_ms=latest,
                   utc_ms=WALL, uncertainty_ms=uncertainty_ms)


RECORDS = {
    "record-agent-started": stamped(60_000, "agent_started", boot_id=BOOT, version="0.1.0", previous_stop="unclean"),
    "record-tap": stamped(60_001, "tap", reader="in", key_id=1, token=TOKEN, ciphertext=CIPHERTEXT, direction="in",
                          verdict="no_roster"),
    "record-repeats": stamped(60_002, "repeats", seq=2, n=3),
    "record-clock-anchor-kernel": anchored(60_003, 60_000, 20, source="kernel"),
    "record-clock-anchor-step": anchored(60_004, 60_001, 0, source="step", wall_before_ms=-1),
    "record-clock-anchor-receipt": anchored(60_005, 60_120, 0, source="receipt"),
    "record-reader-up": stamped(60_006, "reader_up", reader="in"),
    "record-reader-down": stamped(60_007, "reader_down", reader="in", why="unplugged"),
    "record-buffer-high": stamped(60_008, "buffer_high", used_bytes=80, limit_bytes=100),
    "record-lost": stamped(60_009, "lost", outbox=OUTBOX, **{"from": 4, "to": 6}, why="damaged"),
    "record-config-changed": stamped(60_010, "config_changed", digest=b"\xcc" * 16),
    "record-same-as": stamped(60_011, "same_as", outbox=OUTBOX, seq=4),
}

HELLO = {
    "controller": "hq-door-12", "boot_id": BOOT, "boottime_ms": 60_000, "wall_ms": WALL, "clock": "synced",
    "agent_version": "0.1.0", "record_version": 1, "roster_version": 7,
    "outboxes": [{"outbox": OUTBOX, "last_seq": 2, "receipted_through": 1, "store_epoch": 1_795_000_000_000,
                  "oldest_unreceipted_age_ms": 1_500}],
    "readers": [{"reader": "in", "kind": "pcsc", "state": "up"}],
}

RECEIPT = {
    "controller": "hq-door-12", "store_epoch": 1_795_000_000_000, "outbox": OUTBOX, "stored_through": 2,
    "hash": b"\xaa" * 32, "resend": False, "echo": {"boot_id": BOOT, "boottime_ms": 60_000},
    "cloud_utc_ms": WALL + 40,
}

ROSTER_CHUNK = {"version": WALL, "index": 0, "entries": [(TOKEN, "known"), (b"\xcc" * 16, "revoked")]}

ROSTER_HEAD = {
    "controller": "hq-door-12", "version": WALL, "issued_utc_ms": WALL, "expires_utc_ms": WALL + 7 * 86_400_000,
    "entries": 2, "chunks": [hashlib.sha256(TOKEN + b"\0" + b"\xcc" * 16 + b"\1").digest()],
}

ROSTER_WANTED = {
    "controller": "hq-door-12", "boot_id": BOOT, "boottime_ms": 60_000, "what": "roster_wanted", "version": WALL,
    "from": 0, "count": 1,
}

COMMAND = {
    "controller": "hq-door-12", "number": WALL, "issued_utc_ms": WALL, "order": "start_new_outbox", "outbox": OUTBOX,
}

REPORTED = {"controller": "hq-door-12", "boot_id": BOOT, "boottime_ms": 60_000}
COMMAND_DONE = {**REPORTED, "what": "command_done", "number": WALL, "outcome": "done", "detail": "it is left"}
HASHES_WANTED = {**REPORTED, "what": "hashes_wanted", "outbox": OUTBOX, "seqs": [1, 300]}

RECORD_KEY, RECEIPT_KEY, TOKEN_KEY, CONTROL_KEY = (bytes([n]) * 32 for n in (0x11, 0x22, 0x33, 0x44))
PUBLIC_KEYS = {
    RECORD_KEY: "d04ab232742bb4ab3a1368bd4615e4e6d0224ab71a016baf8520a332c9778737",
    RECEIPT_KEY: "a09aa5f47a6759802ff955f8dc2d2a14a5c99d23be97f864127ff9383455a4f0",
    CONTROL_KEY: "d759793bbc13a2819a827c76adb6fba8a49aee007f49f2d0992d99b825ad2c48",
}


# --- the checks ---------------------------------------------------------------------------------------------------

failures = 0


def check(what, got, expected, summary=None):
    global failures
    text = summary or (got.hex() if isinstance(got, bytes) else str(got))
    if got == expected:
        print(f"ok       {what:<41} {text if len(text) <= 66 else text[:65] + '…'}")
    else:
        failures += 1
        print(f"DIFFERS  {what}\n           found    {got}\n           expected {expected}")


def skip(what):
    print(f"skipped  {what:<41} needs the package `cryptography`")


def golden(name):
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text().strip())


def size(name):
    return f"{len(golden(name))} bytes, the last 64 the signature"


def shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else "" if isinstance(value, bytes) else str(value)


def dump(name, notes):
    """The file byte by byte, in the form in which the document shows it."""
    print(f"\n```text {name}.hex")
    for start, data, what, value in notes:
        if isinstance(value, bytes) and what.startswith(("reader", "controller", "version", "agent_version", "why")):
            value = '"' + value.decode() + '"'
        text = f"{what}  {shown(value)}".rstrip()
        for i in range(0, len(data), 16):
            print(f"{start + i:4}  {data[i : i + 16].hex(' '):<47}  {text if i == 0 else '…'}")
    print("```")


def compare_document(names):
    """The annotated bytes in the document are the golden files, every byte at its place."""
    blocks = dict(re.findall(r"^```text (\S+)\.hex\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))
    for name, block in blocks.items():
        data = b""
        for line in block.splitlines():
            offset, digits = re.fullmatch(r" *(\d+)  ((?:[0-9a-f]{2} ?)+?) {2,}\S.*", line).groups()
            if int(offset) != len(data):
                raise Refused(f"protocol.md, {name}: offset {offset} should be {len(data)}")
            data += bytes.fromhex(digits)
        check(f"protocol.md shows {name}", data, golden(name), f"{len(data)} bytes")
    check("protocol.md shows what it must", sorted(set(names) - set(blocks)), [], ", ".join(names))


def check_signature(name, seed, label=None):
    message = golden(name)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    check(f"{name}: public key", public.hex(), PUBLIC_KEYS[seed])
    signed = LABELS[label or name] + message[:-64]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(message[-64:], signed)
        verdict = "good"
    except InvalidSignature:
        verdict = "bad"
    check(f"{name}: signature", verdict, "good")
    check(f"{name}: signature made anew", key.sign(signed), message[-64:])


def check_enrolment():
    """The transcripts, remade from the requests, and every signature over them."""
    folder = GOLDEN / "enrolment"
    body = lambda name: json.loads((folder / f"{name}.json").read_text())
    challenge = body("enrol-challenge")["challenge"]
    enrol, renew = body("enrol-request"), body("renew-request")
    for name, label, who, request in [
        ("enrol", b"tapline/enroll/v1\0", enrol["token_id"], enrol),
        ("renew", b"tapline/renew/v1\0", renew["controller"], renew),
    ]:
        keys = request["keys"]
        point, record_key = bytes.fromhex(keys["tls_public_key"]), bytes.fromhex(keys["record_public_key"])
        parts = [challenge.encode(), who.encode(), point, record_key]
        transcript = label + b"".join(len(part).to_bytes(2, "big") + part for part in parts)
        frozen = (folder / f"{name}-transcript.hex").read_text().strip()
        check(f"{name}: transcript", transcript.hex(), frozen, f"{len(transcript)} bytes")
        check(f"{name}: challenge", request["challenge"], challenge, "c4 × 32")
        if AESSIV is None:
            skip(f"{name}: proofs")
            continue
        tls_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        proofs = [lambda: tls_key.verify(bytes.fromhex(keys["tls_proof"]), transcript, ec.ECDSA(hashes.SHA256())),
                  lambda: Ed25519PublicKey.from_public_bytes(record_key).verify(bytes.fromhex(keys["record_proof"]), transcript)]
        if "current_proof" in request:
            known = Ed25519PrivateKey.from_private_bytes(b"\x44" * 32).public_key()
            proofs.append(lambda: known.verify(bytes.fromhex(request["current_proof"]), transcript))
        good = 0
        for proof in proofs:
            try:
                proof()
                good += 1
            except InvalidSignature:
                pass
        check(f"{name}: proofs that hold", good, len(proofs))


def main():
    dumps = {}
    for name, expected in RECORDS.items():
        record, dumps[name] = read_record(golden(name))
        check(name, record, expected, f"{len(golden(name))} bytes, {len(dumps[name])} values")

    batch, dumps["batch"] = read_message(golden("batch"), read_batch)
    first_two = [golden("record-agent-started"), golden("record-tap")]
    check("batch", {k: v for k, v in batch.items() if k != "records"},
          {"controller": "hq-door-12", "outbox": OUTBOX, "first_seq": 1, "hash_before": chain_start(OUTBOX)}, size("batch"))
    check("batch: records are two golden records", batch["records"], first_two, "agent-started, tap")
    hello, dumps["hello"] = read_message(golden("hello"), read_hello)
    check("hello", hello, HELLO, size("hello"))
    receipt, dumps["receipt"] = read_message(golden("receipt"), read_receipt)
    check("receipt", receipt, RECEIPT, size("receipt"))
    for name, read, expected in [("roster-head", read_roster, ROSTER_HEAD), ("roster-chunk", read_roster, ROSTER_CHUNK),
                                 ("report-roster-wanted", read_report, ROSTER_WANTED)]:
        message, dumps[name] = read_message(golden(name), read)
        check(name, message, expected, size(name))
    command, dumps["command"] = read_message(golden("command"), read_command)
    check("command", command, COMMAND, size("command"))
    for name, expected in (("report-command-done", COMMAND_DONE), ("report-hashes-wanted", HASHES_WANTED)):
        report, dumps[name] = read_message(golden(name), read_report)
        check(name, report, expected, size(name))
    export = golden("export")
    length = int.from_bytes(export[16:20], "big")
    check("export: its header", export[:16], b"tapline/export\0\x01", size("export"))
    check("export: one portion, the golden batch", (length, export[20:]), (len(golden("batch")), golden("batch")), "one batch")
    dumps["export"] = []
    check_proof()
    dumps["proof"] = []
    check("golden files", sorted(path.stem for path in GOLDEN.glob("*.hex")), sorted(dumps), f"{len(dumps)}, all known")

    h0 = chain_start(OUTBOX)
    h1 = chain_next(h0, first_two[0])
    check("chain: h(0) of outbox 0b…", h0.hex(), "6d1e959b083780eafc9b68a4989eb3d8da18903bade0f80a59a3b674288d5b6a")
    check("chain: h(1)", h1.hex(), "2249f7d4ca998a49a64082faabda2c63a97789ee73190235e03e1e5425f60a24")
    check("chain: h(2)", chain_next(h1, first_two[1]).hex(), "39a2dac5183efd2d6d547d52678d20ae5feaac5fe66e221d24e54b929be66f21")
    h0 = chain_start(b"\x07" * 16)
    check("chain: h(0) of outbox 07…", h0.hex(), "832a63dcf45e49fc787d43bcb3e5baf1363b9abf59ffe37ce9c2b8569f83b45e")
    check("chain: then 01 02 03", chain_next(h0, b"\x01\x02\x03").hex(),
          "b101f3e39fcf70716fbfc82ce1645bcfc0ff8f844f64608acbb9c9dab7d511d7")

    check("outbox that says 07… again after 2", continued(b"\x07" * 16, 2, b"\x03" * 32).hex(), "1f91775bb21b0f48240ee88f4fa3ccd6")

    text, raw = event_id("hq-door-12", b"\x07" * 16, 258)
    check("event id of hq-door-12, 07…, 258", text, "058b8351-c0a3-8a64-a2a3-000000000102")
    check("its trace id", trace_id(raw).hex(), "19de83f9582c3d5e39255e39c3825885")

    if AESSIV is None:
        skip("badge: sealed, opened")
        skip("signatures")
    else:
        plain = bytes([1]) + (56).to_bytes(2, "big") + bytes.fromhex("04A224B1C2D380")
        sealed = AESSIV(TOKEN_KEY).encrypt(plain, [b"tapline/badge/v1"])
        check("badge: token", sealed[:16], TOKEN)
        check("badge: ciphertext", sealed[16:], CIPHERTEXT)
        check("badge: opened", AESSIV(TOKEN_KEY).decrypt(TOKEN + CIPHERTEXT, [b"tapline/badge/v1"]), plain)
        check_signature("batch", RECORD_KEY)
        check_signature("hello", RECORD_KEY)
        check_signature("receipt", RECEIPT_KEY)
        check_signature("roster-head", CONTROL_KEY)
        check_signature("roster-chunk", CONTROL_KEY)
        check_signature("report-roster-wanted", RECORD_KEY, "report")
        check_signature("command", CONTROL_KEY)
        check_signature("report-command-done", RECORD_KEY, "report")
        check_signature("report-hashes-wanted", RECORD_KEY, "report")

    check_enrolment()

    refused = 0
    for name in RECORDS:
        data = golden(name)
        for wrong in [data[:end] for end in range(len(data))] + [data + b"\0", b"\x02" + data[1:]]:
            try:
                read_record(wrong)
            except Refused:
                refused += 1
    check("cut, lengthened and newer records refused", refused, sum(len(golden(name)) + 2 for name in RECORDS))

    if "--dump" in sys.argv[1:]:
        for name, notes in dumps.items():
            dump(name, notes)
    compare_document(["record-tap", "record-agent-started", "batch", "hello", "receipt", "roster-head", "roster-chunk",
                      "report-roster-wanted", "command", "report-command-done", "report-hashes-wanted"])
    print(f"\n{failures} differences" if failures else "\nall as the document says")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refused:
        sys.exit(f"DIFFERS  {refused}")
