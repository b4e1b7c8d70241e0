package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-msgio/pbio"
	"github.com/multiformats/go-multiaddr"
)

const (
	maxEcho      = 64 * 1024 * 1024
	maxIdentify  = 64 * 1024
	maxProviders = 1000
	permanent    = peerstore.PermanentAddrTTL
)

type command func(context.Context, *node, arguments) (any, error)

var commands = map[string]command{
	"dial":             dial,
	"ping":             doPing,
	"identify":         identifyNow,
	"peerInfo":         peerInfo,
	"peers":            peers,
	"echo":             echo,
	"disconnect":       disconnect,
	"addresses":        addresses,
	"dhtAddPeer":       dhtAddPeer,
	"dhtBootstrap":     dhtBootstrap,
	"dhtFindPeer":      dhtFindPeer,
	"dhtFindProviders": dhtFindProviders,
	"dhtGet":           dhtGet,
	"dhtPeers":         dhtPeers,
	"dhtProvide":       dhtProvide,
	"dhtPut":           dhtPut,
	"exchange":         exchange,
	"streams":          manyStreams,
	"release":          release,
	"perf":             perf,
	"opens":            opens,
	"messages":         messages,
	"roundTrips":       roundTrips,
}

// ---------------------------------------------------------------------------------------------------------------------
// arguments

type arguments map[string]any

func (a arguments) text(name string) (string, error) {
	value, ok := a[name].(string)
	if !ok {
		return "", fmt.Errorf("%q must be a string", name)
	}
	return value, nil
}

func (a arguments) bytes(name string) ([]byte, error) {
	text, err := a.text(name)
	if err != nil {
		return nil, err
	}
	value, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no base64: %w", name, err)
	}
	return value, nil
}

func (a arguments) peer() (peer.ID, error) {
	text, err := a.text("peerId")
	if err != nil {
		return "", err
	}
	return peer.Decode(text)
}

// connection is the one that the commands about a connected peer use.
func (a arguments) connection(n *node) (network.Conn, error) {
	id, err := a.peer()
	if err != nil {
		return nil, err
	}
	for _, connection := range n.host.Network().ConnsToPeer(id) {
		if !connection.IsClosed() {
			return connection, nil
		}
	}
	return nil, fmt.Errorf("not connected to %s", id)
}

func (a arguments) addressed() (*peer.AddrInfo, error) {
	text, err := a.text("address")
	if err != nil {
		return nil, err
	}
	return peer.AddrInfoFromString(text)
}

// ---------------------------------------------------------------------------------------------------------------------
// connections

func dial(ctx context.Context, n *node, given arguments) (any, error) {
	target, err := given.addressed()
	if err != nil {
		return nil, err
	}
	force, _ := given["force"].(bool)
	existing := n.host.Network().ConnsToPeer(target.ID)
	if len(existing) > 0 && !force {
		return described(existing[0]), nil
	}
	// The address that was given and no other that is known.
	n.host.Peerstore().ClearAddrs(target.ID)
	n.host.Peerstore().AddAddrs(target.ID, target.Addrs, permanent)
	if force {
		ctx = network.WithForceDirectDial(ctx, "force")
	}
	connection, err := n.host.Network().DialPeer(ctx, target.ID)
	if err != nil {
		return nil, err
	}
	return described(connection), nil
}

func described(connection network.Conn) object {
	state := connection.ConnState()
	direction := "inbound"
	if connection.Stat().Direction == network.DirOutbound {
		direction = "outbound"
	}
	return object{
		"peerId":      connection.RemotePeer().String(),
		"address":     connection.RemoteMultiaddr().String(),
		"direction":   direction,
		"encryption":  orNull(string(state.Security)),
		"multiplexer": orNull(string(state.StreamMultiplexer)),
		"streams":     len(connection.GetStreams()),
	}
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func peers(_ context.Context, n *node, _ arguments) (any, error) {
	all := []object{}
	for _, id := range n.host.Network().Peers() {
		connections := []object{}
		for _, connection := range n.host.Network().ConnsToPeer(id) {
			one := described(connection)
			delete(one, "peerId")
			connections = append(connections, one)
		}
		all = append(all, object{"peerId": id.String(), "connectionCount": len(connections), "connections": connections})
	}
	return all, nil
}

func disconnect(_ context.Context, n *node, given arguments) (any, error) {
	id, err := given.peer()
	if err != nil {
		return nil, err
	}
	closed := len(n.host.Network().ConnsToPeer(id))
	if err := n.host.Network().ClosePeer(id); err != nil {
		return nil, err
	}
	return object{"peerId": id.String(), "closed": closed}, nil
}

func addresses(_ context.Context, n *node, _ arguments) (any, error) {
	return object{"peerId": n.host.ID().String(), "addresses": n.addresses()}, nil
}

func doPing(ctx context.Context, n *node, given arguments) (any, error) {
	connection, err := given.connection(n)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	result, ok := <-ping.Ping(ctx, n.host, connection.RemotePeer())
	if !ok {
		return nil, ctx.Err()
	}
	if result.Error != nil {
		return nil, result.Error
	}
	return object{"rtt": milliseconds(start)}, nil
}

func echo(ctx context.Context, n *node, given arguments) (any, error) {
	asked, ok := given["bytes"].(float64)
	size := int(asked)
	if !ok || float64(size) != asked || size < 0 || size > maxEcho {
		return nil, fmt.Errorf("\"bytes\" must be a whole number from 0 to %d", maxEcho)
	}
	connection, err := given.connection(n)
	if err != nil {
		return nil, err
	}
	name := echoID
	if other, ok := given["protocol"].(string); ok {
		name = other
	}
	sent := make([]byte, size)
	_, _ = rand.Read(sent) // it never fails
	start := time.Now()
	stream, err := n.host.NewStream(network.WithNoDial(ctx, "echo"), connection.RemotePeer(), protocol.ID(name))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()
	failed := make(chan error, 1)
	go func() {
		_, err := stream.Write(sent)
		if err == nil {
			err = stream.CloseWrite()
		}
		failed <- err
	}()
	back, err := io.ReadAll(io.LimitReader(stream, int64(size)+1))
	if err = errors.Join(err, <-failed); err != nil {
		_ = stream.Reset()
		return nil, err
	}
	if len(back) != size {
		_ = stream.Reset()
		return nil, fmt.Errorf("%d bytes went out, %d came back", size, len(back))
	}
	if !bytes.Equal(back, sent) {
		_ = stream.Reset()
		return nil, errors.New("other bytes came back")
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return object{"bytes": size, "ms": milliseconds(start)}, nil
}

func milliseconds(start time.Time) float64 {
	return float64(time.Since(start)) / float64(time.Millisecond)
}

// ---------------------------------------------------------------------------------------------------------------------
// identify

// identified is what peers have told of themselves.
type identified struct {
	mutex sync.Mutex
	by    map[peer.ID]object
}

func (i *identified) learn(what event.EvtPeerIdentificationCompleted) object {
	protocols := []string{}
	for _, name := range what.Protocols {
		protocols = append(protocols, string(name))
	}
	var observed any
	if what.ObservedAddr != nil {
		observed = what.ObservedAddr.String()
	}
	told := object{
		"peerId":           what.Peer.String(),
		"agentVersion":     orNull(what.AgentVersion),
		"protocolVersion":  orNull(what.ProtocolVersion),
		"protocols":        protocols,
		"addresses":        texts(what.ListenAddrs),
		"observedAddr":     observed,
		"signedPeerRecord": what.SignedPeerRecord != nil,
	}
	i.mutex.Lock()
	defer i.mutex.Unlock()
	i.by[what.Peer] = told
	return told
}

func peerInfo(_ context.Context, n *node, given arguments) (any, error) {
	id, err := given.peer()
	if err != nil {
		return nil, err
	}
	n.told.mutex.Lock()
	defer n.told.mutex.Unlock()
	if told, ok := n.told.by[id]; ok {
		return told, nil
	}
	return nil, fmt.Errorf("%s has not been identified", id)
}

// identifyNow asks on a stream of its own: the library asks once a connection and remembers.
func identifyNow(ctx context.Context, n *node, given arguments) (any, error) {
	connection, err := given.connection(n)
	if err != nil {
		return nil, err
	}
	stream, err := n.host.NewStream(network.WithNoDial(ctx, "identify"), connection.RemotePeer(), identifyID)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()
	var message pb.Identify
	if err := pbio.NewDelimitedReader(stream, maxIdentify).ReadMsg(&message); err != nil {
		_ = stream.Reset()
		return nil, err
	}
	told := event.EvtPeerIdentificationCompleted{
		Peer:            connection.RemotePeer(),
		AgentVersion:    message.GetAgentVersion(),
		ProtocolVersion: message.GetProtocolVersion(),
	}
	for _, bytes := range message.GetListenAddrs() {
		address, err := multiaddr.NewMultiaddrBytes(bytes)
		if err != nil {
			return nil, fmt.Errorf("identify: %w", err)
		}
		told.ListenAddrs = append(told.ListenAddrs, address)
	}
	for _, name := range message.GetProtocols() {
		told.Protocols = append(told.Protocols, protocol.ID(name))
	}
	if bytes := message.GetObservedAddr(); len(bytes) > 0 {
		if told.ObservedAddr, err = multiaddr.NewMultiaddrBytes(bytes); err != nil {
			return nil, fmt.Errorf("identify: %w", err)
		}
	}
	result := n.told.learn(told)
	result["signedPeerRecord"] = len(message.GetSignedPeerRecord()) > 0
	return result, nil
}

func texts(addresses []multiaddr.Multiaddr) []string {
	all := []string{}
	for _, address := range addresses {
		all = append(all, address.String())
	}
	return all
}

// ---------------------------------------------------------------------------------------------------------------------
// DHT

var errNoDHT = errors.New("this peer was started without the option dht")

func dhtAddPeer(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	target, err := given.addressed()
	if err != nil {
		return nil, err
	}
	if err := n.host.Connect(ctx, *target); err != nil {
		return nil, err
	}
	if _, err := n.dht.RoutingTable().TryAddPeer(target.ID, true, false); err != nil {
		return nil, err
	}
	return object{"peerId": target.ID.String()}, nil
}

func dhtPeers(_ context.Context, n *node, _ arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	known := []string{}
	for _, id := range n.dht.RoutingTable().ListPeers() {
		known = append(known, id.String())
	}
	return object{"peers": known}, nil
}

func dhtBootstrap(ctx context.Context, n *node, _ arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	select {
	case err := <-n.dht.RefreshRoutingTable():
		return object{}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func dhtFindPeer(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	id, err := given.peer()
	if err != nil {
		return nil, err
	}
	found, err := n.dht.FindPeer(ctx, id)
	if err != nil {
		return nil, err
	}
	return object{"peerId": id.String(), "addresses": texts(found.Addrs)}, nil
}

func dhtPut(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	key, err := given.bytes("key")
	if err != nil {
		return nil, err
	}
	value, err := given.bytes("value")
	if err != nil {
		return nil, err
	}
	return object{}, n.dht.PutValue(ctx, string(key), value)
}

func dhtGet(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	key, err := given.bytes("key")
	if err != nil {
		return nil, err
	}
	value, err := n.dht.GetValue(ctx, string(key))
	if err != nil {
		return nil, err
	}
	return object{"value": base64.StdEncoding.EncodeToString(value)}, nil
}

// contentID wraps the key's bytes, a multihash or not: the DHT takes them out again.
func contentID(given arguments) (cid.Cid, error) {
	key, err := given.bytes("key")
	if err != nil {
		return cid.Undef, err
	}
	return cid.NewCidV1(cid.Raw, key), nil
}

func dhtProvide(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	key, err := contentID(given)
	if err != nil {
		return nil, err
	}
	return object{}, n.dht.Provide(ctx, key, true)
}

func dhtFindProviders(ctx context.Context, n *node, given arguments) (any, error) {
	if n.dht == nil {
		return nil, errNoDHT
	}
	key, err := contentID(given)
	if err != nil {
		return nil, err
	}
	providers := []object{}
	for found := range n.dht.FindProvidersAsync(ctx, key, maxProviders) {
		providers = append(providers, object{"peerId": found.ID.String(), "addresses": texts(found.Addrs)})
	}
	return object{"providers": providers}, ctx.Err()
}
