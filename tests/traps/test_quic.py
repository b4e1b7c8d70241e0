"""Trap 20: why QUIC here is not what libp2p 0.8.1 brings. It stands on the same engine, under streams of its own, and
every byte arrives at a reader that dawdles (tests/unit/test_quic.py)."""

from .stock import in_process


async def test_stock_loses_bytes_in_the_middle_of_a_stream_that_is_read_slowly() -> None:
    """Trap 20, libp2p 0.8.1: transport/quic/stream.py:635, `QUICStream.handle_data_received` drops what comes while
    2 MiB lie unread, and the stream goes on without it. The sender cannot know: aioquic 1.7.2 (quic/connection.py:4241)
    has acknowledged the bytes, and gives a stream more window for what has come, read or not."""
    verdict = await in_process("stock_quic", "slow_reader", within=180)
    assert not verdict["whole"]
    assert 0 < verdict["right_up_to"] < verdict["received"], "bytes that came later stand where others are missing"
