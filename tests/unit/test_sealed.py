"""Sealed content: what opens it, what does not, and that it gives nothing away."""

from pathlib import Path

import pytest

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.keys import SigningKey
from titan_overlay.storage.content import CHUNK_BYTES, chunk_count
from titan_overlay.storage.files import BytesSource, open_source
from titan_overlay.storage.sealed import PIECE_BYTES, SALT_BYTES, SealedSource, UnsealedFile, key_of, unseal

ALICE, BOB = SigningKey(b"a" * 32), SigningKey(b"b" * 32)


async def sealed(data: bytes, user: SigningKey = ALICE) -> bytes:
    source = await SealedSource.seal(BytesSource(data), user)
    return b"".join([await source.read_chunk(index) for index in range(chunk_count(source.content))])


async def opened(data: bytes, user: SigningKey = ALICE) -> bytes:
    return b"".join([piece async for piece in unseal(BytesSource(data), lambda salt: key_of(user, salt))])


@pytest.mark.parametrize(
    "size",
    [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, CHUNK_BYTES, 2 * PIECE_BYTES, 3 * CHUNK_BYTES + 5],
)
async def test_what_is_sealed_opens_with_its_key_and_no_other(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    closed = await sealed(data)
    pieces = max(1, -(-size // PIECE_BYTES))
    assert len(closed) == size + pieces * (SALT_BYTES + 16)
    assert await opened(closed) == data
    with pytest.raises(Forbidden, match="does not open"):
        await opened(closed, BOB)


async def test_a_file_and_its_bytes_are_sealed_alike(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data := bytes(3 * CHUNK_BYTES))
    from_file = await SealedSource.seal(await open_source(tmp_path / "in"), ALICE)
    from_bytes = await SealedSource.seal(BytesSource(data), ALICE)
    assert (from_file.digest, from_file.content) == (from_bytes.digest, from_bytes.content)
    assert await from_file.manifest() == await from_bytes.manifest()
    with pytest.raises(BadMessage, match="no chunk 4"):
        await from_file.read_chunk(4)


async def test_equal_pieces_contents_and_users_show_no_likeness() -> None:
    zeros = await sealed(bytes(3 * PIECE_BYTES))
    chunks = [zeros[start + SALT_BYTES : start + CHUNK_BYTES] for start in range(0, len(zeros), CHUNK_BYTES)]
    assert len(set(chunks)) == 3
    assert len({(await sealed(data, user))[:SALT_BYTES] for data in (b"x", b"y") for user in (ALICE, BOB)}) == 4


async def test_pieces_that_were_changed_swapped_or_left_out_do_not_open() -> None:
    closed = await sealed(bytes(2 * PIECE_BYTES + 1))
    first, second, last = closed[:CHUNK_BYTES], closed[CHUNK_BYTES : 2 * CHUNK_BYTES], closed[2 * CHUNK_BYTES :]
    assert await opened(first + second + last) == bytes(2 * PIECE_BYTES + 1)
    flipped = bytes([closed[SALT_BYTES] ^ 1])
    for wrong in (
        second + first + last,
        first + second,
        first + last,
        b"",
        first[: SALT_BYTES - 1],
        closed[:SALT_BYTES] + flipped + closed[SALT_BYTES + 1 :],
    ):
        with pytest.raises(Forbidden, match="does not open"):
            await opened(wrong)


async def test_a_key_that_does_not_fit_leaves_no_file_and_touches_none(tmp_path: Path) -> None:
    source = await SealedSource.seal(BytesSource(b"diary"), ALICE)
    (tmp_path / "out").write_text("precious")
    sink = UnsealedFile(tmp_path / "out", lambda salt: key_of(BOB, salt))
    await sink.begin(source.digest, source.content, await source.manifest())
    await sink.put_chunk(source.digest, 0, await source.read_chunk(0))
    with pytest.raises(Forbidden):
        await sink.finish(source.digest)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out", "precious")]
