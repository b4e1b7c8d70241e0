#!/bin/sh
# The state of the node, then its events, over HTTP. usage: follow.sh DATA_DIR [COUNT]
#
# There are no subscriptions over HTTP: `events` waits up to `timeout` ms for something after number `after`.
# A real script would use jq; sed keeps this one free of it.
set -eu
dir=$1 count=${2:-0}

call() { # METHOD PARAMS
    http=$(sed 's/.*"http":"\([^"]*\)".*/\1/' "$dir/api.json")
    # The token goes in by standard input: a command line can be read by every user of the machine
    printf 'header = "Authorization: Bearer %s"\n' "$(cat "$dir/api.token")" |
        curl --silent --fail --config - --header 'Content-Type: application/json' \
            --data "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\",\"params\":$2}" "http://$http/rpc"
}
field() { sed "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/"; }

status=$(call status '{}')
echo "state $(printf %s "$status" | field state)"
epoch=$(printf %s "$status" | sed 's/.*"epoch":"\([^"]*\)".*/\1/')
after=$(printf %s "$status" | sed 's/.*"head":\([0-9]*\).*/\1/')

while :; do
    # One event at a time, so that sed can take it apart. Where the daemon cannot be reached, try again: `after` stays.
    if ! answer=$(call events "{\"after\":$after,\"epoch\":\"$epoch\",\"limit\":1,\"timeout\":20000}"); then
        echo "connection lost"
        sleep 0.3
        continue
    fi
    case $answer in
    *'"missed":null'*) # another run of the daemon: its numbers begin anew
        echo "the daemon was restarted"
        epoch=$(printf %s "$answer" | sed 's/.*"result":{"epoch":"\([^"]*\)".*/\1/')
        after=$(printf %s "$answer" | sed 's/.*"result":{"epoch":"[^"]*","head":\([0-9]*\).*/\1/') ;;
    *'"events":[]'*) ;; # nothing happened
    *)
        case $answer in *'"missed":0'*) ;; *) echo "some events are gone" ;; esac
        after=$(printf %s "$answer" | sed 's/.*"events":\[{"epoch":"[^"]*","seq":\([0-9]*\).*/\1/')
        echo "event $after $(printf %s "$answer" | sed 's/.*"events":\[{"epoch":"[^"]*","seq":[0-9]*,"time":[0-9]*,"type":"\([^"]*\)".*/\1/')"
        count=$((count - 1))
        [ "$count" -ne 0 ] || exit 0 ;;
    esac
done
