package report

import "slices"

// Add takes up an object that differs, and counts it.
func (c *Comparison) Add(o ObjectDifference) {
	c.Objects = append(c.Objects, o)
	c.State = Problem
	switch o.Difference {
	case Missing:
		c.Missing++
	case Surplus:
		c.Surplus++
	case Drifted:
		c.Drifted++
	}
}

// Add takes up an object that differed, and counts it.
func (s *Sync) Add(o SyncObject) {
	s.Objects = append(s.Objects, o)
	state := OK
	switch o.Difference {
	case Missing:
		s.Missing++
	case Surplus:
		s.Surplus++
	case Drifted:
		s.Drifted++
	case Conflict:
		s.Conflicts++
		state = Problem
	}
	if o.Done == "" && o.Difference != Conflict {
		state = Warning
		if o.Message != "" && !s.DryRun {
			state = Problem
		}
	}
	s.State = Worse(s.State, state)
}

// Add puts items into a group, which it makes if there is none, and counts them.
func (c *Check) Add(group string, items ...Item) {
	i := slices.IndexFunc(c.Groups, func(g Group) bool { return g.Name == group })
	if i < 0 {
		i = len(c.Groups)
		c.Groups = append(c.Groups, Group{Name: group})
	}
	c.Groups[i].Items = append(c.Groups[i].Items, items...)
	for _, item := range items {
		c.State = Worse(c.State, item.State)
		switch item.State {
		case OK:
			c.OK++
		case Warning:
			c.Warnings++
		case Problem:
			c.Problems++
		}
	}
}
