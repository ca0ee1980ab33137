package rules

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// imageMap maps beginnings of image names: registries, or registries and
// repositories.
type imageMap struct {
	edit   *edit
	images map[string]string
}

// lookup takes the longest beginning that ends where a part of the name ends. An
// image of no registry is Docker Hub's, as container runtimes have it.
func (m imageMap) lookup(image string) (string, HostMode, bool) {
	full := fullImage(image)
	best := ""
	for from, to := range m.images {
		if startsImage(full, to) {
			return "", "", false
		}
		if startsImage(full, from) && len(from) > len(best) {
			best = from
		}
	}
	if best == "" {
		return "", "", false
	}
	m.edit.use("images[" + best + "]")
	return m.images[best] + full[len(best):], HostReplace, true
}

// startsImage reports whether an image's name begins with whole parts. What
// follows a registry's colon is its port, a repository's its tag.
func startsImage(image, beginning string) bool {
	rest, ok := strings.CutPrefix(image, beginning)
	if !strings.Contains(beginning, "/") {
		return ok && strings.HasPrefix(rest, "/")
	}
	return ok && (rest == "" || strings.IndexByte("/:@", rest[0]) >= 0)
}

func fullImage(image string) string {
	first, _, several := strings.Cut(image, "/")
	switch {
	case !several:
		return "docker.io/library/" + image
	case strings.ContainsAny(first, ".:") || first == "localhost":
		return image
	}
	return "docker.io/" + image
}

func rewriteImages(e *edit, p *Rewrites) error {
	if len(p.Images) == 0 {
		return nil
	}
	return e.places("images", imageMap{e, p.Images})
}

// formRegistries are credentials by registry, as Docker keeps them: those for a
// registry that images map from are there for the one that they map to, too.
var formRegistries = &form{"credentials by registry", func(e *edit, m mapper, at path) error {
	text, plain := e.str(at...), at[0] == "stringData"
	if !plain {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		text = string(raw)
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return fmt.Errorf("read %s: it is no JSON object", at) // what it is may be a password
	}
	auths := config
	if at[1] == ".dockerconfigjson" {
		auths, _ = config["auths"].(map[string]any)
	}
	if !m.(imageMap).addCredentials(auths) {
		return nil
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if plain {
		e.set(string(raw), at...)
	} else {
		e.set(base64.StdEncoding.EncodeToString(raw), at...)
	}
	return nil
}}

// addCredentials reports whether it added some. Those that are there stay.
func (m imageMap) addCredentials(auths map[string]any) bool {
	added := false
	for _, from := range sortedKeys(m.images) {
		registry, _, _ := strings.Cut(m.images[from], "/")
		for _, key := range sortedKeys(auths) {
			if _, there := auths[registry]; !there && authRegistry(key) == authRegistry(from) {
				auths[registry] = auths[key]
				m.edit.use("images[" + from + "]")
				added = true
			}
		}
	}
	return added
}

// authRegistry returns the registry that a key of credentials is for, or the
// beginning of an image's name. Docker Hub's key is its API's address.
func authRegistry(key string) string {
	if _, rest, url := strings.Cut(key, "://"); url {
		key = rest
	}
	registry, _, _ := strings.Cut(key, "/")
	if registry == "index.docker.io" {
		return "docker.io"
	}
	return registry
}
