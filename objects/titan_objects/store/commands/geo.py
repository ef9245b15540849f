"""Places: sorted sets whose scores are geohashes of 52 bits."""

import math
from typing import TYPE_CHECKING, NamedTuple

from titan_objects.store.arguments import double, integer, option
from titan_objects.store.commands.zsets import store, zadd, zset
from titan_objects.store.resp import EMPTY, CommandError, array, bulk, bulks, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("geo")

EARTH_METRES = 6372797.560856
LATITUDE_MAX = 85.05112878
STEPS = 26
HASHES = 4 << 2 * STEPS
"""Scores below are geohashes, the eastern and the northern edge in cells beyond 52 bits; others are nowhere."""

_UNITS = {b"m": 1.0, b"km": 1000.0, b"ft": 0.3048, b"mi": 1609.34}
_ALPHABET = b"0123456789bcdefghjkmnpqrstuvwxyz"


def _spread(value: int) -> int:
    """The bits of a number, each with a zero before it."""
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        value = (value | value << shift) & mask
    value = (value | value << 2) & 0x3333333333333333
    return (value | value << 1) & 0x5555555555555555


def _gathered(value: int) -> int:
    value &= 0x5555555555555555
    value = (value | value >> 1) & 0x3333333333333333
    value = (value | value >> 2) & 0x0F0F0F0F0F0F0F0F
    for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        value = (value | value >> shift) & mask
    return value


def encode(longitude: float, latitude: float, edge: float = LATITUDE_MAX) -> int:
    """The 52-bit geohash of a place."""
    x = int((longitude + 180) / 360 * (1 << STEPS))
    y = int((latitude + edge) / (2 * edge) * (1 << STEPS))
    return _spread(y) | _spread(x) << 1


def decode(score: float) -> tuple[float, float]:
    """Longitude and latitude of the middle of a geohash's cell."""
    bits = int(score) if 0 <= score < 1 << 64 else 1 << 63  # what an x86 makes of others
    y, x = _gathered(bits), _gathered(bits >> 1)
    cells = 1 << STEPS
    low, high = (-180 + x / cells * 360, -180 + (x + 1) / cells * 360)
    bottom = -LATITUDE_MAX + y / cells * 2 * LATITUDE_MAX
    top = -LATITUDE_MAX + (y + 1) / cells * 2 * LATITUDE_MAX
    longitude = min(180.0, max(-180.0, (low + high) / 2))
    return longitude, min(LATITUDE_MAX, max(-LATITUDE_MAX, (bottom + top) / 2))


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Metres along the great circle (haversine)."""
    lon1, lat1, lon2, lat2 = map(math.radians, (*one, *other))
    u, v = math.sin((lat2 - lat1) / 2), math.sin((lon2 - lon1) / 2)
    if v == 0.0:
        return EARTH_METRES * abs(lat2 - lat1)
    return 2 * EARTH_METRES * math.asin(math.sqrt(u * u + math.cos(lat1) * math.cos(lat2) * v * v))


def _position(longitude: bytes, latitude: bytes) -> tuple[float, float]:
    place = (double(longitude), double(latitude))
    if abs(place[0]) > 180 or abs(place[1]) > LATITUDE_MAX:
        raise CommandError(f"ERR invalid longitude,latitude pair {place[0]:.6f},{place[1]:.6f}")
    return place


def _unit(word: bytes) -> float:
    scale = _UNITS.get(word.lower())
    if scale is None:
        raise CommandError(b"ERR unsupported unit provided. please use M, KM, FT, MI")
    return scale


def _metres(metres: float) -> bytes:
    return bulk(b"%.4f" % metres)


@group.command("geoadd", -5, "write denyoom", keys=(1, 1, 1), since="3.2.0")
def geoadd(e: "Engine", a: Args) -> bytes:
    """Adds one or more members to a geospatial index. The key is created if it doesn't exist."""
    at = 2
    while at < len(a) and a[at].upper() in (b"NX", b"XX", b"CH"):
        at += 1
    triples = a[at:]
    if not triples or len(triples) % 3 or {b"NX", b"XX"} <= {word.upper() for word in a[2:at]}:
        raise syntax_error()
    words = []
    for index in range(0, len(triples), 3):
        place = _position(triples[index], triples[index + 1])
        words += [b"%d" % encode(*place), triples[index + 2]]
    return zadd(e, [b"ZADD", *a[1:at], *words])


@group.command("geopos", -2, "readonly", keys=(1, 1, 1), since="3.2.0")
def geopos(e: "Engine", a: Args) -> bytes:
    """Returns the longitude and latitude of members from a geospatial index."""
    values = zset(e, a[1])
    rows = []
    for member in a[2:]:
        score = values.scores.get(member) if values is not None else None
        rows.append(e.reply.null_array if score is None else _shown_place(e, score))
    return array(rows)


def _shown_place(e: "Engine", score: float) -> bytes:
    text = [b"%.17f" % part for part in decode(score)]
    return array([e.reply.written(each.rstrip(b"0").rstrip(b".")) for each in text])


@group.command("geodist", -4, "readonly", keys=(1, 1, 1), since="3.2.0")
def geodist(e: "Engine", a: Args) -> bytes:
    """Returns the distance between two members of a geospatial index."""
    if len(a) > 5:
        raise syntax_error()
    scale = _unit(a[4]) if len(a) == 5 else 1.0
    values = zset(e, a[1])
    ends = [values.scores.get(member) if values is not None else None for member in a[2:4]]
    if ends[0] is None or ends[1] is None:
        return e.reply.null
    return _metres(distance(decode(ends[0]), decode(ends[1])) / scale)


@group.command("geohash", -2, "readonly", keys=(1, 1, 1), since="3.2.0")
def geohash(e: "Engine", a: Args) -> bytes:
    """Returns members from a geospatial index as geohash strings."""
    values = zset(e, a[1])
    rows = []
    for member in a[2:]:
        score = values.scores.get(member) if values is not None else None
        if score is None:
            rows.append(e.reply.null)
            continue
        bits = encode(*decode(score), edge=90.0)
        digits = [_ALPHABET[bits >> (52 - 5 * (at + 1)) & 31] if at < 10 else _ALPHABET[0] for at in range(11)]
        rows.append(bulk(bytes(digits)))
    return array(rows)


# ---- searching ---------------------------------------------------------------------------------------------------


class _Hit(NamedTuple):
    metres: float
    member: bytes
    score: float


class _Search:
    """Where to look, how far, and what to show."""

    def __init__(self) -> None:
        self.middle: tuple[float, float] | None = None
        self.middle_word = b""
        self.radius: float | None = None
        self.box: tuple[float, float] | None = None
        self.scale = 1.0
        self.order = ""
        self.count = 0
        self.any = False
        self.shown: set[bytes] = set()
        self.store_distance = False
        self.target: bytes | None = None

    def options(self, e: "Engine", a: Args, at: int, values: ZSet | None, *, old: bool, storing: bool) -> None:
        """Reads what stands behind the first words."""
        while at < len(a):
            word = a[at].upper()
            if word in (b"WITHCOORD", b"WITHDIST", b"WITHHASH"):
                self.shown.add(word)
            elif word in (b"ASC", b"DESC"):
                self.order = word.decode()
            elif word == b"COUNT":
                at += 1
                self.count = integer(option(a, at))
                if self.count <= 0:
                    raise CommandError(b"ERR COUNT must be > 0")
            elif word == b"ANY":
                self.any = True
            elif word == b"STOREDIST" and storing:
                self.store_distance = True
            elif word in (b"STORE", b"STOREDIST") and old:
                self.target, self.store_distance = option(a, at + 1), word == b"STOREDIST"
                at += 1
            elif word == b"FROMMEMBER" and not old and self.middle_word in (b"", word):
                at += 1
                self.middle, self.middle_word = _of_member(values, option(a, at)), word
            elif word == b"FROMLONLAT" and not old and self.middle_word in (b"", word) and at + 2 < len(a):
                self.middle, self.middle_word = _position(a[at + 1], a[at + 2]), word
                at += 2
            elif word == b"BYRADIUS" and not old and self.box is None and at + 2 < len(a):
                self.within(a[at + 1], a[at + 2])
                at += 2
            elif word == b"BYBOX" and not old and self.radius is None and at + 3 < len(a):
                self.between(a[at + 1], a[at + 2], a[at + 3])
                at += 3
            else:
                raise syntax_error()
            at += 1
        self._check(a[0], old, storing)

    def _check(self, name: bytes, old: bool, storing: bool) -> None:
        if self.shown and (storing or self.target is not None):
            what = b"STORE option in GEORADIUS" if old else b"GEOSEARCHSTORE"
            raise CommandError(b"ERR %b is not compatible with WITHDIST, WITHHASH and WITHCOORD options" % what)
        if not old and self.middle is None:
            raise CommandError(b"ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for %b" % name)
        if not old and self.radius is None and self.box is None:
            raise CommandError(b"ERR exactly one of BYRADIUS and BYBOX can be specified for %b" % name)
        if self.any and not self.count:
            raise CommandError(b"ERR the ANY argument requires COUNT argument")

    def within(self, radius: bytes, unit: bytes) -> None:
        """Looks in a circle."""
        given = double(radius, b"ERR need numeric radius")
        if given < 0:
            raise CommandError(b"ERR radius cannot be negative")
        self.scale = _unit(unit)
        self.radius = given * self.scale

    def between(self, width: bytes, height: bytes, unit: bytes) -> None:
        """Looks in a box."""
        sides = (double(width, b"ERR need numeric width"), double(height, b"ERR need numeric height"))
        if min(sides) < 0:
            raise CommandError(b"ERR height or width cannot be negative")
        self.scale = _unit(unit)
        self.box = (sides[0] * self.scale, sides[1] * self.scale)

    def hits(self, values: ZSet | None) -> list[_Hit]:
        """What is there, in the order asked for. Every member is looked at."""
        assert self.middle is not None
        found = []
        for score, member in values or ():
            if not 0 <= score < HASHES:
                continue
            place = decode(score)
            metres = distance(self.middle, place)
            if self.radius is not None:
                inside = metres <= self.radius
            else:
                assert self.box is not None
                along = distance((self.middle[0], place[1]), place)
                across = distance(self.middle, (self.middle[0], place[1]))
                inside = along <= self.box[0] / 2 and across <= self.box[1] / 2
            if inside:
                found.append(_Hit(metres, member, score))
                if self.any and len(found) == self.count:
                    break
        if self.order or (self.count and not self.any):
            found.sort(reverse=self.order == "DESC")
        return found[: self.count] if self.count else found

    def answer(self, e: "Engine", hits: list[_Hit], target: bytes | None) -> bytes:
        """Encoded hits, or how many were stored."""
        if target is not None:
            pairs = [(hit.metres / self.scale if self.store_distance else hit.score, hit.member) for hit in hits]
            return store(e, target, pairs, b"geosearchstore")
        if not self.shown:
            return bulks([hit.member for hit in hits])
        rows = []
        for hit in hits:
            row = [bulk(hit.member)]
            if b"WITHDIST" in self.shown:
                row.append(_metres(hit.metres / self.scale))
            if b"WITHHASH" in self.shown:
                row.append(number(int(hit.score)))
            if b"WITHCOORD" in self.shown:
                row.append(_shown_place(e, hit.score))
            rows.append(array(row))
        return array(rows)


def _of_member(values: ZSet | None, member: bytes) -> tuple[float, float]:
    score = values.scores.get(member) if values is not None else None
    if score is None:
        if values is None:
            return (0.0, 0.0)  # there is nothing to find
        raise CommandError(b"ERR could not decode requested zset member")
    return decode(score)


def _search(e: "Engine", a: Args, key: bytes, at: int, target: bytes | None) -> bytes:
    values = zset(e, key)
    search = _Search()
    search.options(e, a, at, values, old=False, storing=target is not None)
    if values is None and target is None:
        return EMPTY
    return search.answer(e, search.hits(values), target)


@group.command("geosearch", -7, "readonly", keys=(1, 1, 1), since="6.2.0")
def geosearch(e: "Engine", a: Args) -> bytes:
    """Queries a geospatial index for members inside an area of a box or a circle."""
    return _search(e, a, a[1], 2, None)


@group.command("geosearchstore", -8, "write denyoom", keys=(1, 2, 1), since="6.2.0")
def geosearchstore(e: "Engine", a: Args) -> bytes:
    """Queries a geospatial index for members inside an area of a box or a circle, and stores the result."""
    return _search(e, a, a[2], 3, a[1])


def _radius(e: "Engine", a: Args, by_member: bool, may_store: bool) -> bytes:
    values = zset(e, a[1])
    search = _Search()
    behind = 3 if by_member else 4
    if by_member:
        search.middle = _of_member(values, a[2])
    else:
        search.middle = _position(a[2], a[3])
    if values is not None or not by_member:  # where there are no members, Redis does not look at the radius
        search.within(a[behind], a[behind + 1])
    search.options(e, a, behind + 2, values, old=True, storing=False)
    if search.target is not None and not may_store:
        raise syntax_error()
    if values is None and search.target is None:
        return EMPTY
    return search.answer(e, search.hits(values), search.target)


def _stored(a: Args) -> list[bytes]:
    target: Args = []
    at = 4
    while at < len(a) - 1:
        if a[at].upper() in (b"STORE", b"STOREDIST"):
            at += 1
            target = [a[at]]  # the last one counts, whatever it is called
        at += 1
    return [a[1], *target]


@group.command("georadius", -6, "write denyoom movablekeys", movable=_stored, since="3.2.0")
def georadius(e: "Engine", a: Args) -> bytes:
    """Queries a geospatial index for members within a distance from a coordinate, optionally stores the result."""
    return _radius(e, a, False, True)


@group.command("georadius_ro", -6, "readonly", keys=(1, 1, 1), since="3.2.10")
def georadius_ro(e: "Engine", a: Args) -> bytes:
    """Returns members from a geospatial index that are within a distance from a coordinate."""
    return _radius(e, a, False, False)


@group.command("georadiusbymember", -5, "write denyoom movablekeys", movable=_stored, since="3.2.0")
def georadiusbymember(e: "Engine", a: Args) -> bytes:
    """Queries a geospatial index for members within a distance from a member, optionally stores the result."""
    return _radius(e, a, True, True)


@group.command("georadiusbymember_ro", -5, "readonly", keys=(1, 1, 1), since="3.2.10")
def georadiusbymember_ro(e: "Engine", a: Args) -> bytes:
    """Returns members from a geospatial index that are within a distance from a member."""
    return _radius(e, a, True, False)
