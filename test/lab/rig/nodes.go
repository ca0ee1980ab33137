package rig

import (
	"strings"
)

type node struct {
	name string
	site string
}

var nodes = []node{
	{name: "hassio"}, {name: "remote"},
}

func upper(s string) string { return strings.ToUpper(s) }

func (r *Rig) nodeSteps(n node) []step { return nil }

func (r *Rig) machinePart(n node) part { return part{} }
