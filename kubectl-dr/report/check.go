package report

import "slices"

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
