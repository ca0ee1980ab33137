package zfstest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A stream is magic, a header (length and JSON), records (length, CRC, bytes)
// that make up the payload, and an end (length zero, SHA-256 of the whole
// payload, also that before a resume).
var magic = []byte("ZFSTEST1")

const recordSize = 4 << 10

// header describes a stream, and a receive that has begun.
type header struct {
	To         uint64 `json:"to"`
	ToName     string `json:"toName"` // full name on the sender
	From       uint64 `json:"from,omitempty"`
	Created    int64  `json:"created"`
	Volume     bool   `json:"volume,omitempty"`
	VolSize    string `json:"volSize,omitempty"`
	Clone      bool   `json:"clone,omitempty"`  // the base is the origin
	Cipher     string `json:"cipher,omitempty"` // of a raw stream
	ToIV       uint64 `json:"toIV,omitempty"`   // of a raw stream, as fromIV
	FromIV     uint64 `json:"fromIV,omitempty"`
	Compressed bool   `json:"compressed,omitempty"`
	Embedded   bool   `json:"embedded,omitempty"`
	Large      bool   `json:"large,omitempty"`
	Size       int    `json:"size"`             // of the payload
	Resume     int    `json:"resume,omitempty"` // payload before this point is there already
	Resumes    bool   `json:"resumes,omitempty"`
}

// changes encodes what turns the content a in b.
func changes(a, b content) []byte {
	size := 0
	for name, data := range b {
		size += len(name) + len(data) + 1 + 2*binary.MaxVarintLen64
	}
	buf := make([]byte, 0, size)
	put := func(op byte, name string, data []byte) {
		buf = append(buf, op)
		for _, field := range [][]byte{[]byte(name), data} {
			buf = binary.AppendUvarint(buf, uint64(len(field)))
			buf = append(buf, field...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if old, ok := a[name]; !ok || !bytes.Equal(old, b[name]) {
			put('+', name, b[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			put('-', name, nil)
		}
	}
	return buf
}

// apply is the inverse of changes. What it returns is part of the payload.
func apply(a content, payload []byte) (content, error) {
	b := content{}
	maps.Copy(b, a)
	for len(payload) > 0 {
		op := payload[0]
		payload = payload[1:]
		var fields [2][]byte
		for i := range fields {
			n, read := binary.Uvarint(payload)
			if read <= 0 || n > uint64(len(payload)-read) {
				return nil, errors.New("damaged payload")
			}
			end := read + int(n)
			fields[i], payload = payload[read:end:end], payload[end:]
		}
		if op == '-' {
			delete(b, string(fields[0]))
		} else {
			b[string(fields[0])] = fields[1]
		}
	}
	return b, nil
}

// token encodes a partial receive in the outer form of a resume token.
func (pt *partial) token() string {
	h := pt.header
	h.Resume, h.Resumes = len(pt.payload), true
	js, _ := json.Marshal(h)
	return fmt.Sprintf("1-%x-%x-%s", crc32.ChecksumIEEE(js), len(js), hex.EncodeToString(js))
}

func parseToken(token string) (header, *failure) {
	var h header
	parts := strings.Split(token, "-")
	if len(parts) != 4 || parts[0] != "1" {
		return h, &failure{255, "cannot resume send: resume token is corrupt (invalid format)\n"}
	}
	js, err := hex.DecodeString(parts[3])
	if err != nil || parts[1] != strconv.FormatUint(uint64(crc32.ChecksumIEEE(js)), 16) || json.Unmarshal(js, &h) != nil {
		return h, &failure{255, "cannot resume send: resume token is corrupt (incorrect checksum)\n"}
	}
	return h, nil
}

// outgoing is a stream that was decided on.
type outgoing struct {
	snapshot *snapshot
	from     string // as it was named, "" for a full stream
	header   header
	payload  []byte
}

// plan decides what to send. info gets the contents of a token.
func (p *Pool) plan(f flags, info io.Writer) (*outgoing, *failure) {
	verbose := f.set["v"]
	if token, ok := f.value["t"]; ok {
		h, failed := parseToken(token)
		if failed != nil {
			return nil, failed
		}
		if verbose {
			fmt.Fprintf(info, "resume token contents:\nnvlist version: 0\n")
			if h.From != 0 {
				fmt.Fprintf(info, "\tfromguid = %#x\n", h.From)
			}
			fmt.Fprintf(info, "\tobject = 0x2\n\toffset = %#x\n\tbytes = %#x\n\ttoguid = %#x\n\ttoname = %s\n", h.Resume, h.Resume, h.To, h.ToName)
			for _, flag := range []struct {
				on   bool
				name string
			}{{h.Large, "largeblockok"}, {h.Embedded, "embedok"}, {h.Compressed, "compressok"}, {h.Cipher != "", "rawok"}} {
				if flag.on {
					fmt.Fprintf(info, "\t%s = 1\n", flag.name)
				}
			}
		}
		s := p.snapshot(h.ToName)
		if s == nil {
			return nil, &failure{255, fmt.Sprintf("cannot resume send: '%s' used in the initial send no longer exists\n", h.ToName)}
		}
		if s.guid != h.To {
			return nil, &failure{255, fmt.Sprintf("cannot resume send: '%s' is no longer the same snapshot used in the initial send\n", h.ToName)}
		}
		base, from, ok := content(nil), "", h.From == 0
		if !ok {
			base, from, ok = p.baseByGUID(s, h.From)
		}
		if !ok && p.hasGUID(poolOf(h.ToName), h.From) {
			return nil, fail("warning: cannot send '%s': Invalid cross-device link", h.ToName)
		}
		if !ok {
			return nil, &failure{255, fmt.Sprintf("cannot resume send: incremental source %#x no longer exists\n", h.From)}
		}
		payload := changes(base, s.content)
		h.Resume = min(h.Resume, len(payload))
		return &outgoing{s, from, h, payload}, p.sendable(s, h.Cipher != "")
	}
	if len(f.operands) != 1 {
		return nil, usage(fail("missing snapshot argument"))
	}
	s, failed := p.openSnapshot(f.operands[0])
	if failed != nil {
		return nil, failed
	}
	h := header{To: s.guid, ToName: s.fullName(), Created: s.created.Unix(), Volume: s.ds.volume, VolSize: s.ds.local["volsize"]}
	raw := f.set["w"] && s.ds.crypt != nil
	if raw {
		h.Cipher, h.ToIV = s.ds.crypt.cipher, s.iv
	}
	h.Large = s.ds.large && (f.set["L"] || f.set["w"])
	h.Compressed, h.Embedded = f.set["c"] || f.set["w"], f.set["e"] || f.set["w"] && !raw
	var base content
	from := f.value["i"]
	if from != "" {
		var txg uint64
		dataset, rest, _ := strings.Cut(from, "#")
		if strings.Contains(from, "#") {
			var b *bookmark
			if d := p.datasets[dataset]; d != nil {
				b = d.bookmark(rest)
			}
			if b == nil {
				if verbose {
					return nil, fail("warning: cannot send '%s': No such process", s.fullName())
				}
				return nil, fail("warning: cannot send '%s': incremental source (%s) does not exist", s.fullName(), from)
			}
			base, txg, h.From, h.FromIV = b.content, b.txg, b.guid, b.iv
		} else {
			b, failed := p.openSnapshot(from)
			if failed != nil {
				return nil, failed
			}
			base, txg, h.From, h.FromIV = b.content, b.txg, b.guid, b.iv
			dataset = b.ds.name
		}
		h.Clone = dataset != s.ds.name
		if txg >= s.txg || h.Clone && !p.descends(s.ds, dataset) {
			return nil, fail("warning: cannot send '%s': not an earlier snapshot from the same fs", s.fullName())
		}
	}
	return &outgoing{s, from, h, changes(base, s.content)}, p.sendable(s, h.Cipher != "" || verbose)
}

func (p *Pool) sendable(s *snapshot, raw bool) *failure {
	if s.ds.crypt != nil && !s.ds.crypt.loaded && !raw {
		return fail("warning: cannot send '%s': dataset key must be loaded", s.fullName())
	}
	return nil
}

// descends tells whether d is a clone, of whatever degree, of a dataset.
func (p *Pool) descends(d *dataset, of string) bool {
	for d.origin != nil {
		if d = d.origin.ds; d.name == of {
			return true
		}
	}
	return false
}

// baseByGUID finds the base of a resumed send: a snapshot, else a bookmark.
func (p *Pool) baseByGUID(s *snapshot, guid uint64) (content, string, bool) {
	for d := s.ds; ; d = d.origin.ds {
		if b := d.byGUID(guid); b != nil {
			return b.content, b.fullName(), true
		}
		for _, b := range d.bookmarks {
			if b.guid == guid {
				return b.content, d.name + "#" + b.name, true
			}
		}
		if d.origin == nil {
			return nil, "", false
		}
	}
}

// hasGUID tells whether any snapshot of a pool has a guid.
func (p *Pool) hasGUID(pool string, guid uint64) bool {
	for _, d := range p.below(pool) {
		if d.byGUID(guid) != nil {
			return true
		}
	}
	return false
}

func (p *Pool) send(ctx context.Context, args []string, w io.Writer, info io.Writer) (*failure, error) {
	f, failed := parse(args, "nvPwLce", "it")
	if failed != nil {
		return failed, nil
	}
	p.mu.Lock()
	o, failed := p.plan(f, info)
	if failed != nil {
		p.mu.Unlock()
		return failed, nil
	}
	size := len(o.payload) - o.header.Resume + 312
	if f.set["n"] {
		p.mu.Unlock()
		if o.from == "" {
			fmt.Fprintf(info, "full\t%s\t%d\n", o.header.ToName, size)
		} else {
			fmt.Fprintf(info, "incremental\t%s\t%s\t%d\n", o.from, o.header.ToName, size)
		}
		fmt.Fprintf(info, "size\t%d\n", size)
		return nil, nil
	}
	o.snapshot.sending++
	limit := p.takeCut("send")
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		o.snapshot.sending--
		p.mu.Unlock()
	}()
	if w == nil {
		w = info
	}
	err := o.write(ctx, &limited{w: w, left: limit})
	switch {
	case err == nil:
		return nil, nil
	case errors.Is(err, errKilled):
		return nil, errKilled
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return fail("warning: cannot send '%s': Broken pipe", o.header.ToName), err
	}
}

func (o *outgoing) write(ctx context.Context, w io.Writer) error {
	o.header.Size = len(o.payload)
	js, err := json.Marshal(o.header)
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32(bytes.Clone(magic), uint32(len(js)))
	if _, err := w.Write(append(head, js...)); err != nil {
		return err
	}
	rec := make([]byte, 0, 8+recordSize)
	for rest := range slices.Chunk(o.payload[o.header.Resume:], recordSize) {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec = binary.BigEndian.AppendUint32(rec[:0], uint32(len(rest)))
		rec = binary.BigEndian.AppendUint32(rec, crc32.ChecksumIEEE(rest))
		if _, err := w.Write(append(rec, rest...)); err != nil {
			return err
		}
	}
	sum := sha256.Sum256(o.payload)
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, 0), sum[:]...))
	return err
}

// takeCut returns after how many bytes a command dies, -1 for never.
func (p *Pool) takeCut(verb string) int64 {
	n, ok := p.cuts[verb]
	if !ok {
		return -1
	}
	delete(p.cuts, verb)
	return n
}

// limited dies after a number of bytes.
type limited struct {
	w    io.Writer
	r    io.Reader
	left int64
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left < 0 {
		return l.w.Write(b)
	}
	n := min(int64(len(b)), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, err
	}
	if n < int64(len(b)) {
		return int(n), errKilled
	}
	return int(n), nil
}

func (l *limited) Read(b []byte) (int, error) {
	if l.left < 0 {
		return l.r.Read(b)
	}
	if l.left == 0 {
		return 0, errKilled
	}
	n, err := l.r.Read(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	return n, err
}

func (p *Pool) receive(ctx context.Context, args []string, r io.Reader) (*failure, error) {
	f, failed := parse(args, "suA", "ox")
	if failed != nil {
		return failed, nil
	}
	if len(f.operands) != 1 {
		return usage(fail("missing snapshot argument")), nil
	}
	target := f.operands[0]
	if f.set["A"] {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.abort(target), nil
	}
	p.mu.Lock()
	limit := p.takeCut("receive")
	p.mu.Unlock()
	if r == nil {
		r = strings.NewReader("")
	}
	in := bufio.NewReader(&limited{r: r, left: limit})
	h, failed, err := readHeader(in)
	if failed != nil {
		return failed, err
	}

	p.mu.Lock()
	d, what, done, failed := p.begin(f, target, h)
	p.mu.Unlock()
	if failed != nil || done {
		if done {
			_, err = io.Copy(io.Discard, in)
		}
		return failed, unlessEOF(err)
	}

	readErr := p.records(ctx, in, d)
	p.mu.Lock()
	defer p.mu.Unlock()
	d.receiving = false
	if readErr == nil {
		return p.commit(f, target, d), nil
	}
	if !f.set["s"] {
		p.drop(d)
	}
	switch {
	case errors.Is(readErr, errFull):
		return fail("cannot receive %s: out of space", what), nil
	case errors.Is(readErr, errQuota):
		return fail("cannot receive %s: destination %s space quota exceeded.", what, d.name), nil
	case errors.Is(readErr, errKilled):
		return nil, errKilled
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case f.set["s"]:
		return fail("cannot receive %s: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\n"+
			"A resuming stream can be generated on the sending system by running:\n    zfs send -t %s",
			what, d.partial.token()), unlessEOF(readErr)
	default:
		return fail("cannot receive %s: incomplete stream", what), unlessEOF(readErr)
	}
}

// unlessEOF is the error of the reader itself, as a Runner returns it.
func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errDamaged) {
		return nil
	}
	return err
}

var (
	errDamaged = errors.New("damaged stream")
	errFull    = errors.New("pool is full")
	errQuota   = errors.New("quota exceeded")
)

func readHeader(r io.Reader) (header, *failure, error) {
	var h header
	head := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return h, fail("cannot receive: failed to read from stream"), unlessEOF(err)
	}
	n := binary.BigEndian.Uint32(head[len(magic):])
	if !bytes.Equal(head[:len(magic)], magic) || n > 1<<16 {
		return h, fail("cannot receive: invalid stream (bad magic number)"), nil
	}
	js := make([]byte, n)
	if _, err := io.ReadFull(r, js); err != nil {
		return h, fail("cannot receive: failed to read from stream"), unlessEOF(err)
	}
	if err := json.Unmarshal(js, &h); err != nil || h.Size < 0 || h.Size > 1<<30 {
		return h, fail("cannot receive: invalid stream (bad magic number)"), nil
	}
	return h, nil, nil
}

// begin does what a receive does before it reads data. what names the kind of
// stream in messages; done means that the snapshot is there already.
func (p *Pool) begin(f flags, target string, h header) (d *dataset, what string, done bool, failed *failure) {
	name, snap, _ := strings.Cut(target, "@")
	if snap == "" {
		_, snap, _ = strings.Cut(h.ToName, "@")
	}
	origin := ""
	for _, kv := range f.props {
		if kv[0] == "origin" {
			origin = kv[1]
		}
	}
	d = p.datasets[name]
	what = "incremental stream"
	switch {
	case h.Resumes:
		what = "resume stream"
	case h.From == 0, h.Clone, origin != "":
		what = "new filesystem stream"
	}
	no := func(format string, args ...any) (*dataset, string, bool, *failure) {
		return nil, what, false, fail("cannot receive "+what+": "+format, args...)
	}
	for _, kv := range f.props {
		if kv[0] == "origin" {
			continue
		}
		if _, problem := checkProperty(h.Volume, kv[0], kv[1]); problem != "" {
			return no("%s", strings.Replace(problem, "'", "property '", 1))
		}
	}
	if up := p.suspended(name); up != nil {
		failed := p.suspended(parentOf(name))
		failed.stderr += "cannot receive " + what + ": unable to restore to destination\n"
		return nil, what, false, failed
	}
	if h.Resumes {
		if d == nil {
			return no("destination '%s' does not exist", name)
		}
		pt := d.partial
		if pt == nil || d.receiving || pt.header.To != h.To || pt.header.From != h.From || len(pt.payload) != h.Resume {
			return no("kernel modules must be upgraded to receive this stream.")
		}
		d.receiving = true
		return d, what, false, nil
	}
	if what == "incremental stream" {
		switch {
		case d == nil:
			return no("destination '%s' does not exist", name)
		case d.byGUID(h.To) != nil && d.partial == nil:
			return d, what, true, nil
		case d.partial != nil:
			return no("destination %s contains partially-complete state from \"zfs receive -s\".", name)
		case d.snapshot(snap) != nil:
			return nil, what, false, fail("cannot restore to %s@%s: destination already exists", name, snap)
		case d.byGUID(h.From) == nil:
			return no("most recent snapshot of %s does not\nmatch incremental source", name)
		case d.dirtyTXG > d.byGUID(h.From).txg:
			return no("destination %s has been modified\nsince most recent snapshot", name)
		case d.large && !h.Large:
			return no("incremental send stream requires -L (--large-block), to match previous receive.")
		case h.Cipher != "" && d.crypt == nil:
			return no("cannot perform raw receive on top of existing unencrypted dataset")
		case h.Cipher != "" && d.byGUID(h.From).iv != h.FromIV:
			return no("IV set guid mismatch. See the 'zfs receive' man page section\n discussing the limitations of raw encrypted send streams.")
		case h.Cipher == "" && d.crypt != nil && !d.crypt.loaded:
			return no("inherited key must be loaded")
		}
		d.partial = &partial{header: h, began: p.now(), payload: make([]byte, 0, h.Size)}
		d.receiving = true
		return d, what, false, nil
	}
	if d != nil {
		return no("destination '%s' exists\nmust specify -F to overwrite it", name)
	}
	parent := p.datasets[parentOf(name)]
	if parent == nil {
		return nil, what, false, fail("cannot open '%s': dataset does not exist\ncannot receive %s: unable to restore to destination", parentOf(name), what)
	}
	if p.pools[poolOf(name)].free == 0 {
		return no("out of space")
	}
	if parent.crypt != nil && h.Cipher == "" {
		switch {
		case !parent.crypt.loaded:
			return no("inherited key must be loaded")
		case h.Embedded:
			return no("kernel modules must be upgraded to receive this stream.")
		}
	}
	var base *snapshot
	if origin != "" {
		if base = p.snapshot(origin); base == nil {
			return nil, what, false, fail("cannot receive: specified origin fs (%s) does not exist", origin)
		}
	} else if h.Clone {
		for _, o := range p.datasets {
			if s := o.byGUID(h.From); s != nil && poolOf(o.name) == poolOf(name) {
				base = s
			}
		}
		if base == nil {
			return nil, what, false, fail("cannot receive: local origin for clone %s does not exist", target)
		}
	}
	d = p.add(name, h.Volume)
	d.large = h.Large
	if h.Cipher != "" {
		d.crypt = &crypt{cipher: h.Cipher, root: d}
	}
	if h.VolSize != "" {
		d.local["volsize"] = h.VolSize
	}
	if base != nil {
		d.origin, d.content = base, base.content
	}
	applyReceived(d, f)
	d.partial = &partial{header: h, fresh: true, began: p.now(), payload: make([]byte, 0, h.Size)}
	d.receiving = true
	return d, what, false, nil
}

// applyReceived sets what -o asks for.
func applyReceived(d *dataset, f flags) {
	for _, kv := range f.props {
		if kv[0] == "origin" {
			continue
		}
		if v, problem := checkProperty(d.volume, kv[0], kv[1]); problem == "" {
			d.local[kv[0]] = v
		}
	}
}

// records reads records in d's partial state. Nothing is locked while it reads.
func (p *Pool) records(ctx context.Context, r io.Reader, d *dataset) error {
	head, record := make([]byte, 4), make([]byte, recordSize)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head)
		if n > recordSize {
			return errDamaged
		}
		sum := make([]byte, 4)
		if n == 0 {
			sum = make([]byte, sha256.Size)
		}
		data := record[:n]
		if _, err := io.ReadFull(r, sum); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if err := p.take(d, sum, data); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// take adds one record, or checks the end.
func (p *Pool) take(d *dataset, sum, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pt := d.partial
	if len(data) == 0 {
		if want := sha256.Sum256(pt.payload); !bytes.Equal(sum, want[:]) {
			return errDamaged
		}
		return nil
	}
	if binary.BigEndian.Uint32(sum) != crc32.ChecksumIEEE(data) {
		return errDamaged
	}
	n := uint64(len(data))
	v := p.pools[poolOf(d.name)]
	if v.free < n {
		return errFull
	}
	for up := d; up != nil; up = p.datasets[parentOf(up.name)] {
		for _, prop := range []string{"quota", "refquota"} {
			limit, err := strconv.ParseUint(up.local[prop], 10, 64)
			if err == nil && limit > 0 && p.used(up)+n > limit && (prop == "quota" || up == d) {
				return errQuota
			}
		}
	}
	v.free -= n
	pt.payload = append(pt.payload, data...)
	return nil
}

// commit makes the snapshot of a receive that got everything.
func (p *Pool) commit(f flags, target string, d *dataset) *failure {
	pt := d.partial
	var base content
	if pt.header.From != 0 {
		base = d.content
		if s := d.byGUID(pt.header.From); s != nil {
			base = s.content
		}
	}
	got, err := apply(base, pt.payload)
	if err != nil {
		p.drop(d)
		return fail("cannot receive: %v", err)
	}
	_, snap, _ := strings.Cut(target, "@")
	if snap == "" {
		_, snap, _ = strings.Cut(pt.header.ToName, "@")
	}
	p.txg++
	d.partial = nil
	d.content, d.dirtyTXG = got, p.txg
	iv := pt.header.ToIV
	if iv == 0 {
		iv = newGUID()
	}
	d.snapshots = append(d.snapshots, &snapshot{
		ds: d, name: snap, guid: pt.header.To, iv: iv, txg: p.txg, created: time.Unix(pt.header.Created, 0),
		local: map[string]string{}, content: got, holds: map[string]time.Time{},
	})
	applyReceived(d, f)
	if pt.fresh && !f.set["u"] {
		p.automount(d.name)
	}
	return p.warn(f, d)
}

// warn says which excluded properties do not apply; that is no failure.
func (p *Pool) warn(f flags, d *dataset) *failure {
	var b strings.Builder
	for _, x := range f.exclude {
		if n, ok := natives[x]; ok && d.volume && n.only == "filesystem" {
			fmt.Fprintf(&b, "Warning: %s: property '%s' does not apply to datasets of this type\n", d.name, x)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return &failure{code: 0, stderr: b.String()}
}

// drop forgets a receive that did not finish.
func (p *Pool) drop(d *dataset) {
	if d.partial == nil {
		return
	}
	p.pools[poolOf(d.name)].free += uint64(len(d.partial.payload))
	if d.partial.fresh {
		delete(p.datasets, d.name)
		p.settle(d.origin)
	}
	d.partial = nil
}

func (p *Pool) abort(name string) *failure {
	d, failed := p.open(name)
	switch {
	case failed != nil:
		return usage(failed)
	case d.partial == nil:
		return fail("'%s' does not have any resumable receive state to abort", name)
	case d.receiving:
		return fail("cannot destroy '%s': dataset is busy", name)
	}
	p.drop(d)
	return nil
}
