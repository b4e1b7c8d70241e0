"""Trap 20: why the daemon does not speak QUIC with what libp2p 0.8.1 brings."""

from .stock import in_process


async def test_stock_loses_bytes_in_the_middle_of_a_stream_that_is_read_slowly() -> None:
    """Trap 20, libp2p 0.8.1: transport/quic/stream.py:635, `QUICStream.handle_data_received` drops what comes while
    2 MiB lie unread, and the stream goes on without it. The sender cannot know: aioquic 1.7.2 (quic/connection.py:4241)
    has acknowledged the bytes, and gives a stream more window for what has come, read or not."""
    verdict = await in_process("stock_quic", "slow_reader", within=120)
    assert not verdict["whole"]
    assert 0 < verdict["right_up_to"] < verdict["received"], "bytes that came later stand where others are missing"
