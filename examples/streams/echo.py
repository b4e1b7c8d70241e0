"""Sends back whatever comes on /echo/1.0.0, with the blocking client.

python echo.py [DATA_DIR]
"""

import sys

import fabstir_client


def echo(stream: fabstir_client.sync.Stream) -> None:
    for data in stream:
        stream.write(data)
    stream.send_eof()


with fabstir_client.connect_sync(data_dir=sys.argv[1] if len(sys.argv) > 1 else None) as client:
    with client.listen("/echo/1.0.0") as listener:
        print("echoing", flush=True)
        listener.serve(echo)
