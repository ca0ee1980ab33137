package rules

func rewriteDrop(e *edit, p *Profile) error {
	for _, s := range p.Drop {
		if isKind(e.orig, s.Kind) &&
			(s.Name == "" || s.Name == e.orig.GetName()) &&
			(s.Namespace == "" || s.Namespace == e.orig.GetNamespace()) {
			e.drop = true
		}
	}
	return nil
}
