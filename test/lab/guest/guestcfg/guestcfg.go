// Package guestcfg is what the rig tells a guest: one JSON file on a disk that
// the guest mounts read-only. Host and guest share these types.
package guestcfg

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"time"
)

// Where the guest finds what the rig gave it.
const (
	// Dir is where the disk with the rig's files is mounted.
	Dir = "/config"
	// File is the configuration itself.
	File = Dir + "/guest.json"
	// HostKey is the SSH server's key, in dropbear's format.
	HostKey = Dir + "/ssh/host_key"
	// AuthorizedKeys are the keys that may log in as root.
	AuthorizedKeys = Dir + "/ssh/authorized_keys"
)

// Serial numbers of the virtual disks, by which the guest finds them whatever
// order the kernel sees them in. A pool's disk has the pool's name, after
// PoolSerial.
const (
	RootSerial   = "root"
	ConfigSerial = "config"
	PoolSerial   = "pool-"
)

// What the guest writes to its console, for the rig to read: a line per stage,
// StagePrefix, the stage, and the seconds since the kernel started; or
// FatalPrefix and an error, after which the guest powers off.
const (
	StagePrefix = "lab: stage "
	FatalPrefix = "lab: fatal: "
	// StageReady is the last stage: every service is ready.
	StageReady = "ready"
)

// SSHPort is where the guest's SSH server listens.
const SSHPort = 22

// Config is the whole configuration of a guest.
type Config struct {
	Hostname string `json:"hostname"`
	// Hosts adds names to /etc/hosts, by address.
	Hosts map[string][]string `json:"hosts,omitempty"`
	Link  Link                `json:"link"`
	// PodSubnet is the range of this node's pods; empty means that it runs none.
	PodSubnet string `json:"podSubnet,omitempty"`
	Pools     []Pool `json:"pools,omitempty"`
	// Services are started in this order, each once those before it are ready.
	Services []Service `json:"services,omitempty"`
}

// Link is the network between the guests of a rig, beside the one to the host.
// The host is always 10.0.2.2 for a guest.
type Link struct {
	// Address is this guest's, with the length of the prefix: 10.77.0.1/24.
	Address string  `json:"address,omitempty"`
	Routes  []Route `json:"routes,omitempty"`
}

// Route leads to the pods of another node.
type Route struct {
	Destination string `json:"destination"`
	Via         string `json:"via"`
}

// Pool is imported, or created when its disk has none yet.
type Pool struct {
	Name string `json:"name"`
	// Datasets are made when missing, without a mountpoint.
	Datasets []string `json:"datasets,omitempty"`
}

// Service is a program that the guest starts. It is started again when it ends,
// and its output goes to LogFile.
type Service struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	// Env is added to PATH and HOME.
	Env []string `json:"env,omitempty"`
	// Once says that the program is to end, with status 0, before the next
	// service starts. Anything else is fatal.
	Once bool `json:"once,omitempty"`
	// Ready says when the next service may start; nil means at once.
	Ready *Probe `json:"ready,omitempty"`
}

// Probe is met when everything it names is there.
type Probe struct {
	// File exists.
	File string `json:"file,omitempty"`
	// Socket is a Unix socket that accepts connections.
	Socket string `json:"socket,omitempty"`
	// TCP is an address that accepts connections.
	TCP string `json:"tcp,omitempty"`
	// Timeout is when the guest gives up; 0 means two minutes.
	Timeout Duration `json:"timeout,omitzero"`
}

// Duration is written as 90s or 2m.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// LogFile is where a service's output goes, in the guest.
func LogFile(service string) string { return path.Join("/var/log", service+".log") }

// Read reads a configuration file.
func Read(file string) (Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("read %s: %w", file, err)
	}
	return c, nil
}
