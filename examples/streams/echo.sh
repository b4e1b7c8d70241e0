#!/usr/bin/env bash
# Says hello on /echo/1.0.0 to a peer, with nothing but nc: the first line is the call, everything behind it is the stream.
#
#     ./echo.sh SOCKET PEER_ID
set -euo pipefail
printf '{"jsonrpc":"2.0","id":1,"method":"stream.open","params":{"peerId":"%s","protocol":"/echo/1.0.0"}}\nhello\n' "$2" |
    nc -U -N "$1" | tail -n +2
