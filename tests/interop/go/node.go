package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	"github.com/multiformats/go-multiaddr"
)

const (
	kadID    = "/ipfs/kad/1.0.0"
	mdnsName = "_p2p._udp" // of the libp2p specification

	relayedTime  = 5 * time.Second // with relay "limited": how long a connection lasts
	relayedBytes = 256 * 1024      // and what it carries each way
	streamIdle   = 60 * time.Second
)

// node is the running peer.
type node struct {
	host host.Host
	dht  *dht.IpfsDHT // nil without the option
	mdns mdns.Service // nil without the option
	told identified
}

// anything lets every record in, whatever its key: those of a Fabstir node are not paths as go-libp2p's own are.
type anything struct{}

func (anything) Validate(string, []byte) error        { return nil }
func (anything) Select(string, [][]byte) (int, error) { return 0, nil }
func (n *node) HandlePeerFound(found peer.AddrInfo) {
	addresses := []string{}
	for _, address := range found.Addrs {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", address, found.ID))
	}
	send(object{"event": "mdns", "peerId": found.ID.String(), "addresses": addresses})
}

// newNode makes the peer that listens nowhere yet: events are watched before anybody can come.
func newNode(ctx context.Context, given *options) (*node, error) {
	settings := []libp2p.Option{
		libp2p.NoTransports,
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(quic.NewTransport),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}), // every test's peers share 127.0.0.1
		libp2p.Ping(given.has(pingID)),
		libp2p.EnableRelay(), // as a client: it can dial and be dialled through one
	}
	if given.WebCertificate == "" {
		settings = append(settings, libp2p.Transport(websocket.New))
	} else {
		pair, err := tls.LoadX509KeyPair(given.WebCertificate, given.WebKey)
		if err != nil {
			return nil, fmt.Errorf("webCertificate: %w", err)
		}
		inside := websocket.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})
		settings = append(settings, libp2p.Transport(websocket.New, inside))
	}
	if !given.HolePunching {
		settings = append(settings, libp2p.NoListenAddrs)
	}
	for _, name := range given.Security {
		if name == "tls" {
			settings = append(settings, libp2p.Security(libp2ptls.ID, libp2ptls.New))
		} else {
			settings = append(settings, libp2p.Security(noise.ID, noise.New))
		}
	}
	key, err := given.key()
	if err != nil {
		return nil, err
	}
	if key != nil {
		settings = append(settings, libp2p.Identity(key))
	}
	if given.AgentVersion != "" {
		settings = append(settings, libp2p.UserAgent(given.AgentVersion))
	}
	if given.ProtocolVersion != "" {
		settings = append(settings, libp2p.ProtocolVersion(given.ProtocolVersion))
	}
	if given.Relay == "server" {
		settings = append(settings, libp2p.EnableRelayService(relay.WithInfiniteLimits()), libp2p.ForceReachabilityPublic())
	}
	if given.Relay == "limited" {
		limit := relay.WithLimit(&relay.RelayLimit{Duration: relayedTime, Data: relayedBytes})
		settings = append(settings, libp2p.EnableRelayService(limit), libp2p.ForceReachabilityPublic())
	}
	if len(given.RelayVia) > 0 {
		relays := []peer.AddrInfo{}
		for _, text := range given.RelayVia {
			info, err := peer.AddrInfoFromString(text)
			if err != nil {
				return nil, fmt.Errorf("relayVia: %w", err)
			}
			relays = append(relays, *info)
		}
		settings = append(settings, libp2p.EnableAutoRelayWithStaticRelays(relays), libp2p.ForceReachabilityPrivate())
	}
	if given.HolePunching {
		// before it dials its relay: a dial has the port that is listened on, if any is
		settings = append(settings, libp2p.EnableHolePunching(), libp2p.ListenAddrStrings(given.Listen...))
	}
	if given.AutoNAT == "server" {
		settings = append(settings, libp2p.EnableNATService(), libp2p.EnableAutoNATv2(), libp2p.ForceReachabilityPublic(),
			libp2p.AutoNATServiceRateLimit(0, 1000, time.Minute))
	}
	if given.AutoNAT == "client" {
		settings = append(settings, libp2p.EnableAutoNATv2())
	}
	made, err := libp2p.New(settings...)
	if err != nil {
		return nil, err
	}
	n := &node{host: made}
	n.told.by = map[peer.ID]object{}
	for _, name := range []string{identifyID, identifyPushID} {
		if !given.has(name) {
			made.RemoveStreamHandler(protocol.ID(name))
		}
	}
	for _, name := range given.Protocols {
		if name != identifyID && name != identifyPushID && name != pingID {
			made.SetStreamHandler(protocol.ID(name), serving(name))
		}
	}
	if given.DHT != "" {
		mode := dht.ModeClient
		if given.DHT == "server" {
			mode = dht.ModeServer
		}
		// The prefix only switches off the checks for the public network: the protocol is kadID.
		n.dht, err = dht.New(ctx, made, dht.Mode(mode), dht.ProtocolPrefix("/fabstir-interop"),
			dht.V1ProtocolOverride(kadID), dht.Validator(anything{}))
		if err != nil {
			return nil, err
		}
	}
	if err := n.watch(ctx); err != nil {
		return nil, err
	}
	for _, text := range given.Listen {
		if given.HolePunching {
			break
		}
		address, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		if err := made.Network().Listen(address); err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	if given.MDNS {
		n.mdns = mdns.NewMdnsService(made, mdnsName, n)
		if err := n.mdns.Start(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// watch turns the host's events into ours.
func (n *node) watch(ctx context.Context) error {
	kinds := []any{
		new(event.EvtPeerConnectednessChanged), new(event.EvtPeerIdentificationCompleted),
		new(event.EvtLocalReachabilityChanged),
	}
	subscription, err := n.host.EventBus().Subscribe(append(kinds, watchedToo...))
	if err != nil {
		return err
	}
	go func() {
		defer subscription.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case happened := <-subscription.Out():
				n.happened(happened)
			}
		}
	}()
	return nil
}

func (n *node) happened(what any) {
	switch what := what.(type) {
	case event.EvtPeerConnectednessChanged:
		switch what.Connectedness {
		case network.Connected, network.Limited:
			send(object{"event": "connect", "peerId": what.Peer.String()})
		case network.NotConnected:
			send(object{"event": "disconnect", "peerId": what.Peer.String()})
		}
	case event.EvtPeerIdentificationCompleted:
		told := n.told.learn(what)
		happened := object{"event": "identify"}
		for name, value := range told {
			happened[name] = value
		}
		send(happened)
	case event.EvtLocalReachabilityChanged:
		send(object{"event": "reachability", "reachability": what.Reachability.String()})
	default:
		if message, ok := checked(what); ok {
			send(message)
		}
	}
}

func (n *node) addresses() []string {
	addresses := []string{}
	for _, address := range n.host.Addrs() {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", address, n.host.ID()))
	}
	return addresses
}

func (n *node) close() {
	if n.mdns != nil {
		_ = n.mdns.Close()
	}
	if n.dht != nil {
		_ = n.dht.Close()
	}
	if err := n.host.Close(); err != nil {
		complain("stop: %v", err)
	}
}
