// The state of the node, then its events, over the Unix socket. usage: go run follow.go DATA_DIR [COUNT]
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// message is what comes from the daemon: an answer (ID), or a notification (Method).
type message struct {
	ID     *int            `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
		Data    struct {
			Code string `json:"code"` // decide by this; the message is for people
		} `json:"data"`
	} `json:"error"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// place is where a reader stands in the log of events.
type place struct {
	Epoch string `json:"epoch"`
	After int    `json:"after"`
}

type follower struct {
	dir  string
	seen *place // nil before the first connection
	left int    // events until the end; negative: none
}

// follow makes one connection and stays on it until it ends.
func (f *follower) follow() error {
	where, err := os.ReadFile(filepath.Join(f.dir, "api.json"))
	if err != nil {
		return err
	}
	var api struct {
		IPC string `json:"ipc"`
	}
	if err := json.Unmarshal(where, &api); err != nil {
		return err
	}
	conn, err := net.Dial("unix", api.IPC)
	if err != nil {
		return err
	}
	defer conn.Close()

	// One message a line. Calls may be sent without waiting for answers, which come as calls finish: match them by id.
	lines := bufio.NewReader(conn)
	send := json.NewEncoder(conn) // writes a line
	request := map[string]any{"jsonrpc": "2.0", "id": 1, "method": "status"}
	if err := send.Encode(request); err != nil {
		return err
	}
	params := map[string]any{}
	if f.seen != nil {
		params = map[string]any{"after": f.seen.After, "epoch": f.seen.Epoch}
	}
	request = map[string]any{"jsonrpc": "2.0", "id": 2, "method": "subscribe", "params": params}
	if err := send.Encode(request); err != nil {
		return err
	}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var got message
		if err := json.Unmarshal(line, &got); err != nil {
			return err
		}
		if got.Error != nil {
			return fmt.Errorf("%s: %s", got.Error.Data.Code, got.Error.Message)
		}
		if err := f.take(got); err != nil {
			return err
		}
	}
}

func (f *follower) take(got message) error {
	switch {
	case got.ID != nil && *got.ID == 1:
		var status struct {
			State string `json:"state"`
		}
		if err := json.Unmarshal(got.Result, &status); err != nil {
			return err
		}
		if f.seen == nil {
			fmt.Println("state", status.State)
		}
	case got.ID != nil && *got.ID == 2:
		// Status and peers as they were at event `head` are in the answer, too.
		var began struct {
			Epoch string `json:"epoch"`
			Head  int    `json:"head"`
		}
		if err := json.Unmarshal(got.Result, &began); err != nil {
			return err
		}
		if f.seen == nil || f.seen.Epoch != began.Epoch { // another run: its numbers begin anew
			f.seen = &place{began.Epoch, began.Head}
		}
	case got.Method == "event":
		var event struct {
			Epoch string `json:"epoch"`
			Seq   int    `json:"seq"`
			Type  string `json:"type"`
		}
		if err := json.Unmarshal(got.Params, &event); err != nil {
			return err
		}
		f.seen = &place{event.Epoch, event.Seq}
		fmt.Println("event", event.Seq, event.Type)
		if f.left--; f.left == 0 {
			os.Exit(0)
		}
	case got.Method == "lagged":
		var gap struct {
			Missed *int `json:"missed"`
		}
		if err := json.Unmarshal(got.Params, &gap); err != nil {
			return err
		}
		if gap.Missed == nil {
			fmt.Println("the daemon was restarted")
		} else {
			fmt.Println(*gap.Missed, "events are gone")
		}
	} // a heartbeat says only that the connection is alive
	return nil
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: follow DATA_DIR [COUNT]")
	}
	f := &follower{dir: os.Args[1], left: -1}
	if len(os.Args) > 2 {
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		f.left = count
	}
	for {
		if err := f.follow(); f.seen == nil {
			log.Fatal(err) // never connected at all
		}
		fmt.Println("connection lost")
		time.Sleep(300 * time.Millisecond)
	}
}
