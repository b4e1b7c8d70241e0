package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
)

const (
	identifyID     = "/ipfs/id/1.0.0"
	identifyPushID = "/ipfs/id/push/1.0.0"
	pingID         = "/ipfs/ping/1.0.0"
	echoID         = "/fabstir-interop/echo/1.0.0"
)

// options is what the peer is told at its start: ../README.md has the table.
type options struct {
	Listen          []string `json:"listen"`
	AgentVersion    string   `json:"agentVersion"`
	ProtocolVersion string   `json:"protocolVersion"`
	Protocols       []string `json:"protocols"`
	Seed            string   `json:"seed"`
	DHT             string   `json:"dht"`
	MDNS            bool     `json:"mdns"`
	Relay           string   `json:"relay"`
	AutoNAT         string   `json:"autonat"`
	Security        []string `json:"security"`
	RelayVia        []string `json:"relayVia"`
	HolePunching    bool     `json:"holePunching"`
	WebCertificate  string   `json:"webCertificate"`
	WebKey          string   `json:"webKey"`
}

func readOptions(text []byte) (*options, error) {
	given := &options{
		Protocols: []string{identifyID, identifyPushID, pingID, echoID}, Security: []string{"noise"},
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(given); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	for _, mode := range []struct{ name, value, allowed string }{
		{"dht", given.DHT, "server client"}, {"relay", given.Relay, "server limited"}, {"autonat", given.AutoNAT, "server client"},
	} {
		if mode.value != "" && !oneOf(mode.value, mode.allowed) {
			return nil, fmt.Errorf("%q must be one of: %s", mode.name, mode.allowed)
		}
	}
	for _, name := range given.Security {
		if !oneOf(name, "noise tls") {
			return nil, errors.New(`"security" may have "noise" and "tls"`)
		}
	}
	return given, nil
}

func oneOf(value, allowed string) bool {
	for _, word := range bytes.Fields([]byte(allowed)) {
		if string(word) == value {
			return true
		}
	}
	return false
}

func (o *options) has(protocol string) bool {
	for _, name := range o.Protocols {
		if name == protocol {
			return true
		}
	}
	return false
}

// key is nil where the options leave the identity to chance.
func (o *options) key() (crypto.PrivKey, error) {
	if o.Seed == "" {
		return nil, nil
	}
	seed, err := hex.DecodeString(o.Seed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New(`"seed" must be 64 hex digits`)
	}
	return crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
}
