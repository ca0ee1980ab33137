package rig

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// Row is one part of the rig.
type Row struct {
	Name string
	// State is running, starting (it runs but does not answer yet) or stopped.
	State    string
	PID      int
	Port     int
	Resident int64
	Log      string
}

// Running is the state of a part that does its work.
const (
	Running  = "running"
	Starting = "starting"
	Stopped  = "stopped"
)

// Status tells how each part is, in the order in which they start.
func (r *Rig) Status(ctx context.Context) []Row {
	parts := r.parts()
	rows := make([]Row, len(parts))
	var asking sync.WaitGroup
	for i, p := range parts {
		asking.Go(func() {
			row := Row{Name: p.name, State: Stopped, Port: p.port, Log: p.log}
			if id := r.process(p.name); id.Alive() {
				row.State, row.PID, row.Resident = Starting, id.PID, id.Resident()
				if probe(ctx, p) == nil {
					row.State = Running
				}
			}
			rows[i] = row
		})
	}
	asking.Wait()
	return rows
}

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// Environment is what programs need to know to work with the rig.
func (r *Rig) Environment() []Variable {
	vars := []Variable{
		{"LAB_DIR", r.Dir},
		{"LAB_AGENTS", r.agents()},
	}
	for _, n := range nodes {
		vars = append(vars, Variable{"LAB_AGENT_" + strings.ToUpper(n.name), r.AgentAddress(n.name)})
	}
	vars = append(vars,
		Variable{"LAB_CLIENT_BUNDLE", r.PKI().Bundle("kubectl-dr")},
		Variable{"LAB_VELERO_BUNDLE", r.PKI().Bundle("velero")},
		Variable{"LAB_FOREIGN_BUNDLE", r.PKI().Bundle("foreign")},
	)
	vars = append(vars,
		Variable{"LAB_S3_ENDPOINT", fmt.Sprintf("http://%s", local(r.port("s3")))},
		Variable{"LAB_S3_BUCKET", bucket},
		Variable{"LAB_S3_CREDENTIALS", r.S3Credentials()},
	)
	if r.state.Light {
		return vars
	}
	return append(vars,
		Variable{"PRIMARY_KUBECONFIG", r.Kubeconfig("primary")},
		Variable{"DR_KUBECONFIG", r.Kubeconfig("dr")},
		Variable{"KUBECONFIG", r.MergedKubeconfig()},
	)
}
