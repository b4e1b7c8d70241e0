#!/bin/sh
# One call over the Unix socket. usage: ipc.sh DATA_DIR [METHOD [PARAMS]]
# A message is one line of JSON; nc -q1 waits a second for the answer after our line has ended.
set -eu
socket=$(sed 's/.*"ipc":"\([^"]*\)".*/\1/' "$1/api.json")
printf '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}\n' "${2:-status}" "${3:-[]}" | nc -U -q1 "$socket"
