// A libp2p peer that does what it is told: one JSON command a line on stdin, one JSON answer or event a line on stdout.
// The protocol is described in ../README.md and is the same for every implementation. Logs go to stderr.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	defaultTimeout = 10 * time.Second // for a command that names none
	closeTimeout   = 2 * time.Second  // that a clean stop may take
	maxLine        = 16 * 1024 * 1024
)

type object map[string]any

var output sync.Mutex

func send(message object) {
	line, err := json.Marshal(message)
	if err != nil {
		complain("a message that is no JSON: %v", err)
		os.Exit(1)
	}
	output.Lock()
	defer output.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func complain(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
}

func answer(id any, result any, err error) {
	if err != nil {
		send(object{"id": id, "ok": false, "error": err.Error()})
		return
	}
	send(object{"id": id, "ok": true, "result": result})
}

// obey carries out one line; false after `exit`.
func obey(ctx context.Context, n *node, line []byte) bool {
	var given arguments
	if err := json.Unmarshal(line, &given); err != nil || given == nil {
		answer(nil, nil, fmt.Errorf("a command is a JSON object: %v", err))
		return true
	}
	id, name := given["id"], ""
	name, _ = given["cmd"].(string)
	if name == "exit" {
		answer(id, object{}, nil)
		return false
	}
	do, ok := commands[name]
	if !ok {
		answer(id, nil, fmt.Errorf("unknown command %q", name))
		return true
	}
	timeout := defaultTimeout
	if ms, ok := given["timeout"].(float64); ok {
		timeout = time.Duration(ms * float64(time.Millisecond))
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		result, err := do(ctx, n, given)
		answer(id, result, err)
	}()
	return true
}

func run() error {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, maxLine)
	var text []byte
	if len(os.Args) > 1 {
		text = []byte(os.Args[1])
	} else if input.Scan() {
		text = append(text, input.Bytes()...)
	} else {
		return input.Err()
	}
	given, err := readOptions(text)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	n, err := newNode(ctx, given)
	if err != nil {
		return err
	}
	send(object{
		"event":          "ready",
		"peerId":         n.host.ID().String(),
		"addresses":      n.addresses(),
		"implementation": "go-libp2p/" + libp2pVersion(),
		"runtime":        "go/" + strings.TrimPrefix(runtime.Version(), "go"),
	})
	go func() {
		for input.Scan() {
			if strings.TrimSpace(input.Text()) != "" && !obey(ctx, n, input.Bytes()) {
				break
			}
		}
		cancel()
	}()
	<-ctx.Done()
	closed := make(chan struct{})
	go func() {
		n.close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(closeTimeout):
		return fmt.Errorf("not closed within %s", closeTimeout)
	}
}

// libp2pVersion is what the program was built with.
func libp2pVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/libp2p/go-libp2p" {
				return strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return "unknown"
}

func main() {
	if err := run(); err != nil {
		complain("%v", err)
		os.Exit(1)
	}
}
