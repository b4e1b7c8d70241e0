"""Answers each stream on /tokens/1.0.0 with a token a line, until the client has had enough.

python token_server.py [DATA_DIR]
"""

import sys

import anyio

import fabstir_client

PROTOCOL = "/tokens/1.0.0"


async def answer(stream: fabstir_client.Stream) -> None:
    prompt = b"".join([data async for data in stream]).decode()  # until the client ends its side
    print(f"{stream.peer_id[-6:]} asks: {prompt}", flush=True)
    words = prompt.split() or ["nothing"]
    try:
        for number in range(1000):
            await stream.send(f"{words[number % len(words)]}-{number}\n".encode())  # waits while nobody reads
            await anyio.sleep(0.01)
        await stream.send_eof()
    except fabstir_client.StreamBroken as error:
        print(f"{stream.peer_id[-6:]} had enough: {error.data['outcome']}", flush=True)


async def main() -> None:
    data_dir = sys.argv[1] if len(sys.argv) > 1 else None
    async with fabstir_client.connect(data_dir=data_dir) as client, client.listen(PROTOCOL) as listener:
        print("serving", PROTOCOL, flush=True)
        await listener.serve(answer)


anyio.run(main)
