package vm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

func TestMasterBootRecord(t *testing.T) {
	t.Parallel()
	mbr, err := masterBootRecord(8 << 30)
	require.NoError(t, err)
	require.Len(t, mbr, 512)
	assert.Equal(t, []byte{0x55, 0xaa}, mbr[510:])
	assert.Equal(t, byte(zfsPartition), mbr[450], "the partition's type")
	first, length := binary.LittleEndian.Uint32(mbr[454:]), binary.LittleEndian.Uint32(mbr[458:])
	assert.Equal(t, uint32(8<<30/512), first+length, "the partition ends where the disk does")
	assert.Equal(t, make([]byte, 48), mbr[462:510], "there is one partition")
	for name, size := range map[string]int64{"too small": 1 << 20, "too large": 3 << 40} {
		_, err := masterBootRecord(size)
		assert.Error(t, err, name)
	}
}

func TestMakePoolDisk_LeavesADiskThatExistsAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pool.img")
	require.NoError(t, makePoolDisk(path, 1))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, int64(1<<30), info.Size())
	require.NoError(t, os.WriteFile(path, []byte("a pool"), 0o600))
	require.NoError(t, makePoolDisk(path, 1))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "a pool", string(data))
}

func TestCommandLine_AShellReadsExactlyTheArguments(t *testing.T) {
	t.Parallel()
	argv := []string{"plain", "", "two words", "it's", `"$HOME" \n`, "*", "; reboot", "new\nline", "-n", "'", "ü"}
	var want bytes.Buffer
	for _, arg := range argv {
		want.WriteString(arg + "\x00")
	}
	got, err := exec.Command("sh", "-c", "printf '%s\\0' "+commandLine(argv)).Output()
	require.NoError(t, err)
	assert.Equal(t, want.String(), string(got))
}

func TestKeys(t *testing.T) {
	t.Parallel()
	m := Machine{Name: "hassio", Dir: t.TempDir()}
	require.NoError(t, m.makeKeys())
	first, err := m.readKeys()
	require.NoError(t, err)
	require.NoError(t, m.makeKeys())
	again, err := m.readKeys()
	require.NoError(t, err)
	assert.Equal(t, first, again, "keys are made once")
	assert.NotEqual(t, first.client.PublicKey(), first.host)
}

func TestDropbearKey_IsTheKindAndTheKeyAfterTheirLengths(t *testing.T) {
	t.Parallel()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	want := append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40"), key...)
	assert.Equal(t, want, dropbearKey(key))
}

func TestMachine_Guest_IsToldItsNameAndPools(t *testing.T) {
	t.Parallel()
	m := Machine{
		Name: "remote", Dir: filepath.Join(t.TempDir(), "remote"),
		Guest: guestcfg.Config{PodSubnet: "10.78.2.0/24"},
		Disks: []Disk{{Pool: "backup", SizeGB: 1, Datasets: []string{"backup/replica"}}},
	}
	config, err := json.Marshal(m.guest())
	require.NoError(t, err)
	assert.JSONEq(t, `{"hostname": "remote", "link": {}, "podSubnet": "10.78.2.0/24",
		"pools": [{"name": "backup", "datasets": ["backup/replica"]}]}`, string(config))
}

func TestMachine_Prepare_RefusesFilesOutsideTheGuestsFolder(t *testing.T) {
	t.Parallel()
	m := Machine{Name: "remote", Dir: t.TempDir(), Files: map[string]string{"../escape": os.Args[0]}}
	require.ErrorContains(t, m.Prepare(t.Context()), `"../escape"`)
}

func TestMachine_Arguments(t *testing.T) {
	t.Parallel()
	m := Machine{
		Name: "hassio", Dir: "/rig/a,b", CPUs: 2, MemoryMB: 1024, Kernel: "k", Initrd: "i", Root: "r",
		Disks:    []Disk{{Pool: "znvm", SizeGB: 1}},
		Shared:   []SharedDisk{{Serial: "site-a", File: "/rig/site-a.img", SizeGB: 1}},
		SSHPort:  20022,
		Forwards: []Forward{{HostPort: 20001, GuestPort: 7443}},
		Link:     Link{LocalPort: 0x5001, RemotePort: 0x5002},
	}
	line := strings.Join(m.arguments(), " ")
	for _, want := range []string{
		"file=/rig/a,,b/pool-znvm.img",
		"serial=pool-znvm",
		"file=/rig/site-a.img,cache=unsafe,discard=unmap,file.locking=off",
		"serial=site-a,share-rw=on",
		"hostfwd=tcp:127.0.0.1:20022-:22,hostfwd=tcp:127.0.0.1:20001-:7443",
		"local.port=20481,remote.type=inet,remote.host=127.0.0.1,remote.port=20482",
		"mac=52:54:00:01:50:01",
	} {
		assert.Contains(t, line, want)
	}
	m.Link = Link{}
	assert.NotContains(t, strings.Join(m.arguments(), " "), "dgram")
}

func TestMachine_Progress(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, console string
		reached       bool
		fatal         string
	}{
		{name: "nothing is reached before the console exists"},
		{name: "another stage is not the one", console: "lab: stage pools 3.1s\r\n"},
		{name: "the stage is found among other output", reached: true,
			console: "[    0.1] hello\r\nlab: stage pools 3.1s\r\nlab: stage ready 9.0s\r\n"},
		{name: "a service's end is no stage", console: "lab: kubelet ended at 3s: lab: stage ready\r\n"},
		{name: "what was fatal is told", console: "lab: fatal: no pool\r\n", fatal: "no pool"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := Machine{Dir: t.TempDir()}
			if tt.console != "" {
				require.NoError(t, os.WriteFile(m.Console(), []byte(tt.console), 0o600))
			}
			reached, fatal := m.progress(guestcfg.StageReady)
			assert.Equal(t, tt.reached, reached)
			assert.Equal(t, tt.fatal, fatal)
		})
	}
}

func TestMachine_Exec(t *testing.T) {
	t.Parallel()
	m := Machine{Name: "hassio", Dir: t.TempDir()}
	require.NoError(t, m.makeKeys())
	k, err := m.readKeys()
	require.NoError(t, err)
	host, err := readKey(filepath.Join(m.keyDir(), "host"))
	require.NoError(t, err)
	m.SSHPort = serveSSH(t, host, k.client.PublicKey())

	var out bytes.Buffer
	code, err := m.Exec(t.Context(), []string{"exit", "3"}, Streams{In: strings.NewReader("in"), Out: &out})
	require.NoError(t, err)
	assert.Equal(t, 3, code)
	assert.Equal(t, "'exit' '3' < in", out.String())

	stranger := Machine{Name: "hassio", Dir: t.TempDir(), SSHPort: m.SSHPort}
	require.NoError(t, stranger.makeKeys())
	_, err = stranger.Exec(t.Context(), []string{"true"}, Streams{})
	require.ErrorContains(t, err, "host key mismatch")
}

// serveSSH answers one command line after the other with itself and what it
// reads, and exit status 3. It returns its port.
func serveSSH(t *testing.T, host ed25519.PrivateKey, client ssh.PublicKey) int {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(host)
	require.NoError(t, err)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), client.Marshal()) {
				return nil, os.ErrPermission
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answer(conn, config)
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

func answer(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var command struct{ Line string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			var in bytes.Buffer
			_, _ = in.ReadFrom(channel)
			_, _ = channel.Write([]byte(command.Line + " < " + in.String()))
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{3}))
			_ = channel.Close()
			break
		}
	}
}
