package rules

import "strings"

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
