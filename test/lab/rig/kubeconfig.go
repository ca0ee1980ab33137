package rig

import (
	"os"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/pki"
)

// access is one way into one cluster.
type access struct {
	context, server string
	// pair names the client's certificate.
	pair string
}

// kubeconfig embeds authority, certificate and key, so that the file can be
// carried elsewhere. The first access is the current context.
func kubeconfig(d pki.Dir, all ...access) ([]byte, error) {
	type object = map[string]any
	var clusters, users, contexts []object
	for _, a := range all {
		var pems [3][]byte
		for i, file := range []string{d.CA(), d.Cert(a.pair), d.Key(a.pair)} {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			pems[i] = data
		}
		// []byte is written as base64, which is what the format asks for.
		clusters = append(clusters, object{"name": a.context, "cluster": object{
			"server": a.server, "certificate-authority-data": pems[0]}})
		users = append(users, object{"name": a.context, "user": object{
			"client-certificate-data": pems[1], "client-key-data": pems[2]}})
		contexts = append(contexts, object{"name": a.context, "context": object{
			"cluster": a.context, "user": a.context}})
	}
	return yaml.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": all[0].context,
		"clusters": clusters, "users": users, "contexts": contexts,
	})
}
