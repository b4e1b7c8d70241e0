"""Asks a peer for tokens, prints the first of them, and cancels the rest.

python token_client.py PEER_ID PROMPT [DATA_DIR]
"""

import sys

import anyio

import fabstir_client

WANTED = 5


async def main() -> None:
    peer_id, prompt, *rest = sys.argv[1:]
    async with fabstir_client.connect(data_dir=rest[0] if rest else None) as client:
        async with client.open_stream(peer_id, "/tokens/1.0.0") as stream:
            await stream.send(prompt.encode())
            await stream.send_eof()  # our side is done; the answer still comes
            came = b""
            async for data in stream:
                came += data
                if came.count(b"\n") >= WANTED:
                    await stream.reset()  # the server learns at once
                    break
        print(came.decode().split("\n")[:WANTED])


anyio.run(main)
