package plugin

import (
	"errors"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

var errNoCredential = errors.New("the snapshot location has no credential; set spec.credential to a secret key that holds CA certificate, client certificate and client key in PEM")

// connect returns the agents of a location. It does not touch the network.
func connect(loc zfssnap.Location, pem []byte) (zfssnap.Agents, error) {
	if len(pem) == 0 {
		return nil, errNoCredential
	}
	bundle, err := agent.ParseBundle(pem)
	if err != nil {
		return nil, err
	}
	return agents{agent.NewDirectoryWith(loc.Agents, bundle)}, nil
}

// agents is a directory of agents as zfssnap wants it.
type agents struct{ *agent.Directory }

func (a agents) Agent(node string) (zfssnap.Agent, error) {
	c, err := a.Client(node)
	switch {
	case errors.Is(err, agent.ErrNotFound):
		return nil, &zfssnap.NoAgentError{Node: node}
	case err != nil:
		return nil, err
	}
	return c, nil
}
