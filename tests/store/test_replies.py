"""Replies to requests that ask for something odd, byte for byte as Redis 7.0.15 gave them."""

import pytest

from tests.store.core import Core

NOT_AN_INTEGER = "-ERR value is not an integer or out of range"
WRONG_TYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX = "-ERR syntax error"
OF_32_BITS = "-ERR value is out of range, value must between -2147483648 and 2147483647"
OF_64_BITS = "-ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"

MADE = (
    "SET str v; RPUSH list a b c; SADD set a; HSET hash f v; ZADD zset 1 a 2 b; "
    "XADD stream 1-1 f v; XGROUP CREATE stream g 0"
)
"""What is there; `no` is not."""

REPLIES = rf"""
SELECT x -> {NOT_AN_INTEGER}
SELECT 4294967296 -> {OF_32_BITS}
MOVE str 4294967296 -> {OF_32_BITS}
COPY str to DB 4294967296 -> {OF_32_BITS}
SWAPDB 0 4294967296 -> -ERR invalid second DB index
EXPIRE str x NX XX -> -ERR NX and XX, GT or LT options at the same time are not compatible
EXPIRE str 1 foo BAR -> -ERR Unsupported option foo
SET str v EX x FOO -> {SYNTAX}
SET str v EX 10 EX 20 -> +OK
GETEX str PERSIST PERSIST -> $1\nv
GETEX no EX 0 -> $-1
LCS list str FOO -> -ERR The specified keys must contain string values
RESTORE str x y -> -BUSYKEY Target key name already exists.
RESTORE no 0 x IDLETIME 1 FREQ 1 -> {SYNTAX}
EVAL x x -> {NOT_AN_INTEGER}
EVAL x 2 a -> -ERR Number of keys can't be greater than number of args
SCRIPT FLUSH FOO -> -ERR SCRIPT FLUSH only support SYNC|ASYNC option
SLOWLOG GET x -> -ERR count should be greater than or equal to -1
PUBSUB Channels a b -> -ERR unknown subcommand or wrong number of arguments for 'Channels'. Try PUBSUB HELP.
CLIENT UNBLOCK 1 TIMEOUT x -> -ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.
CLIENT TRACKING OFF FOO -> {SYNTAX}
CLIENT TRACKING OFF PREFIX a -> +OK
CLUSTER INFO -> -ERR This instance has cluster support disabled
READONLY -> -ERR This instance has cluster support disabled
ASKING 1 -> -ERR wrong number of arguments for 'asking' command

SCAN -1 MATCH nothing -> *2\n$1\n0\n*0
SCAN -18446744073709551616 -> -ERR invalid cursor
SCAN + -> -ERR invalid cursor
HSCAN no 0 FOO -> *2\n$1\n0\n*0
HSCAN str 0 FOO -> {WRONG_TYPE}
BITCOUNT no 1 -> :0
BITCOUNT list x y -> {WRONG_TYPE}
BITPOS no 1 x -> :-1
BITFIELD str SET 1 2 -> {SYNTAX}
LPOS list a COUNT x -> -ERR COUNT can't be negative
LPOS list a FOO x -> {SYNTAX}
LMPOP 1 list UP COUNT 0 -> {SYNTAX}
BLMPOP -1 1 list LEFT COUNT 0 -> -ERR count should be greater than 0
SINTERCARD 1 set LIMIT 5 LIMIT 1 -> :1
SRANDMEMBER set 9223372036854775807 -> *1\n$1\na
SRANDMEMBER set -9223372036854775808 -> {OF_64_BITS}
HRANDFIELD hash x FOO -> {NOT_AN_INTEGER}
HRANDFIELD hash 4611686018427387904 WITHVALUES -> -ERR value is out of range

ZRANGE zset 0 1 REV BYSCORE BYLEX -> {SYNTAX}
ZRANGE zset 0 1 REV REV -> {SYNTAX}
ZRANGE zset 0 0 LIMIT 0 -1 -> *1\n$1\na
ZRANGE zset 0 0 LIMIT 0 1 -> -ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX
ZRANGEBYLEX zset - + WITHSCORES -> -ERR syntax error, WITHSCORES not supported in combination with BYLEX
ZINTERCARD 0 zset -> -ERR at least 1 input key is needed for 'zintercard' command
ZINTERCARD 2 zset -> {SYNTAX}
ZINTERCARD 1 str LIMIT -1 -> {WRONG_TYPE}
ZINTERCARD 1 zset LIMIT 1 -> :1
ZUNIONSTORE to 1 list FOO -> {WRONG_TYPE}
ZRANDMEMBER zset x FOO -> {NOT_AN_INTEGER}
GEOADD geo NX XX 1 1 a -> {SYNTAX}
GEOSEARCH no FROMLONLAT 1 1 BYBOX x 1 m -> -ERR need numeric width
GEOSEARCH no FROMLONLAT 1 1 BYRADIUS 1 m ANY -> -ERR the ANY argument requires COUNT argument
GEOSEARCH no FROMLONLAT 1 1 BYRADIUS 1 m ANY COUNT 1 -> *0
GEORADIUSBYMEMBER no a x m -> *0

XADD to NOMKSTREAM LIMIT 5 MAXLEN ~ 1 1-1 a b -> $-1
XADD to LIMIT 5 1-1 a b -> -ERR syntax error, LIMIT cannot be used without specifying a trimming strategy
XADD to MAXLEN 1 LIMIT 5 1-1 a b -> -ERR syntax error, LIMIT cannot be used without the special ~ option
XTRIM stream LIMIT 1 MAXLEN ~ 1 -> :0
XTRIM stream MAXLEN 1 MINID 1 -> -ERR syntax error, MAXLEN and MINID options at the same time are not compatible
XTRIM stream MAXLEN ~ -> {NOT_AN_INTEGER}
XREAD GROUP g c STREAMS stream > -> -ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.
XREAD NOACK STREAMS stream 0 -> -ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.
XREAD STREAMS stream 0 1 -> -ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.
XREADGROUP COUNT 1 STREAMS stream > a > -> -ERR Missing GROUP option for XREADGROUP
XREADGROUP NOACK GROUP g c STREAMS stream > -> *1\n*2\n$6\nstream\n*1\n*2\n$3\n1-1\n*2\n$1\nf\n$1\nv
XRANGE stream - + COUNT 9 COUNT 0 -> *-1
XCLAIM stream g c 0 1-1 1-x -> -ERR Unrecognized XCLAIM option '1-x'
XGROUP SETID stream g - -> +OK
XGROUP SETID stream g $ ENTRIESREAD -2 x -> -ERR value for ENTRIESREAD must be positive or -1
GEOSEARCH no BYRADIUS 1 m ASC ASC -> -ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for GEOSEARCH
XCLAIM no g c x 1-1 -> -NOGROUP No such key 'no' or consumer group 'g'
XPENDING stream g - + 1 c d -> *0
XPENDING stream g IDLE x -> {SYNTAX}
XGROUP CREATE no g $ FOO -> -ERR unknown subcommand or wrong number of arguments for 'CREATE'. Try XGROUP HELP.
XGROUP SETID no g $ ENTRIESREAD -2 -> -ERR value for ENTRIESREAD must be positive or -1
XINFO stream stream FOO -> -ERR unknown subcommand or wrong number of arguments for 'stream'. Try XINFO HELP.
"""


@pytest.mark.parametrize("line", [line for line in REPLIES.splitlines() if line])
def test_a_request_is_answered_as_redis_answers_it(line: str) -> None:
    core = Core()
    for command in MADE.split(";"):
        core(command)
    request, _, reply = line.rpartition(" -> ")
    session = core.client.session
    core.engine.run(session, [[word.encode() for word in request.split()]], core.now)
    assert b"".join(session.out) == reply.replace(r"\n", "\r\n").encode() + b"\r\n"


def test_what_is_skipped_is_what_follows_the_last_skip() -> None:
    core = Core()
    core("CLIENT REPLY SKIP")
    assert [core("CLIENT REPLY SKIP"), core("PING"), core("PING")] == [..., ..., b"PONG"]
    core("CLIENT REPLY SKIP")
    assert core("CLIENT REPLY ON") == b"OK"
    assert core("PING") == b"PONG"
    core("CLIENT REPLY SKIP")
    assert [core("NOSUCH"), core("PING")] == [..., b"PONG"]
    core("CLIENT REPLY SKIP")
    assert [core("MULTI"), core("PING"), core("DISCARD")] == [..., b"QUEUED", b"OK"]


def test_a_client_without_replies_has_none_in_a_transaction_either() -> None:
    core = Core()
    core("CLIENT REPLY OFF")
    assert [core(words) for words in ("MULTI", "SET k 1", "PING", "EXEC", "GET k")] == [...] * 5
    assert core("CLIENT REPLY ON") == b"OK" and core("GET k") == b"1"


def test_the_end_of_a_wait_is_skipped_as_well() -> None:
    core = Core()
    other = core.connect()
    core("CLIENT REPLY SKIP")
    assert [core("BLPOP l 0"), core("PING")] == [..., ...]
    assert other("RPUSH", "l", 1) == 1
    assert core.client.heard() == [b"PONG"]
    assert core("PING") == b"PONG" and core("EXISTS l") == 0


def test_a_client_that_caches_all_chooses_nothing() -> None:
    core = Core()
    core("HELLO 3")
    core("CLIENT TRACKING ON")
    assert "only valid when tracking is enabled in OPTIN mode" in str(core("CLIENT CACHING YES"))


def test_of_an_unknown_command_no_more_words_are_shown_than_redis_shows() -> None:
    core = Core()
    words = ["x" * 100, b"a\0b", "y" * 100, "z"]
    shown = f"'{'x' * 100}' 'a' '{'y' * 21}' "
    assert str(core("NOSUCH", *words)) == f"ERR unknown command 'NOSUCH', with args beginning with: {shown}"
