package main

// go-libp2p tells from 0.42 on what servers of AutoNAT v2 have found.
var watchedToo []any

func checked(any) (object, bool) {
	return nil, false
}
