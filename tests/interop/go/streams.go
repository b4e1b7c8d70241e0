package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	digestID   = "/fabstir-interop/digest/1.0.0"
	holdID     = "/fabstir-interop/hold/1.0.0"
	perfID     = "/perf/1.0.0"
	resetID    = "/fabstir-interop/reset/1.0.0"
	sinkID     = "/fabstir-interop/sink/1.0.0"
	block      = 64 * 1024
	maxStreams = 1024
	maxCount   = 10_000_000
)

// released is closed by the command `release`, and made anew.
var released = struct {
	sync.Mutex
	now chan struct{}
}{now: make(chan struct{})}

// serving finds the handler of a protocol; one that is not known is an echo.
func serving(name string) network.StreamHandler {
	known := map[string]network.StreamHandler{
		digestID: serveDigest, holdID: serveHold, perfID: servePerf, resetID: serveReset, sinkID: serveSink,
	}
	if serve, ok := known[name]; ok {
		return func(stream network.Stream) {
			_ = stream.SetDeadline(time.Now().Add(streamIdle))
			serve(stream)
		}
	}
	return serveEcho
}

func serveEcho(stream network.Stream) {
	_ = stream.SetDeadline(time.Now().Add(streamIdle))
	if _, err := io.Copy(stream, stream); err != nil {
		complain("echo: %v", err)
		_ = stream.Reset()
		return
	}
	if err := stream.Close(); err != nil {
		complain("echo: %v", err)
	}
}

// serveDigest answers when the other side has ended its own.
func serveDigest(stream network.Stream) {
	sum := sha256.New()
	if _, err := io.Copy(sum, stream); err != nil {
		_ = stream.Reset()
		return
	}
	_, _ = stream.Write(sum.Sum(nil))
	_ = stream.Close()
}

// serveSink ends its side at once, and tells what has come.
func serveSink(stream network.Stream) {
	_ = stream.CloseWrite()
	tellTaken(stream)
}

// serveHold reads nothing before it is told to.
func serveHold(stream network.Stream) {
	released.Lock()
	now := released.now
	released.Unlock()
	<-now
	tellTaken(stream)
	_ = stream.Close()
}

func tellTaken(stream network.Stream) {
	sum := sha256.New()
	size, err := io.Copy(sum, stream)
	send(object{
		"event": "stream", "peerId": stream.Conn().RemotePeer().String(), "protocol": string(stream.Protocol()),
		"bytes": size, "sha256": hex.EncodeToString(sum.Sum(nil)), "reset": err != nil,
	})
}

// serveReset cuts the stream at the first bytes.
func serveReset(stream network.Stream) {
	_, _ = stream.Read(make([]byte, block))
	_ = stream.Reset()
}

func servePerf(stream network.Stream) {
	var head [8]byte
	if _, err := io.ReadFull(stream, head[:]); err != nil {
		_ = stream.Reset()
		return
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		_ = stream.Reset()
		return
	}
	if err := writeZeros(stream, int64(binary.BigEndian.Uint64(head[:]))); err != nil {
		_ = stream.Reset()
		return
	}
	_ = stream.Close()
}

func writeZeros(stream network.Stream, left int64) error {
	zeros := make([]byte, block)
	for left > 0 {
		part := zeros[:min(left, block)]
		if _, err := stream.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return nil
}

// ---------------------------------------------------------------------------------------------------------------------
// commands

func (a arguments) count(name string, most int) (int, error) {
	asked, ok := a[name].(float64)
	count := int(asked)
	if !ok || float64(count) != asked || count < 0 || count > most {
		return 0, fmt.Errorf("%q must be a whole number from 0 to %d", name, most)
	}
	return count, nil
}

// open is a stream to the connected peer, on the echo protocol where none is named; it is reset when the time is up.
func (a arguments) open(ctx context.Context, n *node) (network.Stream, error) {
	connection, err := a.connection(n)
	if err != nil {
		return nil, err
	}
	name := echoID
	if other, ok := a["protocol"].(string); ok {
		name = other
	}
	stream, err := n.host.NewStream(network.WithNoDial(ctx, "stream"), connection.RemotePeer(), protocol.ID(name))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = stream.Reset() }) // does nothing to one that has ended
	return stream, nil
}

// exchange sends random bytes, ends its side or cuts the stream when it has an answer, and says what has come back.
func exchange(ctx context.Context, n *node, given arguments) (any, error) {
	size, err := given.count("bytes", maxEcho)
	if err != nil {
		return nil, err
	}
	stream, err := given.open(ctx, n)
	if err != nil {
		return nil, err
	}
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	digest := sha256.Sum256(sent)
	back := sha256.New()
	var came int64
	var reading, writing error
	if given["first"] == "read" {
		came, reading = io.Copy(back, stream)
	}
	_, writing = stream.Write(sent)
	if given["end"] == "reset" {
		_, _ = stream.Read(make([]byte, 1))
		_ = stream.Reset()
		return object{"sent": hex.EncodeToString(digest[:])}, writing
	}
	writing = errors.Join(writing, stream.CloseWrite())
	if given["first"] != "read" {
		came, reading = io.Copy(back, stream)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	_ = stream.Close()
	return object{
		"sent": hex.EncodeToString(digest[:]), "bytes": came, "sha256": hex.EncodeToString(back.Sum(nil)),
		"reset": reading != nil || writing != nil,
	}, nil
}

// manyStreams has so many open at once; each gets a byte back.
func manyStreams(ctx context.Context, n *node, given arguments) (any, error) {
	count, err := given.count("count", maxStreams)
	if err != nil {
		return nil, err
	}
	streams := []network.Stream{}
	for range count {
		stream, err := given.open(ctx, n)
		if err != nil {
			return nil, err
		}
		streams = append(streams, stream)
		if _, err := stream.Write([]byte{byte(len(streams))}); err != nil {
			return nil, err
		}
	}
	for at, stream := range streams {
		if err := stream.CloseWrite(); err != nil {
			return nil, err
		}
		back, err := io.ReadAll(io.LimitReader(stream, 2))
		if err != nil {
			return nil, err
		}
		if len(back) != 1 || back[0] != byte(at+1) {
			return nil, fmt.Errorf("stream %d got %v back", at, back)
		}
		_ = stream.Close()
	}
	return object{"count": count}, nil
}

func release(context.Context, *node, arguments) (any, error) {
	released.Lock()
	defer released.Unlock()
	close(released.now)
	released.now = make(chan struct{})
	return object{}, nil
}

func perf(ctx context.Context, n *node, given arguments) (any, error) {
	upload, err := given.count("upload", 1<<40)
	if err != nil {
		return nil, err
	}
	download, err := given.count("download", 1<<40)
	if err != nil {
		return nil, err
	}
	given["protocol"] = perfID
	stream, err := given.open(ctx, n)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	head := binary.BigEndian.AppendUint64(nil, uint64(download))
	if _, err := stream.Write(head); err != nil {
		return nil, err
	}
	if err := errors.Join(writeZeros(stream, int64(upload)), stream.CloseWrite()); err != nil {
		return nil, err
	}
	first, err := io.ReadAtLeast(stream, make([]byte, 1), 1)
	if err != nil && !(download == 0 && errors.Is(err, io.EOF)) {
		return nil, err
	}
	turned := time.Now()
	rest, err := io.Copy(io.Discard, stream)
	if err != nil {
		return nil, err
	}
	if int64(first)+rest != int64(download) {
		return nil, fmt.Errorf("%d of %d bytes came", int64(first)+rest, download)
	}
	_ = stream.Close()
	return object{"upload": turned.Sub(start).Seconds(), "download": time.Since(turned).Seconds()}, nil
}

// opens opens, gets one byte back, and closes, one stream after the other.
func opens(ctx context.Context, n *node, given arguments) (any, error) {
	count, err := given.count("count", maxCount)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for range count {
		stream, err := given.open(ctx, n)
		if err != nil {
			return nil, err
		}
		if _, err := stream.Write([]byte{1}); err != nil {
			return nil, err
		}
		if err := stream.CloseWrite(); err != nil {
			return nil, err
		}
		if _, err := io.ReadAll(stream); err != nil {
			return nil, err
		}
		_ = stream.Close()
	}
	return object{"seconds": time.Since(start).Seconds()}, nil
}

// messages writes so many of a few bytes each to a sink, until the other side has read the last.
func messages(ctx context.Context, n *node, given arguments) (any, error) {
	count, err := given.count("count", maxCount)
	if err != nil {
		return nil, err
	}
	given["protocol"] = digestID
	stream, err := given.open(ctx, n)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for range count {
		if _, err := stream.Write([]byte("token")); err != nil {
			return nil, err
		}
	}
	if err := stream.CloseWrite(); err != nil {
		return nil, err
	}
	if _, err := io.ReadAll(stream); err != nil {
		return nil, err
	}
	return object{"seconds": time.Since(start).Seconds()}, stream.Close()
}

// roundTrips has one byte echoed after the other.
func roundTrips(ctx context.Context, n *node, given arguments) (any, error) {
	count, err := given.count("count", maxCount)
	if err != nil {
		return nil, err
	}
	stream, err := given.open(ctx, n)
	if err != nil {
		return nil, err
	}
	took := []float64{}
	back := make([]byte, 1)
	for range count {
		start := time.Now()
		if _, err := stream.Write(back); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(stream, back); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(start))
	}
	sort.Float64s(took)
	return object{"p50": took[len(took)/2]}, stream.Close()
}
