package zfstest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// object is anything zfs list can print.
type object struct {
	name string
	kind string
	prop func(name string) (value, source string)
	set  map[string]string // local properties
	recv map[string]string
}

func (p *Pool) objects(d *dataset, kinds map[string]bool) []object {
	var os []object
	if kinds[d.kind()] {
		os = append(os, p.datasetObject(d))
	}
	if kinds["snapshot"] {
		for _, s := range d.snapshots {
			os = append(os, p.snapshotObject(s))
		}
	}
	if kinds["bookmark"] {
		for _, b := range d.bookmarks {
			os = append(os, bookmarkObject(d, b))
		}
	}
	return os
}

func (p *Pool) datasetObject(d *dataset) object {
	return object{d.name, d.kind(), func(n string) (string, string) { return p.property(d, n) }, d.local, d.received}
}

func (p *Pool) snapshotObject(s *snapshot) object {
	return object{s.fullName(), "snapshot", func(n string) (string, string) { return p.snapshotProperty(s, n) }, s.local, nil}
}

func (p *Pool) receivingObject(name string, d *dataset) object {
	return object{name, d.kind(), func(prop string) (string, string) {
		if prop == "creation" {
			return strconv.FormatInt(d.partial.began.Unix(), 10), "-"
		}
		return p.property(d, prop)
	}, nil, nil}
}

func bookmarkObject(d *dataset, b *bookmark) object {
	return object{d.name + "#" + b.name, "bookmark",
		func(n string) (string, string) { return bookmarkProperty(d, b, n) }, nil, nil}
}

// find resolves one operand without going below it.
func (p *Pool) find(name string) (object, *failure) {
	if f := p.suspended(name); f != nil {
		return object{}, f
	}
	switch dataset, rest, _ := strings.Cut(name, "#"); {
	case strings.Contains(name, "@"):
		if s := p.snapshot(name); s != nil {
			return p.snapshotObject(s), nil
		}
	case rest != "":
		d := p.datasets[dataset]
		if d == nil {
			return object{}, notFound(dataset)
		}
		if b := d.bookmark(rest); b != nil {
			return bookmarkObject(d, b), nil
		}
		return object{}, fail("cannot open '%s': no such pool or dataset", name)
	default:
		if d := p.datasets[name]; d != nil {
			return p.datasetObject(d), nil
		}
		// What an increment is received into, hidden from lists.
		d := p.datasets[parentOf(name)]
		if d != nil && strings.HasSuffix(name, "/%recv") && d.partial != nil && !d.partial.fresh {
			return p.receivingObject(name, d), nil
		}
	}
	return object{}, notFound(name)
}

// choose is the common part of list and get: operands, types and depth. What
// fails does not keep the other operands from being chosen.
func (p *Pool) choose(f flags, operands []string) ([]object, *failure) {
	kinds := map[string]bool{}
	for k := range strings.SplitSeq(f.value["t"], ",") {
		if k == "all" {
			kinds["filesystem"], kinds["volume"], kinds["snapshot"], kinds["bookmark"] = true, true, true, true
		}
		kinds[k] = true
	}
	if f.value["t"] == "" {
		kinds["filesystem"], kinds["volume"] = true, true
	}
	depth := 0
	if f.set["r"] {
		depth = 1 << 20
	}
	if len(operands) == 0 {
		operands = slices.Sorted(maps.Keys(p.pools))
		depth = 1 << 20
	}
	if v, ok := f.value["d"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, usage(fail("invalid depth"))
		}
		depth = n
	}
	var os []object
	var failed *failure
	for _, name := range operands {
		o, missing := p.find(name)
		if missing != nil {
			failed = failed.and(missing)
			continue
		}
		if o.kind == "snapshot" || o.kind == "bookmark" || depth == 0 {
			if !kinds[o.kind] && f.value["t"] != "" {
				failed = failed.and(fail("cannot open '%s': operation not applicable to datasets of this type", name))
				continue
			}
			os = append(os, o)
			continue
		}
		for _, d := range p.below(name) {
			level := strings.Count(d.name, "/") - strings.Count(name, "/")
			for _, o := range p.objects(d, kinds) {
				own := level
				if o.kind == "snapshot" || o.kind == "bookmark" {
					own++
				}
				if own <= depth {
					os = append(os, o)
				}
			}
		}
	}
	return os, failed
}

func (p *Pool) list(args []string, out io.Writer) *failure {
	f, failed := parse(args, "Hpr", "todsS")
	if failed != nil {
		return failed
	}
	os, failed := p.choose(f, f.operands)
	columns := strings.Split(f.value["o"], ",")
	for _, o := range os {
		values := make([]string, len(columns))
		for i, c := range columns {
			values[i], _ = o.prop(c)
		}
		fmt.Fprintln(out, strings.Join(values, "\t"))
	}
	return failed
}

func (p *Pool) get(args []string, out io.Writer) *failure {
	f, failed := parse(args, "Hpr", "tods")
	if failed != nil {
		return failed
	}
	if len(f.operands) == 0 {
		return usage(fail("missing property argument"))
	}
	if len(f.operands) > 1 && !f.set["r"] {
		// zfs get takes any kind of operand.
		f.value["t"] = ""
	}
	os, failed := p.choose(f, f.operands[1:])
	columns := strings.Split(f.value["o"], ",")
	var sources []string
	if f.value["s"] != "" {
		sources = strings.Split(f.value["s"], ",")
	}
	for _, o := range os {
		names := strings.Split(f.operands[0], ",")
		if f.operands[0] == "all" {
			set := maps.Clone(o.set)
			if set == nil {
				set = map[string]string{}
			}
			maps.Copy(set, o.recv)
			names = slices.Sorted(maps.Keys(set))
		}
		for _, n := range names {
			if _, known := natives[n]; !known && !isUser(n) && !slices.Contains(computed, n) {
				return usage(fail("bad property list: invalid property '%s'", n))
			}
			value, source := o.prop(n)
			if word, _, _ := strings.Cut(source, " "); sources != nil && !slices.Contains(sources, word) {
				continue
			}
			row := map[string]string{"name": o.name, "property": n, "value": value, "source": source}
			cells := make([]string, len(columns))
			for i, c := range columns {
				cells[i] = row[c]
			}
			fmt.Fprintln(out, strings.Join(cells, "\t"))
		}
	}
	return failed
}

func (p *Pool) zpoolList(args []string, out io.Writer) *failure {
	if _, failed := parse(args, "Hp", "o"); failed != nil {
		return failed
	}
	for _, n := range slices.Sorted(maps.Keys(p.pools)) {
		v := p.pools[n]
		health := "ONLINE"
		if v.health != "" {
			health = v.health
		}
		if v.suspended {
			health = "SUSPENDED"
		}
		size := v.size
		if size == 0 {
			size = v.free + p.used(p.datasets[n])
		}
		fmt.Fprintf(out, "%s\t%s\t%d\t%d\n", n, health, size, v.free)
	}
	return nil
}

// features that OpenZFS 2.1 knows and transfers have to do with.
var features = []string{
	"extensible_dataset", "bookmarks", "large_blocks", "embedded_data", "lz4_compress", "hole_birth", "bookmark_v2",
	"bookmark_written", "zstd_compress", "large_dnode", "encryption",
}

func (p *Pool) zpoolGet(args []string, out io.Writer) *failure {
	f, failed := parse(args, "Hp", "o")
	if failed != nil {
		return failed
	}
	if len(f.operands) == 2 && f.operands[0] == "guid,health,multihost,cachefile" {
		return p.zpoolState(f.operands[1], out)
	}
	if len(f.operands) != 2 || f.operands[0] != "all" {
		return usage(fail("missing property argument"))
	}
	v := p.pools[f.operands[1]]
	if v == nil {
		return fail("cannot open '%s': no such pool", f.operands[1])
	}
	fmt.Fprintf(out, "size\t%d\nhealth\tONLINE\n", v.size)
	known := slices.Clone(features)
	for name := range v.features {
		if !slices.Contains(known, name) {
			known = append(known, name)
		}
	}
	for _, name := range known {
		state, set := v.features[name]
		switch {
		case !set:
			state = "enabled"
		case state == "":
			continue
		}
		fmt.Fprintf(out, "feature@%s\t%s\n", name, state)
	}
	return nil
}

func (p *Pool) holds(args []string, out io.Writer) *failure {
	f, failed := parse(args, "Hr", "")
	if failed != nil {
		return failed
	}
	for _, name := range f.operands {
		s, missing := p.openSnapshot(name)
		if missing != nil {
			failed = failed.and(missing)
			continue
		}
		for _, tag := range slices.Sorted(maps.Keys(s.holds)) {
			fmt.Fprintf(out, "%s\t%s\t%s\n", name, tag, s.holds[tag].UTC().Format(holdTime))
		}
	}
	return failed
}

// holdTime is how zfs holds prints a time.
const holdTime = "Mon Jan _2 15:04 2006"
