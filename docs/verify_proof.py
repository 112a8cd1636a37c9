#!/usr/bin/env python3
"""Checks a proof that `cloud-ingest controllers proof` wrote, with public keys alone.

    docs/verify_proof.py FILE --record-key HEX [--record-key HEX …] --receipt-key HEX [--list]

Get the keys from somebody you believe, not from whoever gave you the file: the record key is what the door controller
printed when it was set up (`edge-agent keys create`), the receipt key is `receipt.pub` of the cloud. Give --record-key
once for each key that the controller has had. --list prints every tap.

Written from docs/protocol.md alone, in plain Python without packages, so that it can be read before it is believed.
Exit code 0 if all of it is proved; 1 if not, with the first reason.
"""

import argparse
import hashlib
import sys
from datetime import datetime, timezone

MAGIC = b"tapline/proof\0\0\x01"
BATCH, RECEIPT = 1, 2
MAX_PORTION = 64 * 1024 + 1


class Refused(Exception):
    """The file proves nothing: why."""


# --- Ed25519, RFC 8032, sections 5.1.7 and 6 ------------------------------------------------------------------------

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def add(one, other):
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c, d = 2 * one[3] * other[3] * D % P, 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    result = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def same(one, other):
    return (one[0] * other[2] - other[0] * one[2]) % P == 0 and (one[1] * other[2] - other[1] * one[2]) % P == 0


def x_of(y, sign):
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def point(coded):
    y = int.from_bytes(coded, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    x = x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (x_of(BASE_Y, 0), BASE_Y, 1, x_of(BASE_Y, 0) * BASE_Y % P)


def is_signed(key, message, signature):
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % Q
    return same(times(s, BASE), add(r, times(h, a)))


# --- messages ------------------------------------------------------------------------------------------------------


class Reader:
    """Takes postcard values from bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Refused("a message is cut off inside")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self):
        value, shift = 0, 0
        while shift < 70:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise Refused("a number has no end")

    def signed_number(self):
        coded = self.number()
        return coded >> 1 if coded % 2 == 0 else -((coded + 1) >> 1)

    def counted(self):
        return self.take(self.number())

    def end(self):
        if self.at != len(self.data):
            raise Refused("a message goes on after its end")


def opened(message, label, keys, what):
    """What is signed, once one of the keys proves it."""
    signed, signature = message[:-64], message[-64:]
    if len(message) < 66 or signed[0] != 1:
        raise Refused(f"{what} is no message of version 1")
    labelled = b"tapline/" + label + b"/v1\0" + signed
    if not any(is_signed(key, labelled, signature) for key in keys):
        key = "--record-key" if label == b"batch" else "--receipt-key"
        raise Refused(f"{what} is not signed by {key}: it was changed, or is of another key")
    return Reader(signed[1:])


CLOCKS = ["synced", "unsynced", "stepped"]
DIRECTIONS = ["in", "out", "unspecified"]
VERDICTS = ["known", "unknown", "revoked", "no_roster"]


def tap_of(record):
    """The record if it is a tap that this script can read; the chain proves the others just as well."""
    r = Reader(record)
    try:
        if r.take(1)[0] != 1:
            return None
        r.number(), r.number()
        wall_ms, clock, body = r.signed_number(), CLOCKS[r.number()], r.number()
        if body != 0:
            return None
        reader = r.counted().decode()
        r.number()
        token = r.take(16).hex()
        r.counted()
        return wall_ms, clock, reader, token, DIRECTIONS[r.number()], VERDICTS[r.number()]
    except (Refused, IndexError, UnicodeDecodeError):
        return None


def when(utc_ms):
    try:
        return datetime.fromtimestamp(utc_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{utc_ms} ms since 1970"


# --- the proof -----------------------------------------------------------------------------------------------------


class Outbox:
    """The records of one outbox, as far as they are proved."""

    def __init__(self, controller, outbox, first_seq, hash_before):
        self.controller, self.outbox, self.first_seq = controller, outbox, first_seq
        # h(first_seq - 1), h(first_seq) …
        self.hashes, self.taps, self.batches = [hash_before], [], 0
        start = hashlib.sha256(b"tapline/chain/v1\0" + outbox).digest()
        if first_seq == 1 and hash_before != start:
            raise Refused("record 1 does not begin its outbox's chain")

    def last_seq(self):
        return self.first_seq + len(self.hashes) - 2

    def batch(self, first_seq, hash_before, records):
        if first_seq > self.last_seq() + 1:
            raise Refused(f"records {self.last_seq() + 1} to {first_seq - 1} are missing")
        index = first_seq - self.first_seq
        if index < 0 or self.hashes[index] != hash_before:
            raise Refused(f"the batch that begins with record {first_seq} does not continue what stands before it")
        self.batches += 1
        for i, record in enumerate(records):
            digest = hashlib.sha256(self.hashes[index + i] + record).digest()
            if index + i + 1 < len(self.hashes):
                if self.hashes[index + i + 1] != digest:
                    raise Refused(f"record {first_seq + i} is there twice, with different content")
                continue
            self.hashes.append(digest)
            tap = tap_of(record)
            if tap:
                self.taps.append((first_seq + i, *tap))


def read_batch(message, keys, what):
    r = opened(message, b"batch", keys, what)
    controller, outbox, first_seq, hash_before = r.counted().decode(), r.take(16), r.number(), r.take(32)
    records = [r.counted() for _ in range(r.number())]
    r.end()
    return controller, outbox, first_seq, hash_before, records


def read_receipt(message, keys, what):
    r = opened(message, b"receipt", keys, what)
    controller, epoch, outbox, through, digest = r.counted().decode(), r.number(), r.take(16), r.number(), r.take(32)
    r.take(1)
    if r.take(1)[0]:
        r.take(16), r.number()
    utc_ms = r.signed_number()
    r.end()
    return controller, epoch, outbox, through, digest, utc_ms


def portions(data):
    if data[:16] != MAGIC:
        raise Refused("it is no proof of version 1")
    at, number = 16, 0
    while at < len(data):
        number += 1
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 4 > len(data) or (length <= MAX_PORTION and at + 4 + length > len(data)):
            raise Refused(f"it is cut off in part {number} (at byte {at})")
        if not 2 <= length <= MAX_PORTION:
            raise Refused(f"part {number} (at byte {at}) has a length that cannot be: it was changed")
        yield f"part {number} (at byte {at})", data[at + 4], data[at + 5 : at + 4 + length]
        at += 4 + length


def prove(data, record_keys, receipt_keys):
    """Each outbox with its receipt, or the first reason why not."""
    proved, current, controllers = [], None, set()
    for what, kind, message in portions(data):
        if kind == BATCH:
            controller, outbox, first_seq, hash_before, records = read_batch(message, record_keys, what)
            controllers.add(controller)
            if len(controllers) > 1:
                raise Refused(f"{what} is of another controller than what stands before it")
            if current is None:
                if any(done.outbox == outbox for done, *_ in proved):
                    raise Refused(f"{what}: this outbox is in the file twice")
                current = Outbox(controller, outbox, first_seq, hash_before)
            if outbox != current.outbox:
                raise Refused(f"{what} is of another outbox, and the one before it has no receipt")
            current.batch(first_seq, hash_before, records)
        elif kind == RECEIPT:
            controller, epoch, outbox, through, digest, utc_ms = read_receipt(message, receipt_keys, what)
            if current is None or (controller, outbox) != (current.controller, current.outbox):
                raise Refused(f"{what} is a receipt for other records than those before it")
            if through != current.last_seq() or digest != current.hashes[-1]:
                raise Refused(f"{what}: the cloud's receipt is not for exactly these records")
            proved.append((current, epoch, utc_ms))
            current = None
        else:
            raise Refused(f"{what} is of a kind that this script does not know")
    if current is not None:
        raise Refused(f"it is cut off: outbox {current.outbox.hex()} has no receipt")
    if not proved:
        raise Refused("there is nothing in it")
    return proved


def in_words(outbox, epoch, utc_ms):
    first, last = outbox.first_seq, outbox.last_seq()
    print(f"PROVED: controller {outbox.controller}, outbox {outbox.outbox.hex()}, records {first} to {last}")
    print(f"  - The holder of the controller's record key signed exactly these {last - first + 1} records in this order.")
    print("  - None of them was changed, left out, added or moved since.")
    if first == 1:
        print("  - Record 1 begins this outbox: there is nothing before it.")
    else:
        print(f"  - Records 1 to {first - 1} come before them and are not in this file.")
    print(f"  - The holder of the cloud's receipt key says that on {when(utc_ms)} it had stored records 1 to {last}, these")
    print(f"    among them (store epoch {epoch}).")
    print("  - Whether more came later, this file does not say.")
    if outbox.taps:
        begin, end = outbox.taps[0][1], outbox.taps[-1][1]
        print(f"  {len(outbox.taps)} of them are taps. By the controller's own clock: {when(begin)} to {when(end)}.")
        print("  Badges are sealed: equal tokens are equal badges, and whose they are is not in this file.")


def key(text):
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise argparse.ArgumentTypeError("a public key has 64 hexadecimal digits")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--record-key", type=key, action="append", required=True, metavar="HEX")
    parser.add_argument("--receipt-key", type=key, action="append", required=True, metavar="HEX")
    parser.add_argument("--list", action="store_true", help="print every tap")
    args = parser.parse_args()
    with open(args.file, "rb") as file:
        data = file.read()
    try:
        proved = prove(data, args.record_key, args.receipt_key)
    except (Refused, UnicodeDecodeError) as why:
        print(f"REFUSED: {args.file} proves nothing: {why}")
        return 1
    for outbox, epoch, utc_ms in proved:
        in_words(outbox, epoch, utc_ms)
        for seq, wall_ms, clock, reader, token, direction, verdict in outbox.taps if args.list else []:
            print(f"  {seq}: {when(wall_ms)} ({clock}) at {reader}, {direction}, badge {token}, {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
