package main

import "github.com/libp2p/go-libp2p/core/event"

// watchedToo are events that not every version of the library has: ../versions has this file for one without.
var watchedToo = []any{new(event.EvtHostReachableAddrsChanged)}

// checked is what servers of AutoNAT v2 have found, where that has happened.
func checked(what any) (object, bool) {
	found, ok := what.(event.EvtHostReachableAddrsChanged)
	if !ok {
		return nil, false
	}
	return object{
		"event": "checked", "reachable": texts(found.Reachable), "unreachable": texts(found.Unreachable),
	}, true
}
